#include "file/output.hpp"

#include "file/crc32.hpp"
#include "file/mapping.hpp"
#include "file/text.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>

#ifdef _WIN32
#include <filesystem>
#include <fstream>
#include <process.h>
#else
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace bqq::detail {

namespace {

/// The name a file has until it is whole, one of a few for each `name` it gets then. Short: that one may already be as
/// long as the file system allows.
std::string temporary_name(const std::string& name, int slot) {
    char hash[9];
    const std::uint32_t crc = crc32(reinterpret_cast<const std::uint8_t*>(name.data()), name.size());
    std::snprintf(hash, sizeof hash, "%08x", unsigned(crc));
    return std::string(".bqq-") + hash + "-" + std::to_string(slot) + ".tmp";
}
constexpr int kSlots = 1000; // that many may write a file of one name at once

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
        const std::string name = slash == std::string::npos ? target : target.substr(slash + 1);
        const auto path = [&](int slot) { return directory_ + "/" + temporary_name(name, slot); };
        int slot = 0;
        for (; slot < kSlots && fd_ < 0; ++slot) {
            path_ = path(slot);
            remove_abandoned(path_);
            if (!create(exists ? 0600 : 0666) && errno != EEXIST) break; // what was private never is readable
        }
        if (fd_ < 0) fail_io("create a file beside", target, errno);
        while (slot < kSlots && remove_abandoned(path(slot))) ++slot;
        if (exists) (void)::fchmod(fd_, old.st_mode & 0777); // a replaced file keeps its permissions where it can
    }
    Impl(const Impl&) = delete;
    Impl& operator=(const Impl&) = delete;

    /// The file at path_, locked as long as this process writes it; false, with errno, if there is none to be had.
    bool create(mode_t mode) {
        int fd;
        do fd = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
        while (fd < 0 && errno == EINTR);
        if (fd < 0) return path_.clear(), false;
        struct stat info;
        const bool busy = ::flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
        if (busy || (::fstat(fd, &info) == 0 && info.st_nlink == 0)) { // taken for abandoned before it was locked
            ::close(fd);
            errno = EEXIST;
            return path_.clear(), false;
        }
        fd_ = fd;
        return true;
    }

    /// Removes what a process that was killed has left: nobody holds its lock. False if there is nothing at `path`.
    /// Where there are no locks all stays.
    static bool remove_abandoned(const std::string& path) {
        const int fd = ::open(path.c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0) return errno != ENOENT;
        struct stat ours, there; // only who holds its lock removes a file: what is still there stays until then
        if (::flock(fd, LOCK_EX | LOCK_NB) == 0 && ::fstat(fd, &ours) == 0 && ::lstat(path.c_str(), &there) == 0 &&
            ours.st_ino == there.st_ino && ours.st_dev == there.st_dev)
            ::unlink(path.c_str());
        ::close(fd);
        return true;
    }

    ~Impl() {
        if (!path_.empty()) ::unlink(path_.c_str()); // while it is locked
        if (fd_ >= 0) ::close(fd_);
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
        if (::rename(path_.c_str(), target_.c_str()) != 0) fail_io("replace", target_, errno);
        path_.clear();
        ::close(fd_); // not before: it ends the lock; all was synced
        fd_ = -1;
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
          path_(final_.parent_path() / temporary_name(target, int(_getpid()))) {
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
