#include "file/record.hpp"

#include "arguments.hpp"
#include "file/crc32.hpp"
#include "file/json.hpp"
#include "file/safetensors.hpp"
#include "file/text.hpp"
#include "half.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace bqq::detail {

namespace {

void encode_f32(float value, std::uint8_t* out) {
    const std::uint32_t u = bits_of(value);
    for (int k = 0; k < 4; ++k) out[k] = std::uint8_t(u >> 8 * k);
}
float decode_f32(const std::uint8_t* in) {
    return float_of(std::uint32_t(in[0]) | std::uint32_t(in[1]) << 8 | std::uint32_t(in[2]) << 16 |
                    std::uint32_t(in[3]) << 24);
}
void encode_f16(float value, std::uint8_t* out) {
    const std::uint16_t h = f32_to_f16(value);
    out[0] = std::uint8_t(h), out[1] = std::uint8_t(h >> 8);
}
float decode_f16(const std::uint8_t* in) { return f16_to_f32(std::uint16_t(in[0] | in[1] << 8)); }

constexpr ScaleType kScaleTypes[] = {
    {Dtype::f32, "F32", "float32", 4, 3.4028235e38f, encode_f32, decode_f32},
    {Dtype::f16, "F16", "float16", 2, 65504.0f, encode_f16, decode_f16},
};

bool ends_with(const std::string& s, const std::string& end) {
    return s.size() >= end.size() && s.compare(s.size() - end.size(), end.size(), end) == 0;
}

class RecordReader : public JsonReader {
  public:
    using JsonReader::JsonReader;
    Record record;

  private:
    void value(const JsonValue& v) override {
        if (keys().empty()) return;
        Layout& a = record.layout;
        const std::string& key = keys()[0];
        if (!is_element()) ++fields_, numbers_ = 0;
        if (key == "shape") return pair(v, a.m, a.n, kMaxSide);
        if (key == "grid") return pair(v, a.J, a.K, kMaxSide);
        if (key == "block") return pair(v, a.rows, a.cols, kMaxBlockSide);
        if (key == "p") return void(a.p = number(v, kMaxStacks));
        if (key == "l") return void(a.l = number(v, kMaxInner));
        if (key == "row_order") return optional(record.row_order, number(v, 1));
        if (key == "col_order") return optional(record.col_order, number(v, 1));
        if (key == "entries") return optional(record.entries, number(v, kMaxSide));
        if (key != "crc32") fail("unknown key " + quote(key));
        const std::string& crc = string(v);
        if (crc.size() != 8 || crc.find_first_not_of("0123456789abcdef") != std::string::npos)
            fail("crc32 is " + quote(crc) + ", expected 8 digits 0-9a-f");
        record.crc = std::uint32_t(std::stoul(crc, nullptr, 16));
    }

    void end() override {
        if (!keys().empty() && numbers_ != 2) fail("expected two numbers");
        if (keys().empty() && fields_ != 6) fail("expected the keys shape, grid, block, p, l, crc32");
    }

    void optional(Index& field, Index value) {
        field = value;
        --fields_;
    }

    Index number(const JsonValue& v, Index limit) const {
        const Index i = integer(v);
        if (i < 1 || i > limit) fail(std::to_string(i) + " is not between 1 and " + std::to_string(limit));
        return i;
    }

    void pair(const JsonValue& v, Index& x, Index& y, Index limit) {
        if (!is_element()) return array(v);
        if (numbers_ == 2) fail("expected two numbers");
        (numbers_++ ? y : x) = number(v, limit);
    }

    int fields_ = 0, numbers_ = 0;
};

} // namespace

namespace {
constexpr const char* kParts[] = {kY, kZ, kScales, kRowOrder, kColOrder, kPositions, kValues};

std::string integers(Index bytes) { return "U" + std::to_string(8 * bytes); }
} // namespace

bool is_part_name(const std::string& name) {
    return std::any_of(std::begin(kParts), std::end(kParts), [&](const char* part) { return ends_with(name, part); });
}

std::string part_names() {
    std::string names;
    for (const char* part : kParts) names += (names.empty() ? "" : ", ") + std::string(part);
    return names;
}

std::vector<Index> y_shape(const Layout& a) { return {a.J, a.K, a.p, a.rows, a.y_row_bytes()}; }
std::vector<Index> z_shape(const Layout& a) { return {a.J, a.K, a.p, a.l, a.z_row_bytes()}; }
std::vector<Index> scales_shape(const Layout& a) { return {a.J, a.K, a.scales_per_block()}; }

std::string write_record(const Record& r) {
    const Layout& a = r.layout;
    char crc[9];
    for (int i = 0; i < 8; ++i) crc[i] = "0123456789abcdef"[r.crc >> (28 - 4 * i) & 15];
    crc[8] = '\0';
    return "{\"shape\":" + shape_text({a.m, a.n}) + ",\"grid\":" + shape_text({a.J, a.K}) +
           ",\"block\":" + shape_text({a.rows, a.cols}) + ",\"p\":" + std::to_string(a.p) +
           ",\"l\":" + std::to_string(a.l) + (r.row_order ? ",\"row_order\":1" : "") +
           (r.col_order ? ",\"col_order\":1" : "") +
           (r.entries ? ",\"entries\":" + std::to_string(r.entries) : std::string()) + ",\"crc32\":\"" + crc + "\"}";
}

