// Files: safetensors containers that hold compressed matrices beside ordinary tensors. Byte by byte in cpp/FORMAT.md.
#pragma once

#include "bqq/matrix.hpp"

#include <map>
#include <memory>

namespace bqq {

/// An ordinary tensor of a container: its bytes pass through untouched.
struct Tensor {
    std::string name;
    std::string dtype; ///< safetensors name: F64 F32 F16 BF16 I64 ... BOOL
    std::vector<Index> shape;
    const std::uint8_t* data = nullptr;
    std::size_t nbytes = 0;
};

struct NamedMatrix {
    std::string name;
    View view;
};

struct SaveOptions {
    bool scales_f16 = false;                     ///< store scales as float16 (halves them; rounds)
    std::map<std::string, std::string> metadata; ///< extra __metadata__ entries; keys "bqq" and "bqq.*" are reserved
};

/// Writes all matrices and tensors to `path`: to a temporary file beside it, synced, then renamed, so that a reader or
/// a crash sees the old file or the new one, never a part. The same content gives the same bytes. Names are UTF-8,
/// distinct over matrices and tensors together; names of tensors must not end in .bqq_y, .bqq_z or .bqq_scales.
/// Throws Error(invalid_argument | format | io).
BQQ_API void save(const std::string& path, const std::vector<NamedMatrix>& matrices,
                  const std::vector<Tensor>& tensors = {}, const SaveOptions& options = {});

/// A container opened for reading, memory-mapped. Views and tensors point into the mapping and live as long as File.
/// Tensor data may lie at any alignment. Replacing the file (as save does) is harmless while it is open; truncating or
/// overwriting it in place is not.
/// open() parses bounds-safely and checks every matrix (sizes, checksum, validate()); a malformed, truncated or corrupt
/// file throws Error(format), an unreadable one Error(io). A file without compressed matrices is legal.
class BQQ_API File {
  public:
    static File open(const std::string& path);
    File(File&&) noexcept;
    File& operator=(File&&) noexcept;
    ~File();

    const std::vector<NamedMatrix>& matrices() const;           ///< sorted by name
    const std::vector<Tensor>& tensors() const;                 ///< the other tensors, sorted by name
    const std::map<std::string, std::string>& metadata() const; ///< without the library's own keys
    /// The view called `name`; Error(invalid_argument) lists the names there are.
    View matrix(const std::string& name) const;

  private:
    struct Impl;
    explicit File(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

} // namespace bqq
