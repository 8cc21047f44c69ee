#include "bqq/file.hpp"

#include "arguments.hpp"
#include "bits/pack.hpp"
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

// Of the format: FORMAT.md. A file whose matrices have neither orders nor entries is one of version 1.
constexpr char kPlainVersion[] = "1", kVersion[] = "2";
constexpr char kKey[] = "bqq", kKeyDot[] = "bqq.";

bool starts_with(const std::string& s, const std::string& start) { return s.compare(0, start.size(), start) == 0; }

void check_version(const std::string& version, const std::string& where) {
    const bool number = !version.empty() && version[0] != '0' && version.size() <= 20 &&
                        version.find_first_not_of("0123456789") == std::string::npos;
    if (!number)
        throw Error(ErrorCode::format,
                    where + ": metadata key \"bqq\" is " + quote(version) + ", expected a version number");
    if (version != kVersion && version != kPlainVersion)
        throw Error(ErrorCode::format, where + ": format version " + version +
                                           " is newer than this library, which reads versions up to " + kVersion +
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
    if (is_part_name(t.name)) bad_argument(what + ": the endings " + part_names() + " are reserved");
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

/// The data of the parts; what is not in memory as a file has it is put into `made`.
void fill_parts(const View& v, const ScaleType& type, const std::string& what, std::vector<Tensor>& parts,
                std::deque<std::vector<std::uint8_t>>& made) {
    const Layout& a = v.layout;
    std::size_t next = 0;
    const auto point = [&](const std::uint8_t* data, std::size_t bytes) {
        parts[next].data = data, parts[next].nbytes = bytes;
        ++next;
    };
    const auto put = [&](std::vector<std::uint8_t> bytes) {
        made.push_back(std::move(bytes));
        point(made.back().data(), made.back().size());
    };
    const auto put_order = [&](const std::uint32_t* order, Index side) {
        if (order) put(encode_integers({order, order + side}, order_bytes(side)));
    };
    point(v.Y, std::size_t(a.y_bytes()));
    point(v.Z, std::size_t(a.z_bytes()));
    put(encode_scales({v.scales, v.scales + a.scales_count()}, type, what + ": scale"));
    put_order(v.row_order, a.m);
    put_order(v.col_order, a.n);
    if (!v.entry_count) return;
    std::vector<std::uint64_t> positions;
    std::vector<float> values;
    for (Index i = 0; i < v.entry_count; ++i) {
        const Entry& e = v.entries[i];
        positions.push_back(std::uint64_t(e.row) * std::uint64_t(a.n) + e.col);
        values.push_back(e.value);
    }
    put(encode_integers(positions, position_bytes(a)));
    put(encode_scales(values, type, what + ": the value of entry"));
}

} // namespace

void save(const std::string& path, const std::vector<NamedMatrix>& matrices, const std::vector<Tensor>& tensors,
          const SaveOptions& options) {
    if (path.empty()) bad_argument("the path is empty");
    check_path(path);
    const ScaleType& type = scale_type(options.scales);
    std::map<std::string, std::string> metadata = checked_metadata(options);
    metadata[kKey] = kPlainVersion;

    std::set<std::string> names;
    for (const Tensor& t : tensors) {
        check_name("tensor", t.name, names);
        check_tensor(t);
    }
    std::vector<Tensor> all = tensors;
    std::deque<std::vector<std::uint8_t>> made;
    for (const NamedMatrix& q : matrices) {
        check_name("matrix", q.name, names);
        const View& v = q.view;
        const std::string what = "matrix " + quote(q.name);
        validate_as(what, v.layout);
        if (!v.Y || !v.Z || !v.scales) bad_argument(what + ": Y, Z or scales is null");
        validate_as(what, v);
        Record r{v.layout, 0, v.row_order != nullptr, v.col_order != nullptr, v.entry_count};
        std::vector<Tensor> parts = part_tensors(q.name, r, type.stored);
        fill_parts(v, type, what, parts, made);
        r.crc = checksum(q.name, r, parts);
        metadata[kKeyDot + q.name] = write_record(r);
        if (!r.is_plain()) metadata[kKey] = kVersion;
        for (Tensor& part : parts) all.push_back(std::move(part));
    }
    write_safetensors(path, std::move(all), metadata);
}

struct File::Impl {
    Impl(const std::string& path, bool read) : mapping(path, read), where(quote(path)), mapped(!read) { parse(); }
    Impl(const void* data, std::size_t size) : mapping(data, size), where("bytes in memory"), mapped(true) { parse(); }

    void parse() {
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
            add_matrix(name, value, c.tensors, version->second == kPlainVersion);
            for (const Tensor& part : sources.back().parts) used.insert(part.name);
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
        Matrix extras; // orders and entries
        View view;
    };
    /// Where a matrix lies, and its view once that has been checked: by the first thread that asks, or several at once.
    /// A lock would stay held in the child of a process that is split while another thread checks.
    struct Source {
        Record record;
        std::vector<Tensor> parts; // as part_tensors() has them
        mutable std::atomic<const Checked*> checked{nullptr};
        ~Source() { delete checked.load(); }
    };

    void add_matrix(const std::string& name, const std::string& record, const std::vector<Tensor>& all, bool plain) {
        const std::string what = "matrix " + quote(name);
        const Record r = read_record(record, where + ": metadata of " + what);
        if (plain && !r.is_plain()) bad(what + " has orders or entries in a file of version " + kPlainVersion);
        const auto find_part = [&](const std::string& full) -> const Tensor& {
            const auto it = std::lower_bound(all.begin(), all.end(), full,
                                             [](const Tensor& t, const std::string& n) { return t.name < n; });
            if (it == all.end() || it->name != full) bad(what + ": tensor " + quote(full) + " is missing");
            return *it;
        };
        // Equal shapes bound every size of the layout by the size of the file.
        Source& s = sources.emplace_back();
        s.record = r;
        std::size_t bytes = 0;
        for (const Tensor& expected : part_tensors(name, r, {})) {
            const Tensor& part = find_part(expected.name);
            if (expected.dtype.empty() ? !scale_type(part.dtype) : part.dtype != expected.dtype)
                bad("tensor " + quote(part.name) + " has dtype " + part.dtype + ", expected " +
                    (expected.dtype.empty() ? scale_types(&ScaleType::stored) : expected.dtype));
            if (part.shape != expected.shape)
                bad("tensor " + quote(part.name) + " has shape " + shape_text(part.shape) + ", its metadata say " +
                    shape_text(expected.shape));
            s.parts.push_back(part);
            bytes += part.nbytes;
        }
        validate_as(where + ": " + what, r.layout);
        matrices.push_back({name, r.layout, scale_type(s.parts[2].dtype)->dtype, bytes});
    }

    View view(const StoredMatrix& q) const {
        const Source& s = sources[std::size_t(&q - matrices.data())];
        if (const Checked* known = s.checked.load(std::memory_order_acquire)) return known->view;
        const std::string what = "matrix " + quote(q.name);
        if (checksum(q.name, s.record, s.parts) != s.record.crc)
            bad(what + ": the checksum does not match its metadata: the file is corrupt");
        const Tensor& scales = s.parts[2];
        const ScaleType& type = *scale_type(scales.dtype);
        auto now = std::make_unique<Checked>();
        if (!s.record.is_plain()) read_extras(s, what, now->extras);
        View& v = now->view = now->extras.view();
        v.layout = q.layout, v.Y = s.parts[0].data, v.Z = s.parts[1].data, v.scales = scales_in_place(scales, type);
        if (!v.scales) {
            now->decoded = decode_scales(scales, type);
            v.scales = now->decoded.data();
        }
        validate_as(where + ": " + what, now->view);
        const Checked* first = nullptr;
        return s.checked.compare_exchange_strong(first, now.get()) ? now.release()->view : first->view;
    }

    /// The parts behind the scales. What does not fit the shape is refused here, the rest by validate().
    void read_extras(const Source& s, const std::string& what, Matrix& extras) const {
        const Record& r = s.record;
        const Tensor* part = s.parts.data() + 3;
        if (std::max(r.layout.m, r.layout.n) > kMaxOrdered) bad(what + ": orders and entries need sides up to 2^32");
        for (auto [has, order] : {std::pair(r.row_order, &extras.row_order), {r.col_order, &extras.col_order}})
            if (has)
                for (const std::uint64_t v : decode_integers(*part++)) order->push_back(std::uint32_t(v));
        if (!r.entries) return;
        const std::vector<std::uint64_t> at = decode_integers(part[0]);
        const std::vector<float> values = decode_scales(part[1], *scale_type(part[1].dtype));
        const auto n = std::uint64_t(r.layout.n);
        for (std::size_t i = 0; i < at.size(); ++i) {
            if (at[i] / n >= std::uint64_t(r.layout.m))
                bad(what + ": entry " + std::to_string(i) + " is at position " + std::to_string(at[i]) +
                    ", beyond the matrix");
            extras.entries.push_back({std::uint32_t(at[i] / n), std::uint32_t(at[i] % n), values[i]});
        }
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

File File::open(const void* data, std::size_t size) {
    if (!data && size) bad_argument("data is NULL");
    return File(std::make_shared<const Impl>(data, size));
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
