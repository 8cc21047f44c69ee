#include "bqq/file.hpp"

#include "arguments.hpp"
#include "file/crc32.hpp"
#include "file/json.hpp"
#include "file/safetensors.hpp"
#include "half.hpp"

#include <algorithm>
#include <cerrno>
#include <set>
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

namespace bqq {

namespace {

using namespace detail;

constexpr char kVersion[] = "1"; // of the format: FORMAT.md
constexpr char kKey[] = "bqq", kKeyDot[] = "bqq.";
constexpr char kY[] = ".bqq_y", kZ[] = ".bqq_z", kScales[] = ".bqq_scales";

bool ends_with(const std::string& s, const std::string& end) {
    return s.size() >= end.size() && s.compare(s.size() - end.size(), end.size(), end) == 0;
}
bool starts_with(const std::string& s, const std::string& start) { return s.compare(0, start.size(), start) == 0; }
bool is_part_name(const std::string& s) { return ends_with(s, kY) || ends_with(s, kZ) || ends_with(s, kScales); }

std::string text(const std::vector<Index>& shape) {
    std::string s;
    for (const Index d : shape) s += (s.empty() ? "" : ",") + std::to_string(d);
    return "[" + s + "]";
}

std::vector<Index> y_shape(const Layout& a) { return {a.J, a.K, a.p, a.rows, a.y_row_bytes()}; }
std::vector<Index> z_shape(const Layout& a) { return {a.J, a.K, a.p, a.l, a.z_row_bytes()}; }
std::vector<Index> scales_shape(const Layout& a) { return {a.J, a.K, a.scales_per_block()}; }

std::uint32_t checksum(const std::string& name, const Layout& a, const std::uint8_t* y, const std::uint8_t* z,
                       const std::uint8_t* scales, std::size_t scales_bytes) {
    std::uint8_t numbers[64];
    std::size_t at = 0;
    for (const Index v : {a.m, a.n, a.J, a.K, a.rows, a.cols, a.p, a.l})
        for (int i = 0; i < 8; ++i) numbers[at++] = std::uint8_t(std::uint64_t(v) >> 8 * i);
    std::uint32_t crc = crc32(reinterpret_cast<const std::uint8_t*>(name.data()), name.size());
    crc = crc32(numbers, sizeof numbers, crc);
    crc = crc32(y, std::size_t(a.y_bytes()), crc);
    crc = crc32(z, std::size_t(a.z_bytes()), crc);
    return crc32(scales, scales_bytes, crc);
}

// The metadata of a matrix: one JSON object, exactly these six keys.

struct Record {
    Layout layout;
    std::uint32_t crc = 0;
};

std::string write_record(const Record& r) {
    const Layout& a = r.layout;
    char crc[9];
    for (int i = 0; i < 8; ++i) crc[i] = "0123456789abcdef"[r.crc >> (28 - 4 * i) & 15];
    crc[8] = '\0';
    return "{\"shape\":" + text({a.m, a.n}) + ",\"grid\":" + text({a.J, a.K}) + ",\"block\":" + text({a.rows, a.cols}) +
           ",\"p\":" + std::to_string(a.p) + ",\"l\":" + std::to_string(a.l) + ",\"crc32\":\"" + crc + "\"}";
}

Record read_record(const std::string& record, const std::string& where) {
    Record r;
    Layout& a = r.layout;
    JsonReader json(record.data(), record.size(), where);
    int keys = 0;
    // The ranges keep every later sum and product of two of these numbers within 64 bits.
    const auto number = [&](Index limit) {
        const Index v = json.integer();
        if (v < 1 || v > limit) json.fail(std::to_string(v) + " is not between 1 and " + std::to_string(limit));
        return v;
    };
    const auto pair = [&](Index& x, Index& y, Index limit) {
        int count = 0;
        json.array([&] {
            if (count == 2) json.fail("expected two numbers");
            (count++ ? y : x) = number(limit);
        });
        if (count != 2) json.fail("expected two numbers");
    };
    json.object([&](const std::string& key) {
        ++keys;
        if (key == "shape") return pair(a.m, a.n, kMaxSide);
        if (key == "grid") return pair(a.J, a.K, kMaxSide);
        if (key == "block") return pair(a.rows, a.cols, kMaxBlockSide);
        if (key == "p") return void(a.p = number(kMaxStacks));
        if (key == "l") return void(a.l = number(kMaxInner));
        if (key != "crc32") json.fail("unknown key " + quote(key));
        const std::string crc = json.string();
        for (const char c : crc) {
            const int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
            if (d < 0 || crc.size() != 8) json.fail("crc32 is " + quote(crc) + ", expected 8 digits 0-9a-f");
            r.crc = r.crc << 4 | std::uint32_t(d);
        }
        if (crc.empty()) json.fail("crc32 is empty, expected 8 digits 0-9a-f");
    });
    json.finish();
    if (keys != 6) json.fail("expected the keys shape, grid, block, p, l, crc32");
    return r;
}

void check_version(const std::string& version, const std::string& where) {
    const bool number = !version.empty() && version[0] != '0' && version.size() <= 20 &&
                        version.find_first_not_of("0123456789") == std::string::npos;
    if (!number)
        throw Error(ErrorCode::format,
                    where + ": metadata key \"bqq\" is " + quote(version) + ", expected a version number");
    if (version != kVersion)
        throw Error(ErrorCode::format, where + ": format version " + version +
                                           " is newer than this library, which reads version " + kVersion +
                                           ": update bqq");
}

/// validate() with the file and the matrix in the error text.
template <class T> void validate_as(const std::string& what, const T& value) {
    try {
        validate(value);
    } catch (const Error& e) {
        throw Error(e.code(), what + ": " + e.what());
    }
}

std::vector<std::uint8_t> encode_scales(const NamedMatrix& q, bool f16) {
    const std::size_t count = std::size_t(q.view.layout.scales_count());
    std::vector<std::uint8_t> bytes(count * (f16 ? 2 : 4));
    for (std::size_t i = 0; i < count; ++i) {
        const float s = q.view.scales[i];
        if (!f16) {
            const std::uint32_t u = bits_of(s);
            for (std::size_t k = 0; k < 4; ++k) bytes[4 * i + k] = std::uint8_t(u >> 8 * k);
            continue;
        }
        const std::uint16_t h = f32_to_f16(s);
        if ((h & 0x7FFF) == 0x7C00)
            throw Error(ErrorCode::invalid_argument, "matrix " + quote(q.name) + ": scale " + std::to_string(i) +
                                                         " is " + std::to_string(s) +
                                                         ", float16 holds at most 65504: save with scales_f16 = false");
        bytes[2 * i] = std::uint8_t(h);
        bytes[2 * i + 1] = std::uint8_t(h >> 8);
    }
    return bytes;
}

std::vector<float> decode_scales(const Tensor& t) {
    const std::size_t item = t.dtype == "F16" ? 2 : 4, count = t.nbytes / item;
    std::vector<float> scales(count);
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint8_t* b = t.data + item * i;
        scales[i] = item == 2 ? f16_to_f32(std::uint16_t(b[0] | b[1] << 8))
                              : float_of(std::uint32_t(b[0]) | std::uint32_t(b[1]) << 8 | std::uint32_t(b[2]) << 16 |
                                         std::uint32_t(b[3]) << 24);
    }
    return scales;
}

void check_name(const char* kind, const std::string& name, std::set<std::string>& names) {
    const std::string what = std::string(kind) + " name " + quote(name);
    if (name.empty()) bad_argument(std::string("a ") + kind + " has an empty name");
    if (name == "__metadata__") bad_argument(what + " is reserved");
    if (name.find('\0') != std::string::npos) bad_argument(what + " contains NUL");
    if (!is_utf8(name)) bad_argument(what + " is not valid UTF-8");
    if (!names.insert(name).second) bad_argument("name " + quote(name) + " occurs twice, names must differ");
}

void check_tensor(const Tensor& t) {
    const std::string what = "tensor " + quote(t.name);
    if (is_part_name(t.name)) bad_argument(what + ": the endings .bqq_y, .bqq_z, .bqq_scales are reserved");
    const Index item = item_size(t.dtype);
    if (!item) bad_argument(what + ": unknown dtype " + quote(t.dtype));
    std::size_t bytes = 0;
    if (!tensor_bytes(t.shape, item, bytes))
        bad_argument(what + ": shape " + text(t.shape) + " is negative or overflows");
    if (bytes != t.nbytes)
        bad_argument(what + ": nbytes is " + std::to_string(t.nbytes) + ", expected " + std::to_string(bytes) +
                     " for " + t.dtype + " " + text(t.shape));
    if (!t.data && t.nbytes) bad_argument(what + ": data is null");
}

/// The bytes of a whole file, read-only.
class Mapping {
  public:
    explicit Mapping(const std::string& path) {
        const auto fail = [&](const char* what, int error) {
            throw Error(ErrorCode::io, std::string("cannot ") + what + " " + quote(path) + ": " +
                                           std::generic_category().message(error));
        };
#ifdef _WIN32
        std::ifstream in(std::filesystem::u8path(path), std::ios::binary | std::ios::ate);
        if (!in) fail("open", errno);
        const std::streamoff size = in.tellg();
        if (size < 0) fail("read", errno);
        bytes_.resize(std::size_t(size));
        in.seekg(0);
        if (!bytes_.empty() && !in.read(reinterpret_cast<char*>(bytes_.data()), std::streamsize(bytes_.size())))
            fail("read", errno);
        data_ = bytes_.data();
        size_ = bytes_.size();
#else
        const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a FIFO must not block
        if (fd < 0) fail("open", errno);
        struct stat info;
        int error = ::fstat(fd, &info) != 0 ? errno : 0;
        const bool regular = !error && S_ISREG(info.st_mode);
        void* map = nullptr;
        if (regular && info.st_size > 0) {
            map = ::mmap(nullptr, std::size_t(info.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
            if (map == MAP_FAILED) error = errno;
        }
        ::close(fd);
        if (error) fail("map", error);
        if (!regular) throw Error(ErrorCode::io, "cannot read " + quote(path) + ": not a regular file");
        data_ = static_cast<const std::uint8_t*>(map);
        size_ = std::size_t(info.st_size);
#endif
    }
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping() {
#ifndef _WIN32
        if (data_) ::munmap(const_cast<std::uint8_t*>(data_), size_);
#endif
    }
    const std::uint8_t* data() const { return data_; }
    std::size_t size() const { return size_; }

  private:
    const std::uint8_t* data_ = nullptr;
    std::size_t size_ = 0;
#ifdef _WIN32
    std::vector<std::uint8_t> bytes_;
#endif
};

} // namespace

void save(const std::string& path, const std::vector<NamedMatrix>& matrices, const std::vector<Tensor>& tensors,
          const SaveOptions& options) {
    if (path.empty()) bad_argument("the path is empty");
    if (path.find('\0') != std::string::npos) bad_argument("path " + quote(path) + " contains NUL");
    std::map<std::string, std::string> metadata;
    for (const auto& [key, value] : options.metadata) {
        if (key == kKey || starts_with(key, kKeyDot)) bad_argument("metadata key " + quote(key) + " is reserved");
        if (!is_utf8(key) || !is_utf8(value))
            bad_argument("metadata key " + quote(key) + ": key or value is not valid UTF-8");
        metadata[key] = value;
    }
    metadata[kKey] = kVersion;

    std::set<std::string> names;
    std::vector<Tensor> all;
    std::vector<std::vector<std::uint8_t>> scales;
    for (const Tensor& t : tensors) {
        check_name("tensor", t.name, names);
        check_tensor(t);
        all.push_back(t);
    }
    for (const NamedMatrix& q : matrices) {
        check_name("matrix", q.name, names);
        const View& v = q.view;
        const Layout& a = v.layout;
        const std::string what = "matrix " + quote(q.name);
        validate_as(what, a);
        if (!v.Y || !v.Z || !v.scales) bad_argument(what + ": Y, Z or scales is null");
        validate_as(what, v);
        scales.push_back(encode_scales(q, options.scales_f16));
        const std::vector<std::uint8_t>& s = scales.back();
        metadata[kKeyDot + q.name] = write_record({a, checksum(q.name, a, v.Y, v.Z, s.data(), s.size())});
        all.push_back({q.name + kY, "U8", y_shape(a), v.Y, std::size_t(a.y_bytes())});
        all.push_back({q.name + kZ, "U8", z_shape(a), v.Z, std::size_t(a.z_bytes())});
        all.push_back({q.name + kScales, options.scales_f16 ? "F16" : "F32", scales_shape(a), s.data(), s.size()});
    }
    write_safetensors(path, std::move(all), metadata);
}

struct File::Impl {
    explicit Impl(const std::string& path) : mapping(path), where(quote(path)) {}

