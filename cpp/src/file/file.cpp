#include "bqq/file.hpp"

#include "arguments.hpp"
#include "file/mapping.hpp"
#include "file/record.hpp"
#include "file/safetensors.hpp"
#include "file/text.hpp"

#include <algorithm>
#include <atomic>
#include <deque>
#include <set>

namespace bqq {

namespace {

using namespace detail;

constexpr char kVersion[] = "1"; // of the format: FORMAT.md
constexpr char kKey[] = "bqq", kKeyDot[] = "bqq.";

bool starts_with(const std::string& s, const std::string& start) { return s.compare(0, start.size(), start) == 0; }

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

void check_path(const std::string& path) {
    if (path.find('\0') != std::string::npos) bad_argument("path " + quote(path) + " contains NUL");
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
    const Index bits = item_bits(t.dtype);
    if (!bits) bad_argument(what + ": unknown dtype " + quote(t.dtype));
    std::size_t bytes = 0;
    if (const char* wrong = tensor_bytes(t.shape, bits, bytes))
        bad_argument(what + ": shape " + shape_text(t.shape) + " of " + t.dtype + " " + wrong);
    if (bytes != t.nbytes)
        bad_argument(what + ": nbytes is " + std::to_string(t.nbytes) + ", expected " + std::to_string(bytes) +
                     " for " + t.dtype + " " + shape_text(t.shape));
    if (!t.data && t.nbytes) bad_argument(what + ": data is null");
}

std::map<std::string, std::string> checked_metadata(const SaveOptions& options) {
    for (const auto& [key, value] : options.metadata) {
        if (key == kKey || starts_with(key, kKeyDot)) bad_argument("metadata key " + quote(key) + " is reserved");
        if (!is_utf8(key) || !is_utf8(value))
            bad_argument("metadata key " + quote(key) + ": key or value is not valid UTF-8");
    }
    return options.metadata;
}

} // namespace

void save(const std::string& path, const std::vector<NamedMatrix>& matrices, const std::vector<Tensor>& tensors,
          const SaveOptions& options) {
    if (path.empty()) bad_argument("the path is empty");
    check_path(path);
    const ScaleType& type = scale_type(options.scales);
    std::map<std::string, std::string> metadata = checked_metadata(options);
    metadata[kKey] = kVersion;

    std::set<std::string> names;
    for (const Tensor& t : tensors) {
        check_name("tensor", t.name, names);
        check_tensor(t);
    }
    std::vector<Tensor> all = tensors;
    std::vector<std::vector<std::uint8_t>> scales;
    for (const NamedMatrix& q : matrices) {
        check_name("matrix", q.name, names);
        const View& v = q.view;
        const Layout& a = v.layout;
        const std::string what = "matrix " + quote(q.name);
        validate_as(what, a);
        if (!v.Y || !v.Z || !v.scales) bad_argument(what + ": Y, Z or scales is null");
        validate_as(what, v);
        scales.push_back(encode_scales(v, type, what));
        const std::vector<std::uint8_t>& s = scales.back();
        metadata[kKeyDot + q.name] = write_record({a, checksum(q.name, a, v.Y, v.Z, s.data(), s.size())});
        all.push_back({q.name + kY, "U8", y_shape(a), v.Y, std::size_t(a.y_bytes())});
        all.push_back({q.name + kZ, "U8", z_shape(a), v.Z, std::size_t(a.z_bytes())});
        all.push_back({q.name + kScales, type.stored, scales_shape(a), s.data(), s.size()});
    }
    write_safetensors(path, std::move(all), metadata);
}

struct File::Impl {
    Impl(const std::string& path, bool read) : mapping(path, read), where(quote(path)), mapped(!read) {
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
            add_matrix(name, value, c.tensors);
            for (const char* part : {kY, kZ, kScales}) used.insert(name + part);
        }
        for (Tensor& t : c.tensors) {
            if (used.count(t.name)) continue;
            if (is_part_name(t.name)) bad("tensor " + quote(t.name) + " belongs to no matrix: its metadata is missing");
            if (find(t.name)) bad("a matrix and a tensor are both called " + quote(t.name));
            tensors.push_back(std::move(t));
        }
    }

