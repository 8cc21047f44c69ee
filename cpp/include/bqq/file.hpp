// Files: safetensors containers that hold compressed matrices beside ordinary tensors. Byte by byte in cpp/FORMAT.md.
#pragma once

#include "bqq/array.hpp"
#include "bqq/matrix.hpp"
#include "bqq/tensor.hpp"

#include <map>
#include <memory>

namespace bqq {

struct NamedMatrix {
    std::string name;
    View view;
};

struct SaveOptions {
    Dtype scales = Dtype::f32;                   ///< how scales are stored: f32, or f16, which halves them and rounds
    std::map<std::string, std::string> metadata; ///< extra __metadata__ entries; keys "bqq" and "bqq.*" are reserved
};

/// Writes all matrices and tensors to `path`: to a temporary file beside it, synced, then renamed, so that a reader or
/// a crash sees the old file or the new one, never a part. The same content gives the same bytes. Names are UTF-8,
/// distinct over matrices and tensors together; names of tensors must not end as those of a matrix do (FORMAT.md). What
/// is at `path` and no regular file (a FIFO, a device) stays as it is. Throws Error(invalid_argument | format | io).
BQQ_API void save(const std::string& path, const std::vector<NamedMatrix>& matrices,
                  const std::vector<Tensor>& tensors = {}, const SaveOptions& options = {});

/// What the header of a container says of a compressed matrix.
struct StoredMatrix {
    std::string name;
    Layout layout;
    Dtype scales = Dtype::f32; ///< as stored; a View has them as float32
    std::size_t nbytes = 0;    ///< all of its tensors as stored
};

/// A container opened for reading. Copies share the bytes; views and tensors point into them and live as long as the
/// last copy. Tensor data may lie at any alignment. Any number of threads may read.
/// Opening parses bounds-safely and checks the structure: header, names, shapes, dtypes, sizes. A malformed or
/// truncated file throws Error(format), an unreadable one Error(io). A file without compressed matrices is legal.
class BQQ_API File {
  public:
    /// Maps the file: O(header), planes are read when they are touched. Replacing the file (as save does) is harmless
    /// while it is open; truncating or overwriting it in place is not: touching what is gone ends the process.
    static File open(const std::string& path);
    /// Reads the whole file into memory first. One that somebody cuts short meanwhile throws Error(format).
    static File read(const std::string& path);

    /// A file that lies in memory of the caller's, at any alignment, which must outlive it and its views; O(header).
    static File open(const void* data, std::size_t size);

    const std::vector<StoredMatrix>& matrices() const;          ///< sorted by name
    const std::vector<Tensor>& tensors() const;                 ///< the other tensors, sorted by name
    const std::map<std::string, std::string>& metadata() const; ///< without the library's own keys
    bool mapped() const;                                        ///< opened, not read

    /// The matrix called `name`. The first call for a matrix checks its checksum and its bits, O(bytes), and decodes
    /// scales that are not stored as aligned float32; Error(format) if it is corrupt. An unknown name is
    /// Error(invalid_argument) with the names there are.
    View matrix(const std::string& name) const;

  private:
    struct Impl;
    explicit File(std::shared_ptr<const Impl> impl);
    std::shared_ptr<const Impl> impl_;
};

} // namespace bqq