    void load() {
        Container c = parse_safetensors(mapping.data(), mapping.size(), where);
        std::sort(c.tensors.begin(), c.tensors.end(), [](const Tensor& a, const Tensor& b) { return a.name < b.name; });
        const auto version = c.metadata.find(kKey);
        if (version != c.metadata.end()) check_version(version->second, where);

        std::set<std::string> used;
        for (const auto& [key, value] : c.metadata) {
            if (key == kKey) continue;
            if (!starts_with(key, kKeyDot)) {
                metadata[key] = value;
                continue;
            }
            if (version == c.metadata.end())
                bad("metadata key " + quote(key) + " without the format version under key \"bqq\"");
            const std::string name = key.substr(sizeof kKeyDot - 1);
            if (name.empty()) bad("metadata key \"bqq.\" names no matrix");
            load_matrix(name, value, c.tensors);
            for (const char* part : {kY, kZ, kScales}) used.insert(name + part);
        }
        for (Tensor& t : c.tensors) {
            if (used.count(t.name)) continue;
            if (is_part_name(t.name)) bad("tensor " + quote(t.name) + " belongs to no matrix: its metadata is missing");
            if (find(t.name)) bad("a matrix and a tensor are both called " + quote(t.name));
            tensors.push_back(std::move(t));
        }
    }

