#include "file/safetensors.hpp"

#include "file/json.hpp"

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

constexpr std::size_t kMaxHeader = 100'000'000; // the limit of the safetensors format
constexpr char kMetadata[] = "__metadata__";

struct Dtype {
    const char* name;
    Index size;
};
constexpr Dtype kDtypes[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"F8_E8M0", 1},
                             {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},     {"U32", 4},
                             {"F32", 4},  {"F64", 8}, {"I64", 8}, {"U64", 8},     {"C64", 8}};

struct Range {
    std::size_t begin, end;
    std::size_t tensor;
};

std::string text(const std::vector<Index>& shape) {
    std::string s = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) {
        if (i == 8) return s + ",...]";
        s += (i ? "," : "") + std::to_string(shape[i]);
    }
    return s + "]";
}

/// One entry of the header: {"dtype":..., "shape":[...], "data_offsets":[begin,end]}, other keys ignored.
Tensor parse_entry(JsonReader& json, const std::string& name, std::size_t data_size, std::size_t& begin,
                   std::size_t& end) {
    Tensor t;
    t.name = name;
    std::vector<Index> offsets;
    bool dtype = false, shape = false;
    json.object([&](const std::string& key) {
        if (key == "dtype") {
            t.dtype = json.string();
            dtype = true;
        } else if (key == "shape") {
            json.array([&] { t.shape.push_back(json.integer()); });
            shape = true;
        } else if (key == "data_offsets") {
            json.array([&] {
                if (offsets.size() == 2)
                    json.fail("data_offsets of tensor " + quote(name) + " has more than 2 numbers");
                offsets.push_back(json.integer());
            });
        } else {
            json.skip();
        }
    });
    const auto bad = [&](const std::string& what) { json.fail("tensor " + quote(name) + ": " + what); };
    if (!dtype || !shape || offsets.size() != 2) bad("expected dtype, shape and two data_offsets");
    const Index item = item_size(t.dtype);
    if (!item) bad("unknown dtype " + quote(t.dtype));
    if (!tensor_bytes(t.shape, item, t.nbytes)) bad("shape " + text(t.shape) + " overflows");
    if (offsets[0] > offsets[1] || std::uint64_t(offsets[1]) > data_size)
        bad("data_offsets " + text(offsets) + " are not a range within the " + std::to_string(data_size) +
            " bytes of data: the file is truncated or corrupt");
    begin = std::size_t(offsets[0]);
    end = std::size_t(offsets[1]);
    if (end - begin != t.nbytes)
        bad("data_offsets span " + std::to_string(end - begin) + " bytes, expected " + std::to_string(t.nbytes) +
            " for " + t.dtype + " " + text(t.shape));
    return t;
}

std::string make_header(const std::vector<Tensor>& tensors, const std::map<std::string, std::string>& metadata) {
    std::string h = "{";
    if (!metadata.empty()) {
        append_json(h, kMetadata);
        h += ":{";
        for (const auto& [key, value] : metadata) {
            if (h.back() != '{') h += ',';
            append_json(h, key);
            h += ':';
            append_json(h, value);
        }
        h += '}';
    }
    std::size_t begin = 0;
    for (const Tensor& t : tensors) {
        if (h.size() > 1) h += ',';
        append_json(h, t.name);
        h += ":{\"dtype\":\"" + t.dtype + "\",\"shape\":[";
        for (std::size_t i = 0; i < t.shape.size(); ++i) h += (i ? "," : "") + std::to_string(t.shape[i]);
        h += "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(begin + t.nbytes) + "]}";
        begin += t.nbytes;
    }
    h += '}';
    while (h.size() % 8) h += ' ';
    return h;
}

/// Short and not derived from the final name, which may already be as long as the file system allows.
std::string temporary_name(long pid) {
    static std::atomic<unsigned> counter{0};
    return ".bqq-" + std::to_string(pid) + "-" + std::to_string(counter++) + ".tmp";
}

[[noreturn]] void fail_io(const char* what, const std::string& path, int error) {
    throw Error(ErrorCode::io,
                std::string("cannot ") + what + " " + quote(path) + ": " + std::generic_category().message(error));
}

#ifndef _WIN32