Record read_record(const std::string& record, const std::string& where) {
    RecordReader reader(where);
    reader.read(record.data(), record.size());
    return reader.record;
}

std::uint32_t checksum(const std::string& name, const Record& r, const std::vector<Tensor>& parts) {
    const Layout& a = r.layout;
    std::vector<std::uint64_t> numbers;
    for (const Index v : {a.m, a.n, a.J, a.K, a.rows, a.cols, a.p, a.l}) numbers.push_back(std::uint64_t(v));
    if (!r.is_plain())
        for (const Index v : {r.row_order, r.col_order, r.entries}) numbers.push_back(std::uint64_t(v));
    const std::vector<std::uint8_t> bytes = encode_integers(numbers, 8);
    std::uint32_t crc = crc32(reinterpret_cast<const std::uint8_t*>(name.data()), name.size());
    crc = crc32(bytes.data(), bytes.size(), crc);
    for (const Tensor& part : parts) crc = crc32(part.data, part.nbytes, crc);
    return crc;
}

std::vector<Tensor> part_tensors(const std::string& name, const Record& r, const std::string& scales) {
    const Layout& a = r.layout;
    std::vector<Tensor> parts;
    const auto add = [&](const char* ending, const std::string& dtype, std::vector<Index> shape) {
        parts.push_back({name + ending, dtype, std::move(shape), nullptr, 0});
    };
    add(kY, "U8", y_shape(a));
    add(kZ, "U8", z_shape(a));
    add(kScales, scales, scales_shape(a));
    if (r.row_order) add(kRowOrder, integers(order_bytes(a.m)), {a.m});
    if (r.col_order) add(kColOrder, integers(order_bytes(a.n)), {a.n});
    if (r.entries) {
        add(kPositions, integers(position_bytes(a)), {r.entries});
        add(kValues, scales, {r.entries});
    }
    return parts;
}

std::vector<std::uint8_t> encode_integers(const std::vector<std::uint64_t>& values, Index bytes) {
    std::vector<std::uint8_t> out;
    for (const std::uint64_t v : values)
        for (Index i = 0; i < bytes; ++i) out.push_back(std::uint8_t(v >> 8 * i));
    return out;
}

std::vector<std::uint64_t> decode_integers(const Tensor& t) {
    const auto bytes = std::size_t(item_bits(t.dtype) / 8);
    std::vector<std::uint64_t> out(t.nbytes / bytes);
    for (std::size_t i = 0; i < t.nbytes; ++i) out[i / bytes] |= std::uint64_t(t.data[i]) << 8 * (i % bytes);
    return out;
}

const ScaleType* scale_type(const std::string& stored) {
    for (const ScaleType& t : kScaleTypes)
        if (stored == t.stored) return &t;
    return nullptr;
}

const ScaleType& scale_type(Dtype dtype) {
    for (const ScaleType& t : kScaleTypes)
        if (dtype == t.dtype) return t;
    bad_value("scales", Index(dtype), "the dtype " + scale_types(&ScaleType::name));
}

std::string scale_types(const char* ScaleType::* what) {
    std::string names;
    for (const ScaleType& t : kScaleTypes) names += (names.empty() ? "" : " or ") + std::string(t.*what);
    return names;
}

std::vector<std::uint8_t> encode_scales(const std::vector<float>& scales, const ScaleType& type,
                                        const std::string& what) {
    std::vector<std::uint8_t> bytes(scales.size() * type.size);
    for (std::size_t i = 0; i < scales.size(); ++i) {
        std::uint8_t* const at = bytes.data() + type.size * i;
        type.encode(scales[i], at);
        const float stored = type.decode(at);
        if (!(stored >= -type.largest && stored <= type.largest))
            bad_argument(what + " " + std::to_string(i) + " is " + std::to_string(scales[i]) + ", " + type.name +
                         " holds at most " + std::to_string(Index(type.largest)) + ": store scales as float32");
    }
    return bytes;
}

std::vector<float> decode_scales(const Tensor& t, const ScaleType& type) {
    std::vector<float> scales(t.nbytes / type.size);
    for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = type.decode(t.data + type.size * i);
    return scales;
}

const float* scales_in_place(const Tensor& t, const ScaleType& type) {
    const std::uint16_t one = 1;
    std::uint8_t low;
    std::memcpy(&low, &one, 1);
    const bool native = low == 1 && type.dtype == Dtype::f32; // little-endian, as files are
    const bool aligned = reinterpret_cast<std::uintptr_t>(t.data) % alignof(float) == 0;
    return native && aligned ? reinterpret_cast<const float*>(t.data) : nullptr;
}

} // namespace bqq::detail