    void load_matrix(const std::string& name, const std::string& record, const std::vector<Tensor>& all) {
        const std::string what = "matrix " + quote(name);
        const Record r = read_record(record, where + ": metadata of " + what);
        const Layout& a = r.layout;
        const auto part = [&](const char* ending, const std::vector<Index>& shape, bool f16) -> const Tensor& {
            const std::string full = name + ending;
            const auto it = std::lower_bound(all.begin(), all.end(), full,
                                             [](const Tensor& t, const std::string& n) { return t.name < n; });
            if (it == all.end() || it->name != full) bad(what + ": tensor " + quote(full) + " is missing");
            if (f16 ? it->dtype != "F32" && it->dtype != "F16" : it->dtype != "U8")
                bad("tensor " + quote(full) + " has dtype " + it->dtype + ", expected " + (f16 ? "F32 or F16" : "U8"));
            if (it->shape != shape)
                bad("tensor " + quote(full) + " has shape " + text(it->shape) + ", its metadata say " + text(shape));
            return *it;
        };
        // Equal shapes bound every size of the layout by the size of the file.
        const Tensor& y = part(kY, y_shape(a), false);
        const Tensor& z = part(kZ, z_shape(a), false);
        const Tensor& s = part(kScales, scales_shape(a), true);
        validate_as(where + ": " + what, a);
        const std::uint32_t crc = checksum(name, a, y.data, z.data, s.data, s.nbytes);
        if (crc != r.crc) bad(what + ": the checksum does not match its metadata: the file is corrupt");
        scales.push_back(decode_scales(s));
        matrices.push_back({name, {a, y.data, z.data, scales.back().data()}});
        validate_as(where + ": " + what, matrices.back().view);
    }