class TemporaryFile {
  public:
    explicit TemporaryFile(const std::string& target) : target_(target) {
        const std::size_t slash = target.rfind('/');
        directory_ = slash == std::string::npos ? "." : slash == 0 ? "/" : target.substr(0, slash);
        for (int attempt = 0; attempt < 1000 && fd_ < 0; ++attempt) { // a killed process may have left our name
            path_ = directory_ + "/" + temporary_name(long(::getpid()));
            fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
            if (fd_ < 0 && errno != EEXIST && errno != EINTR) break;
        }
        if (fd_ < 0) fail_io("create a file beside", target, errno);
        struct stat old;
        if (::stat(target.c_str(), &old) == 0 && S_ISREG(old.st_mode))
            (void)::fchmod(fd_, old.st_mode & 0777); // a replaced file keeps its permissions where it can
    }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;
    ~TemporaryFile() {
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

  private:
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

class TemporaryFile {
  public:
    explicit TemporaryFile(const std::string& target)
        : target_(target), final_(std::filesystem::u8path(target)),
          path_(final_.parent_path() / temporary_name(long(_getpid()))) {
        out_.open(path_, std::ios::binary | std::ios::trunc);
        if (!out_) fail_io("create a file beside", target, errno);
    }
    ~TemporaryFile() {
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

  private:
    std::string target_;
    std::filesystem::path final_, path_;
    std::ofstream out_;
};

#endif

} // namespace

Index item_size(const std::string& dtype) noexcept {
    for (const Dtype& d : kDtypes)
        if (dtype == d.name) return d.size;
    return 0;
}

bool tensor_bytes(const std::vector<Index>& shape, Index item, std::size_t& bytes) noexcept {
    const std::uint64_t limit = std::min<std::uint64_t>(INT64_MAX, SIZE_MAX);
    std::uint64_t product = std::uint64_t(item);
    for (const Index d : shape) {
        if (d < 0 || (d > 0 && product > limit / std::uint64_t(d))) return false;
        product *= std::uint64_t(d);
    }
    bytes = std::size_t(product);
    return true;
}

Container parse_safetensors(const std::uint8_t* bytes, std::size_t size, const std::string& where) {
    const auto bad = [&](const std::string& what) { throw Error(ErrorCode::format, where + ": " + what); };
    if (size < 8) bad("the file has " + std::to_string(size) + " bytes, a safetensors file has at least 10");
    std::uint64_t length = 0;
    for (int i = 7; i >= 0; --i) length = length << 8 | bytes[i];
    if (length > kMaxHeader)
        bad("header length " + std::to_string(length) + " is above " + std::to_string(kMaxHeader) +
            ": not a safetensors file");
    if (length > size - 8)
        bad("header length " + std::to_string(length) + " reaches beyond the file of " + std::to_string(size) +
            " bytes: truncated or not a safetensors file");
    if (length == 0 || bytes[8] != '{') bad("the header does not begin with '{': not a safetensors file");

    const std::size_t data_size = size - 8 - std::size_t(length);
    const std::uint8_t* data = bytes + 8 + length;
    Container c;
    std::vector<Range> ranges;
    JsonReader json(reinterpret_cast<const char*>(bytes) + 8, std::size_t(length), where + ": header");
    json.object([&](const std::string& name) {
        if (name == kMetadata) {
            json.object([&](const std::string& key) { c.metadata[key] = json.string(); });
            return;
        }
        if (name.find('\0') != std::string::npos) json.fail("tensor name " + quote(name) + " contains NUL");
        Range r{0, 0, ranges.size()};
        c.tensors.push_back(parse_entry(json, name, data_size, r.begin, r.end));
        c.tensors.back().data = data + r.begin;
        ranges.push_back(r);
    });
    json.finish();

    std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
        return a.begin != b.begin ? a.begin < b.begin : a.end != b.end ? a.end < b.end : a.tensor < b.tensor;
    });
    std::size_t reached = 0;
    std::vector<Tensor> sorted;
    sorted.reserve(ranges.size());
    for (const Range& r : ranges) {
        Tensor& t = c.tensors[r.tensor];
        if (r.begin != reached)
            bad("tensor " + quote(t.name) + " begins at byte " + std::to_string(r.begin) + " of the data, expected " +
                std::to_string(reached) + ": tensors overlap or leave a hole");
        reached = r.end;
        sorted.push_back(std::move(t));
    }
    if (reached != data_size)
        bad("the tensors end at byte " + std::to_string(reached) + " of the data, but there are " +
            std::to_string(data_size) + " bytes");
    c.tensors = std::move(sorted);
    return c;
}

void write_safetensors(const std::string& path, std::vector<Tensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
    std::sort(tensors.begin(), tensors.end(), [](const Tensor& a, const Tensor& b) {
        const Index sa = item_size(a.dtype), sb = item_size(b.dtype);
        return sa != sb ? sa > sb : a.name < b.name;
    });
    const std::string header = make_header(tensors, metadata);
    if (header.size() > kMaxHeader)
        throw Error(ErrorCode::invalid_argument, "cannot write " + quote(path) + ": the header needs " +
                                                     std::to_string(header.size()) +
                                                     " bytes, a safetensors file allows " + std::to_string(kMaxHeader));
    std::uint8_t length[8];
    for (int i = 0; i < 8; ++i) length[i] = std::uint8_t(std::uint64_t(header.size()) >> 8 * i);

    TemporaryFile file(path);
    file.write(length, sizeof length);
    file.write(header.data(), header.size());
    for (const Tensor& t : tensors) file.write(t.data, t.nbytes);
    file.commit();
}

} // namespace bqq::detail