    struct Checked {
        std::vector<float> decoded;
        View view;
    };
    /// Where a matrix lies, and its view once that has been checked: by the first thread that asks, or several at once.
    /// A lock would stay held in the child of a process that is split while another thread checks.
    struct Source {
        Tensor y, z, scales;
        std::uint32_t crc;
        mutable std::atomic<const Checked*> checked{nullptr};
        ~Source() { delete checked.load(); }
    };

    void add_matrix(const std::string& name, const std::string& record, const std::vector<Tensor>& all) {
        const std::string what = "matrix " + quote(name);
        const Record r = read_record(record, where + ": metadata of " + what);
        const Layout& a = r.layout;
        const auto part = [&](const char* ending, bool scales, const std::vector<Index>& shape) -> const Tensor& {
            const std::string full = name + ending;
            const auto it = std::lower_bound(all.begin(), all.end(), full,
                                             [](const Tensor& t, const std::string& n) { return t.name < n; });
            if (it == all.end() || it->name != full) bad(what + ": tensor " + quote(full) + " is missing");
            if (scales ? !scale_type(it->dtype) : it->dtype != "U8")
                bad("tensor " + quote(full) + " has dtype " + it->dtype + ", expected " +
                    (scales ? scale_types(&ScaleType::stored) : "U8"));
            if (it->shape != shape)
                bad("tensor " + quote(full) + " has shape " + shape_text(it->shape) + ", its metadata say " +
                    shape_text(shape));
            return *it;
        };
        // Equal shapes bound every size of the layout by the size of the file.
        Source& s = sources.emplace_back();
        s.y = part(kY, false, y_shape(a)), s.z = part(kZ, false, z_shape(a));
        s.scales = part(kScales, true, scales_shape(a)), s.crc = r.crc;
        validate_as(where + ": " + what, a);
        matrices.push_back({name, a, scale_type(s.scales.dtype)->dtype, s.y.nbytes + s.z.nbytes + s.scales.nbytes});
    }

    View view(const StoredMatrix& q) const {
        const Source& s = sources[std::size_t(&q - matrices.data())];
        if (const Checked* known = s.checked.load(std::memory_order_acquire)) return known->view;
        const std::string what = "matrix " + quote(q.name);
        if (checksum(q.name, q.layout, s.y.data, s.z.data, s.scales.data, s.scales.nbytes) != s.crc)
            bad(what + ": the checksum does not match its metadata: the file is corrupt");
        const ScaleType& type = *scale_type(s.scales.dtype);
        auto now = std::make_unique<Checked>();
        now->view = {q.layout, s.y.data, s.z.data, scales_in_place(s.scales, type)};
        if (!now->view.scales) {
            now->decoded = decode_scales(s.scales, type);
            now->view.scales = now->decoded.data();
        }
        validate_as(where + ": " + what, now->view);
        const Checked* first = nullptr;
        return s.checked.compare_exchange_strong(first, now.get()) ? now.release()->view : first->view;
    }

    const StoredMatrix* find(const std::string& name) const {
        const auto it = std::lower_bound(matrices.begin(), matrices.end(), name,
                                         [](const StoredMatrix& q, const std::string& n) { return q.name < n; });
        return it != matrices.end() && it->name == name ? &*it : nullptr;
    }

    [[noreturn]] void bad(const std::string& what) const { throw Error(ErrorCode::format, where + ": " + what); }

    Mapping mapping;
    std::string where;
    bool mapped;
    std::deque<Source> sources;         // one for each of matrices; an atomic does not move
    std::vector<StoredMatrix> matrices; // sorted: their keys come from a map
    std::vector<Tensor> tensors;
    std::map<std::string, std::string> metadata;
};

File::File(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

File File::open(const std::string& path) {
    check_path(path);
    return File(std::make_shared<const Impl>(path, false));
}

File File::read(const std::string& path) {
    check_path(path);
    return File(std::make_shared<const Impl>(path, true));
}

const std::vector<StoredMatrix>& File::matrices() const { return impl_->matrices; }
const std::vector<Tensor>& File::tensors() const { return impl_->tensors; }
const std::map<std::string, std::string>& File::metadata() const { return impl_->metadata; }
bool File::mapped() const { return impl_->mapped; }

View File::matrix(const std::string& name) const {
    if (const StoredMatrix* q = impl_->find(name)) return impl_->view(*q);
    std::string known;
    for (const StoredMatrix& q : impl_->matrices) {
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