    const NamedMatrix* find(const std::string& name) const {
        const auto it = std::lower_bound(matrices.begin(), matrices.end(), name,
                                         [](const NamedMatrix& q, const std::string& n) { return q.name < n; });
        return it != matrices.end() && it->name == name ? &*it : nullptr;
    }

    [[noreturn]] void bad(const std::string& what) const { throw Error(ErrorCode::format, where + ": " + what); }

    Mapping mapping;
    std::string where;
    std::vector<std::vector<float>> scales; // moving a vector keeps its data, so views stay valid
    std::vector<NamedMatrix> matrices;      // sorted: their keys come from a map
    std::vector<Tensor> tensors;
    std::map<std::string, std::string> metadata;
};

File::File(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
File::File(File&&) noexcept = default;
File& File::operator=(File&&) noexcept = default;
File::~File() = default;

File File::open(const std::string& path) {
    if (path.find('\0') != std::string::npos) bad_argument("path " + quote(path) + " contains NUL");
    auto impl = std::make_unique<Impl>(path);
    impl->load();
    return File(std::move(impl));
}

const std::vector<NamedMatrix>& File::matrices() const { return impl_->matrices; }
const std::vector<Tensor>& File::tensors() const { return impl_->tensors; }
const std::map<std::string, std::string>& File::metadata() const { return impl_->metadata; }

View File::matrix(const std::string& name) const {
    if (const NamedMatrix* q = impl_->find(name)) return q->view;
    std::string known;
    for (const NamedMatrix& q : impl_->matrices) {
        if (known.size() > 1000) {
            known += ", ...";
            break;
        }
        known += (known.empty() ? "" : ", ") + quote(q.name);
    }
    bad_argument("no matrix " + quote(name) + " in " + impl_->where +
                 ", there are: " + (known.empty() ? "none" : known));
}

} // namespace bqq
