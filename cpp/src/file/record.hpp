// How a compressed matrix lies in a container: three tensors, one metadata entry, a checksum (cpp/FORMAT.md).
#pragma once

#include "bqq/array.hpp"
#include "bqq/matrix.hpp"
#include "bqq/tensor.hpp"

namespace bqq::detail {

constexpr char kY[] = ".bqq_y", kZ[] = ".bqq_z", kScales[] = ".bqq_scales"; ///< endings of the tensors' names

bool is_part_name(const std::string& name);
std::vector<Index> y_shape(const Layout& a);
std::vector<Index> z_shape(const Layout& a);
std::vector<Index> scales_shape(const Layout& a);

/// The metadata entry: a JSON object of exactly six keys.
struct Record {
    Layout layout;
    std::uint32_t crc = 0;
};
std::string write_record(const Record& r);
/// Throws Error(format) that begins with `where`. Sums and products of two numbers of the layout fit 64 bits.
Record read_record(const std::string& record, const std::string& where);

std::uint32_t checksum(const std::string& name, const Layout& a, const std::uint8_t* y, const std::uint8_t* z,
                       const std::uint8_t* scales, std::size_t scales_bytes);

/// How scales may be stored: everything about one way stands in the table in record.cpp.
struct ScaleType {
    Dtype dtype;
    const char* stored; ///< dtype of the tensor
    const char* name;
    std::size_t size;
    float largest;
    void (*encode)(float value, std::uint8_t* out);
    float (*decode)(const std::uint8_t* in);
};
const ScaleType* scale_type(const std::string& stored); ///< null if it is none
const ScaleType& scale_type(Dtype dtype);               ///< Error(invalid_argument) names those there are
std::string scale_types(const char* ScaleType::* what); ///< "F32 or F16"

/// `what`: the matrix, for Error(invalid_argument) about a scale that the type cannot hold.
std::vector<std::uint8_t> encode_scales(const View& q, const ScaleType& type, const std::string& what);
std::vector<float> decode_scales(const Tensor& t, const ScaleType& type);
/// The scales where they lie, if they are float32 of this machine; else null.
const float* scales_in_place(const Tensor& t, const ScaleType& type);

} // namespace bqq::detail
