#include "file/output.hpp"

#include "file/mapping.hpp"
#include "file/text.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <system_error>

#ifdef _WIN32
#include <filesystem>
#include <fstream>
#include <process.h>
#else
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace bqq::detail {

namespace {

/// Short and not derived from the final name, which may already be as long as the file system allows.
std::string temporary_name(long pid) {
    static std::atomic<unsigned> counter{0};
    return ".bqq-" + std::to_string(pid) + "-" + std::to_string(counter++) + ".tmp";
}

[[noreturn]] void fail_irregular(const std::string& path) {
    throw Error(ErrorCode::io, "cannot replace " + quote(path) + ": not a regular file");
}

} // namespace

#ifndef _WIN32

struct Output::Impl {
    explicit Impl(const std::string& target) : target_(target) {
        struct stat old;
        const bool exists = ::stat(target.c_str(), &old) == 0;
        if (exists && !S_ISREG(old.st_mode)) fail_irregular(target);
        const std::size_t slash = target.rfind('/');
        directory_ = slash == std::string::npos ? "." : slash == 0 ? "/" : target.substr(0, slash);
        for (int attempt = 0; attempt < 1000 && fd_ < 0; ++attempt) { // a killed process may have left our name
            path_ = directory_ + "/" + temporary_name(long(::getpid()));
            fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
            if (fd_ < 0 && errno != EEXIST && errno != EINTR) break;
        }
        if (fd_ < 0) fail_io("create a file beside", target, errno);
        if (exists) (void)::fchmod(fd_, old.st_mode & 0777); // a replaced file keeps its permissions where it can
    }
    Impl(const Impl&) = delete;
    Impl& operator=(const Impl&) = delete;
    ~Impl() {
        if (fd_ >= 0) ::close(fd_);
        if (!path_.empty()) ::unlink(path_.c_str());
    }

    void write(const void* data, std::size_t size) {
        const char* p = static_cast<const char*>(data);
        while (size) {
            const ssize_t n = ::write(fd_, p, std::min<std::size_t>(size, std::size_t(1) << 30));
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) fail_io("write", target_, n < 0 ? errno : ENOSPC);
            p += n;
            size -= std::size_t(n);
        }
    }

    void commit() {
        if (sync(fd_) != 0) fail_io("sync", target_, errno);
        const int fd = fd_;
        fd_ = -1;
        if (::close(fd) != 0 && errno != EINTR) fail_io("write", target_, errno);
        if (::rename(path_.c_str(), target_.c_str()) != 0) fail_io("replace", target_, errno);
        path_.clear();
        // Some directories cannot be opened and some file systems cannot sync one: the rename is still atomic.
        const int directory = ::open(directory_.c_str(), O_RDONLY | O_CLOEXEC);
        if (directory < 0) return;
        const int error = ::fsync(directory) != 0 ? errno : 0;
        ::close(directory);
        if (error == EIO || error == ENOSPC || error == EDQUOT) fail_io("sync the directory of", target_, error);
    }

    static int sync(int fd) {
#ifdef F_FULLFSYNC
        if (::fcntl(fd, F_FULLFSYNC) == 0) return 0;
#endif
        int r;
        do r = ::fsync(fd);
        while (r != 0 && errno == EINTR);
        return r != 0 && (errno == EINVAL || errno == ENOTSUP) ? 0 : r;
    }

    std::string target_, directory_, path_;
    int fd_ = -1;
};

#else

struct Output::Impl {
    explicit Impl(const std::string& target)
        : target_(target), final_(std::filesystem::u8path(target)),
          path_(final_.parent_path() / temporary_name(long(_getpid()))) {
        if (std::filesystem::exists(final_) && !std::filesystem::is_regular_file(final_)) fail_irregular(target);
        out_.open(path_, std::ios::binary | std::ios::trunc);
        if (!out_) fail_io("create a file beside", target, errno);
    }
    ~Impl() {
        out_.close();
        std::error_code ignored;
        if (!path_.empty()) std::filesystem::remove(path_, ignored);
    }
    void write(const void* data, std::size_t size) {
        if (size && !out_.write(static_cast<const char*>(data), std::streamsize(size)))
            fail_io("write", target_, errno);
    }
    void commit() {
        out_.close();
        if (!out_) fail_io("write", target_, errno);
        std::error_code error;
        std::filesystem::rename(path_, final_, error);
        if (error) throw Error(ErrorCode::io, "cannot replace " + quote(target_) + ": " + error.message());
        path_.clear();
    }

    std::string target_;
    std::filesystem::path final_, path_;
    std::ofstream out_;
};

#endif

Output::Output(const std::string& path) : impl_(std::make_unique<Impl>(path)) {}
Output::~Output() = default;
void Output::write(const void* data, std::size_t size) { impl_->write(data, size); }
void Output::commit() { impl_->commit(); }

} // namespace bqq::detail
