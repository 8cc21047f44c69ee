#include "file/mapping.hpp"

#include "file/text.hpp"

#include <algorithm>
#include <cerrno>
#include <system_error>

#ifdef _WIN32
#include <filesystem>
#include <fstream>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace bqq::detail {

void fail_io(const char* what, const std::string& path, int error) {
    throw Error(ErrorCode::io,
                std::string("cannot ") + what + " " + quote(path) + ": " + std::generic_category().message(error),
                error);
}

#ifdef _WIN32

Mapping::Mapping(const std::string& path, bool) {
    std::ifstream in(std::filesystem::u8path(path), std::ios::binary | std::ios::ate);
    if (!in) fail_io("open", path, errno);
    const std::streamoff size = in.tellg();
    if (size < 0) fail_io("read", path, errno);
    size_ = std::size_t(size);
    memory_ = AlignedMemory(size_);
    data_ = static_cast<const std::uint8_t*>(memory_.data());
    in.seekg(0);
    if (size_ && !in.read(static_cast<char*>(memory_.data()), size)) fail_io("read", path, errno);
}

Mapping::~Mapping() = default;

#else

namespace {

struct Descriptor {
    int fd;
    ~Descriptor() {
        if (fd >= 0) ::close(fd);
    }
};

} // namespace

Mapping::Mapping(const std::string& path, bool read) {
    const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)}; // a FIFO must not block
    if (file.fd < 0) fail_io("open", path, errno);
    struct stat info;
    if (::fstat(file.fd, &info) != 0) fail_io("read", path, errno);
    if (!S_ISREG(info.st_mode)) throw Error(ErrorCode::io, "cannot read " + quote(path) + ": not a regular file");
    size_ = std::size_t(info.st_size);
    if (!read) {
        if (!size_) return;
        void* const map = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
        if (map == MAP_FAILED) fail_io("map", path, errno);
        data_ = static_cast<const std::uint8_t*>(map);
        mapped_ = true;
        return;
    }
    memory_ = AlignedMemory(size_);
    auto* const bytes = static_cast<std::uint8_t*>(memory_.data());
    data_ = bytes;
    for (std::size_t done = 0; done < size_;) {
        const ssize_t n = ::read(file.fd, bytes + done, std::min<std::size_t>(size_ - done, std::size_t(1) << 30));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) fail_io("read", path, errno);
        if (n == 0)
            throw Error(ErrorCode::format, quote(path) + ": the file ended after " + std::to_string(done) + " of " +
                                               std::to_string(size_) + " bytes: cut short while it was read");
        done += std::size_t(n);
    }
}

Mapping::~Mapping() {
    if (mapped_) ::munmap(const_cast<std::uint8_t*>(data_), size_);
}

#endif

} // namespace bqq::detail
