// The container: safetensors files, knowing nothing of compressed matrices.
#pragma once

#include "bqq/tensor.hpp"

#include <map>

namespace bqq::detail {

/// Bits of one element of a safetensors dtype, 0 for a name that is not known.
Index item_bits(const std::string& dtype) noexcept;

/// Size of prod(shape) elements into `bytes`; or what is wrong with the shape: negative, overflows, no whole bytes.
const char* tensor_bytes(const std::vector<Index>& shape, Index bits, std::size_t& bytes) noexcept;

/// "[3,5]"; long ones are cut.
std::string shape_text(const std::vector<Index>& shape);

struct Container {
    std::vector<Tensor> tensors; ///< in the order of their data, which they share with the bytes parsed
    std::map<std::string, std::string> metadata;
};

/// Parses a whole file held in memory. Never reads outside [bytes, bytes + size) whatever they hold. Every rule of the
/// format is checked: header length and JSON, dtypes, sizes, and that the tensors cover the data without overlap or
/// hole. Throws Error(format) whose text begins with `where`.
Container parse_safetensors(const std::uint8_t* bytes, std::size_t size, const std::string& where);

/// Writes a container: tensors by item size, largest first, then by name, so that all are aligned to their elements.
/// The file appears whole or not at all: written beside `path`, synced, renamed. The tensors must be consistent (names
/// distinct and UTF-8, sizes as tensor_bytes). The same arguments give the same bytes. Throws Error(io).
void write_safetensors(const std::string& path, std::vector<Tensor> tensors,
                       const std::map<std::string, std::string>& metadata);

} // namespace bqq::detail
