#include "file/safetensors.hpp"

#include "file/json.hpp"
#include "file/output.hpp"
#include "file/text.hpp"

#include <algorithm>

namespace bqq::detail {

namespace {

constexpr std::size_t kMaxHeader = 100'000'000; // the limit of the safetensors format
constexpr char kMetadata[] = "__metadata__";

struct Element {
    const char* dtype;
    Index bits;
};
constexpr Element kElements[] = {{"BOOL", 8},        {"U8", 8},         {"I8", 8},      {"F8_E5M2", 8}, {"F8_E4M3", 8},
                                 {"F8_E8M0", 8},     {"F4", 4},         {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"I16", 16},
                                 {"U16", 16},        {"F16", 16},       {"BF16", 16},   {"I32", 32},    {"U32", 32},
                                 {"F32", 32},        {"F64", 64},       {"I64", 64},    {"U64", 64},    {"C64", 64},
                                 {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}};

struct Range {
    std::size_t begin, end;
    std::size_t tensor;
};

/// {"name": {"dtype":..., "shape":[...], "data_offsets":[begin,end]}, ..., "__metadata__": {...}}, other keys ignored.
class HeaderReader : public JsonReader {
  public:
    HeaderReader(const std::string& where, const std::uint8_t* data, std::size_t size)
        : JsonReader(where), data_(data), size_(size) {}
    Container container;
    std::vector<Range> ranges;

  private:
    bool in_metadata() const { return keys()[0] == kMetadata; }

    void value(const JsonValue& v) override {
        if (keys().empty()) return;
        const std::string& name = keys()[0];
        if (keys().size() == 1) {
            if (name == kMetadata && v.kind == JsonValue::null) return; // none: what the format's own reader takes
            object(v);
            if (in_metadata()) return;
            if (name.find('\0') != std::string::npos) fail("tensor name " + quote(name) + " contains NUL");
            tensor_ = {}, offsets_.clear(), has_shape_ = false;
        } else if (in_metadata()) {
            container.metadata[keys()[1]] = string(v);
        } else if (keys().size() == 2) {
            field(keys()[1], v);
        }
    }

    void field(const std::string& key, const JsonValue& v) {
        if (key == "dtype") {
            tensor_.dtype = string(v);
            if (!item_bits(tensor_.dtype)) bad("unknown dtype " + quote(tensor_.dtype));
        } else if (key == "shape") {
            is_element() ? tensor_.shape.push_back(integer(v)) : array(v);
            has_shape_ = true;
        } else if (key == "data_offsets") {
            if (offsets_.size() == 2) bad("data_offsets has more than 2 numbers");
            is_element() ? offsets_.push_back(integer(v)) : array(v);
        }
    }

    void end() override {
        if (keys().size() != 1 || in_metadata()) return;
        Tensor& t = tensor_;
        t.name = keys()[0];
        if (t.dtype.empty() || !has_shape_ || offsets_.size() != 2) bad("expected dtype, shape and two data_offsets");
        if (const char* wrong = tensor_bytes(t.shape, item_bits(t.dtype), t.nbytes))
            bad("shape " + shape_text(t.shape) + " of " + t.dtype + " " + wrong);
        const auto begin = std::size_t(offsets_[0]), end = std::size_t(offsets_[1]);
        if (begin > end || end > size_)
            bad("data_offsets " + shape_text(offsets_) + " are not a range within the " + std::to_string(size_) +
                " bytes of data: the file is truncated or corrupt");
        if (end - begin != t.nbytes)
            bad("data_offsets span " + std::to_string(end - begin) + " bytes, expected " + std::to_string(t.nbytes) +
                " for " + t.dtype + " " + shape_text(t.shape));
        t.data = data_ + begin;
        ranges.push_back({begin, end, ranges.size()});
        container.tensors.push_back(std::move(t));
    }

    [[noreturn]] void bad(const std::string& what) const { fail("tensor " + quote(keys()[0]) + ": " + what); }

    const std::uint8_t* data_;
    std::size_t size_;
    Tensor tensor_;
    std::vector<Index> offsets_;
    bool has_shape_ = false;
};

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

} // namespace

Index item_bits(const std::string& dtype) noexcept {
    for (const Element& e : kElements)
        if (dtype == e.dtype) return e.bits;
    return 0;
}

const char* tensor_bytes(const std::vector<Index>& shape, Index bits, std::size_t& bytes) noexcept {
    const std::uint64_t limit = std::min<std::uint64_t>(INT64_MAX, SIZE_MAX);
    std::uint64_t count = 1;
    for (const Index d : shape) {
        if (d < 0) return "is negative";
        if (d > 0 && count > limit / std::uint64_t(d)) return "overflows";
        count *= std::uint64_t(d);
    }
    const std::uint64_t rest = count % 8 * std::uint64_t(bits);
    if (rest % 8) return "ends within a byte";
    if (count / 8 > (limit - rest / 8) / std::uint64_t(bits)) return "overflows";
    bytes = std::size_t(count / 8 * std::uint64_t(bits) + rest / 8);
    return nullptr;
}

std::string shape_text(const std::vector<Index>& shape) {
    std::string s = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) {
        if (i == 8) return s + ",...]";
        s += (i ? "," : "") + std::to_string(shape[i]);
    }
    return s + "]";
}

Container parse_safetensors(const std::uint8_t* bytes, std::size_t size, const std::string& where) {
    const auto bad = [&](const std::string& what) { throw Error(ErrorCode::format, where + ": " + what); };
    if (size < 8) bad("the file has " + std::to_string(size) + " bytes, a safetensors file has at least 10");
    std::uint64_t length = 0;
    for (int i = 7; i >= 0; --i) length = length << 8 | bytes[i];
    if (length > kMaxHeader && bytes[0] == '{')
        bad("JSON text, not a safetensors file; of an index of shards, open the shards");
    if (length > kMaxHeader)
        bad("header length " + std::to_string(length) + " is above " + std::to_string(kMaxHeader) +
            ": not a safetensors file");
    if (length > size - 8)
        bad("header length " + std::to_string(length) + " reaches beyond the file of " + std::to_string(size) +
            " bytes: truncated or not a safetensors file");
    if (length == 0 || bytes[8] != '{') bad("the header does not begin with '{': not a safetensors file");

    const std::size_t data_size = size - 8 - std::size_t(length);
    HeaderReader header(where + ": header", bytes + 8 + length, data_size);
    header.read(reinterpret_cast<const char*>(bytes) + 8, std::size_t(length));
    Container c = std::move(header.container);
    std::vector<Range>& ranges = header.ranges;

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
        const Index sa = item_bits(a.dtype), sb = item_bits(b.dtype);
        return sa != sb ? sa > sb : a.name < b.name;
    });
    const std::string header = make_header(tensors, metadata);
    if (header.size() > kMaxHeader)
        throw Error(ErrorCode::invalid_argument, "cannot write " + quote(path) + ": the header needs " +
                                                     std::to_string(header.size()) +
                                                     " bytes, a safetensors file allows " + std::to_string(kMaxHeader));
    std::uint8_t length[8];
    for (int i = 0; i < 8; ++i) length[i] = std::uint8_t(std::uint64_t(header.size()) >> 8 * i);

    Output file(path);
    file.write(length, sizeof length);
    file.write(header.data(), header.size());
    for (const Tensor& t : tensors) file.write(t.data, t.nbytes);
    file.commit();
}

} // namespace bqq::detail
