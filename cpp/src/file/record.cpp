#include "file/record.hpp"

#include "arguments.hpp"
#include "file/crc32.hpp"
#include "file/json.hpp"
#include "file/safetensors.hpp"
#include "file/text.hpp"
#include "half.hpp"

#include <cstring>

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

bool is_part_name(const std::string& name) {
    return ends_with(name, kY) || ends_with(name, kZ) || ends_with(name, kScales);
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
           ",\"l\":" + std::to_string(a.l) + ",\"crc32\":\"" + crc + "\"}";
}

Record read_record(const std::string& record, const std::string& where) {
    RecordReader reader(where);
    reader.read(record.data(), record.size());
    return reader.record;
}

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

std::vector<std::uint8_t> encode_scales(const View& q, const ScaleType& type, const std::string& what) {
    const auto count = std::size_t(q.layout.scales_count());
    std::vector<std::uint8_t> bytes(count * type.size);
    for (std::size_t i = 0; i < count; ++i) {
        std::uint8_t* const at = bytes.data() + type.size * i;
        type.encode(q.scales[i], at);
        const float stored = type.decode(at);
        if (!(stored >= -type.largest && stored <= type.largest))
            bad_argument(what + ": scale " + std::to_string(i) + " is " + std::to_string(q.scales[i]) + ", " +
                         type.name + " holds at most " + std::to_string(Index(type.largest)) +
                         ": store scales as float32");
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
