// Codecs and indexes in files: cpp/FORMAT.md, "A codec".
#pragma once

#include "bqq/file.hpp"
#include "codec/packed.hpp"

namespace bqq::detail {

void save_codec(const std::string& path, const Codec& codec);
void save_index(const std::string& path, const Codec& codec, const Packed& packed,
                const std::vector<std::int64_t>& ids);

/// A file with a codec, its checksum checked. Throws Error(format | io).
class CodecFile {
  public:
    /// with_index: there must be codes, which stay where they are.
    static CodecFile open(const std::string& path, bool with_index);
    Codec codec() const { return codec_; }
    std::vector<std::int64_t> ids() const;
    void share(Packed& packed) const;
    [[noreturn]] void fail(const std::string& what) const;

  private:
    CodecFile(std::shared_ptr<const File> file, Codec codec, std::string where)
        : file_(std::move(file)), codec_(std::move(codec)), where_(std::move(where)) {}
    const Tensor& tensor(const std::string& name) const;

    std::shared_ptr<const File> file_;
    Codec codec_;
    std::string where_;
};

} // namespace bqq::detail
