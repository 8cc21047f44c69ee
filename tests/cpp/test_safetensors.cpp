// Hostile containers: whatever the bytes are, File returns or throws bqq::Error and never reads outside the file.
#include "bqq/file.hpp"

#include "check.hpp"
#include "files.hpp"

#include "file/crc32.hpp"
#include "file/safetensors.hpp"
#include "file/text.hpp"

#include <algorithm>
#include <limits>

using namespace bqq;
using files::TemporaryDirectory;

namespace {

std::string container(const std::string& header, const std::string& data = "") {
    std::string s;
    for (int i = 0; i < 8; ++i) s += char(std::uint64_t(header.size()) >> 8 * i & 255);
    return s + header + data;
}

/// The text of the error that opening these bytes and all their matrices gives, mapped or read, "" when they load.
/// Anything but Error(format) is a failure.
std::string open_error(const std::string& bytes) {
    static const TemporaryDirectory dir;
    static bool read = false;
    const std::string path = dir.file("hostile");
    files::write(path, bytes);
    try {
        read = !read;
        files::matrices(read ? File::read(path) : File::open(path));
        return "";
    } catch (const Error& e) {
        if (e.code() != ErrorCode::format)
            check::fail(__FILE__, __LINE__, std::string("not a format error: ") + e.what());
        if (!std::strstr(e.what(), "hostile\"") || !detail::is_utf8(e.what()))
            check::fail(__FILE__, __LINE__, std::string("text without path or not UTF-8: ") + e.what());
        return e.what();
    }
}

void check_error(const std::string& bytes, const char* part) {
    const std::string text = open_error(bytes);
    if (text.find(part) == std::string::npos)
        check::fail(__FILE__, __LINE__, std::string("expected '") + part + "', got '" + text + "'");
}

/// A header of one U8 tensor "t" with this entry, and data.
void check_entry(const std::string& entry, std::size_t bytes, const char* part) {
    check_error(container("{\"t\":" + entry + "}", std::string(bytes, 'x')), part);
}

std::string escape(const std::string& s) {
    std::string out;
    detail::append_json(out, s);
    return out;
}

/// A version 1 file with one matrix "w", every piece of which a test may spoil.
struct Pieces {
    Layout a;
    std::string y, z, scales, version = "\"bqq\":\"1\",", y_name = "w.bqq_y", y_dtype = "U8", z_dtype = "U8",
                              s_dtype = "F32", key = "bqq.w", record, extra;

    explicit Pieces(const Layout& layout) : a(layout) {
        const Matrix q = files::random_matrix(layout, 7);
        y.assign(q.Y.begin(), q.Y.end());
        z.assign(q.Z.begin(), q.Z.end());
        set_scales(q.scales);
    }
    void set_scales(const std::vector<float>& s) { // the machines that run the tests are little-endian
        scales.assign(reinterpret_cast<const char*>(s.data()), 4 * s.size());
    }
    std::string layout_json() const {
        const auto pair = [](bqq::Index u, bqq::Index v) {
            return "[" + std::to_string(u) + "," + std::to_string(v) + "]";
        };
        return "\"shape\":" + pair(a.m, a.n) + ",\"grid\":" + pair(a.J, a.K) + ",\"block\":" + pair(a.rows, a.cols) +
               ",\"p\":" + std::to_string(a.p) + ",\"l\":" + std::to_string(a.l);
    }
    std::string crc() const {
        std::string bytes = "w";
        for (const bqq::Index v : {a.m, a.n, a.J, a.K, a.rows, a.cols, a.p, a.l})
            for (int i = 0; i < 8; ++i) bytes += char(std::uint64_t(v) >> 8 * i & 255);
        bytes += y + z + scales;
        char text[16];
        std::snprintf(text, sizeof text, "%08x",
                      unsigned(detail::crc32(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size())));
        return text;
    }
    std::string file() const {
        std::size_t at = 0;
        const auto entry = [&](const std::string& name, const std::string& dtype, std::vector<bqq::Index> shape,
                               const std::string& data) {
            std::string s = escape(name) + ":{\"dtype\":\"" + dtype + "\",\"shape\":[";
            for (std::size_t i = 0; i < shape.size(); ++i) s += (i ? "," : "") + std::to_string(shape[i]);
            s += "],\"data_offsets\":[" + std::to_string(at) + "," + std::to_string(at + data.size()) + "]}";
            at += data.size();
            return s;
        };
        const std::string r = record.empty() ? "{" + layout_json() + ",\"crc32\":\"" + crc() + "\"}" : record;
        std::string header = "{\"__metadata__\":{" + version + escape(key) + ":" + escape(r) + "}";
        header += "," + entry(y_name, y_dtype, {a.J, a.K, a.p, a.rows, a.y_row_bytes()}, y);
        header += "," + entry("w.bqq_z", z_dtype, {a.J, a.K, a.p, a.l, a.z_row_bytes()}, z);
        header += "," + entry("w.bqq_scales", s_dtype, {a.J, a.K, a.scales_per_block()}, scales);
        return container(header + extra + "}", y + z + scales);
    }
};

const Layout kLayout = files::layout(7, 10, 2, 3, 2, 9);

} // namespace

TEST(legal_containers) {
    CHECK_EQ(open_error(container("{}")), std::string());
    CHECK_EQ(open_error(container("{ }  \n\t\r ")), std::string());
    CHECK_EQ(open_error(container("{\"__metadata__\":{}}")), std::string());
    CHECK_EQ(open_error(container("{\"__metadata__\":null}")), std::string());
    CHECK_EQ(open_error(container("{\"t\":{\"x\":[{\"y\":[-1.5e3,true,null,\"z\"]}],\"dtype\":\"U8\",\"shape\":[0],"
                                  "\"data_offsets\":[0,0]}}")),
             std::string());
    CHECK_EQ(open_error(container("{\"__metadata__\":{\"bqq\":\"1\"}}")), std::string());
    CHECK_EQ(open_error(container("{\"t\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[0,0]}}")),
             std::string());
    CHECK_EQ(open_error(container("{\"s\":{\"shape\":[],\"data_offsets\":[1,3],\"dtype\":\"F16\"},"
                                  "\"t\":{\"new\":{\"a\":[1,-2.5e+7,true,null,\"\\u00e9\"]},\"dtype\":\"U8\","
                                  "\"shape\":[1],\"data_offsets\":[0,1]},"
                                  "\"e\":{\"dtype\":\"I64\",\"shape\":[0],\"data_offsets\":[1,1]}}",
                                  "abc")),
             std::string());
    CHECK_EQ(open_error(Pieces(kLayout).file()), std::string());
    CHECK_EQ(open_error(Pieces(files::layout(1, 1, 1, 1, 1, 1)).file()), std::string());
}

TEST(elements_smaller_than_a_byte) {
    const auto file = [](const std::string& dtype, const std::string& shape, std::size_t bytes) {
        return container("{\"t\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":[0," +
                             std::to_string(bytes) + "]}}",
                         std::string(bytes, 'x'));
    };
    CHECK_EQ(open_error(file("F4", "[2,3]", 3)), std::string());
    CHECK_EQ(open_error(file("F4", "[0]", 0)), std::string());
    CHECK_EQ(open_error(file("F6_E2M3", "[4]", 3)), std::string());
    CHECK_EQ(open_error(file("F6_E3M2", "[2,2,3]", 9)), std::string());
    CHECK_EQ(open_error(file("F8_E4M3FNUZ", "[3]", 3)), std::string());
    CHECK_EQ(open_error(file("F8_E5M2FNUZ", "[1]", 1)), std::string());
    check_error(file("F4", "[3]", 2), "shape [3] of F4 ends within a byte");
    check_error(file("F4", "[]", 1), "ends within a byte");
    check_error(file("F6_E2M3", "[2]", 2), "ends within a byte");
    check_error(file("F4", "[4]", 4), "span 4 bytes, expected 2 for F4 [4]");
    check_error(file("F4", "[9223372036854775807]", 4), "ends within a byte");
    check_error(file("F4", "[9223372036854775806]", 4), "span 4 bytes, expected 4611686018427387903");
    std::size_t bytes = 0;
    CHECK(detail::tensor_bytes({(bqq::Index(1) << 62), 1}, 64, bytes) != nullptr);
    CHECK(detail::tensor_bytes({8, 3}, 6, bytes) == nullptr && bytes == 18);
}

TEST(escapes_are_decoded) {
    const TemporaryDirectory dir;
    files::write(dir.file("e"), container("{\"__metadata__\":{\"\\\"\\\\\\/\\b\\f\\n\\r\\t\":"
                                          "\"\\u0041\\u00e4\\u20AC\\uD83D\\uDE00\\u0000\"}}"));
    const File file = File::open(dir.file("e"));
    CHECK_EQ(file.metadata().at("\"\\/\b\f\n\r\t"), std::string("A\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80\0", 11));
}

TEST(malformed_headers) {
    for (std::size_t i = 0; i < 8; ++i) check_error(std::string(i, '\0'), "bytes, a safetensors file has");
    check_error(std::string(8, '\0'), "does not begin with '{'");
    check_error(std::string(8, '\xFF'), "header length 18446744073709551615 is above 100000000");
    check_error(std::string(8, '\xFF') + "{}", "is above");
    check_error("{\"metadata\": {}, \"weight_map\": {}}", "JSON text, not a safetensors file");
    check_error(std::string("\x01\xE1\xF5\x05\0\0\0\0{}", 10), "header length 100000001 is above 100000000");
    check_error(std::string("\0\xE1\xF5\x05\0\0\0\0{}", 10), "header length 100000000 reaches beyond");
    check_error(std::string("\3\0\0\0\0\0\0\0{}", 10), "reaches beyond the file of 10 bytes");
    check_error(container(" {}"), "does not begin with '{'");
    check_error(container("[]"), "does not begin with '{'");
    check_error(container("{"), "byte 1: syntax error while parsing object key - unexpected end of input; expected");
    check_error(container("{\"a\""), "expected ':'");
    check_error(container("{\"a"), "byte 3: syntax error while parsing object key - invalid string: missing closing");
    check_error(container("{}x"), "unexpected text");
    check_error(container("{}{}"), "byte 2: unexpected text");
    check_error(container(std::string("{}\0", 3)), "byte 2: NUL");
    check_error(container(std::string("{\"\0\":1}", 8)), "byte 2: NUL");
    check_error(container("{,}"), "expected string literal");
    check_error(container("{\"__metadata__\":{\"a\":\"b\",}}"), "expected string literal");
    check_error(container("{'a':1}"), "byte 1: syntax error");
    check_error(container("{/**/}"), "byte 1: syntax error");
    check_error(container("{\"a\":nul}"), "syntax error");
    check_error(container("{\"a\":1}"), "expected an object");
    check_error(container("{\"t\":{\"x\":1e999}}"), "out of range");
    check_error(container("{\"__metadata__\":{\"a\":1}}"), "expected a string");
    check_error(container("{\"__metadata__\":[]}"), "expected an object");
    check_error(container("{\"__metadata__\":{},\"__metadata__\":{}}"), "\"__metadata__\" occurs twice");
    check_error(container("{\"__metadata__\":{\"a\":\"\",\"\\u0061\":\"\"}}"), "\"a\" occurs twice");
    check_error(container("{\"__metadata__\":{\"a\":\"\n\"}}"), "control character U+000A");
    for (const char* s : {"\x80", "\xC0\x80", "\xC1\xBF", "\xC3", "\xE0\x80\x80", "\xED\xA0\x80", "\xF0\x80\x80\x80",
                          "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xE2\x82"})
        check_error(container("{\"__metadata__\":{\"" + std::string(s) + "\":\"\"}}"), "ill-formed UTF-8 byte");
    for (const char* s : {"\\", "\\x", "\\u", "\\u12", "\\u123g", "\\uD800", "\\uD800\\n", "\\uD800\\u0041", "\\uDC00",
                          "\\uD800\\uD800", "\\U00000041"})
        CHECK(open_error(container("{\"__metadata__\":{\"" + std::string(s) + "\":\"\"}}")) != "");
    for (std::size_t depth : {40u, 100000u})
        for (const char* open : {"[", "{\"a\":"}) {
            std::string nested;
            for (std::size_t i = 0; i < depth; ++i) nested += open;
            check_error(container("{\"t\":{\"x\":" + nested), "nested deeper than 32");
        }
}

TEST(malformed_entries) {
    const std::string u8 = "{\"dtype\":\"U8\",";
    check_entry("{}", 0, "expected dtype, shape and two data_offsets");
    check_entry("1", 0, "expected an object");
    check_entry(u8 + "\"shape\":[1]}", 1, "expected dtype, shape");
    check_entry(u8 + "\"data_offsets\":[0,1]}", 1, "expected dtype, shape");
    check_entry("{\"shape\":[1],\"data_offsets\":[0,1]}", 1, "expected dtype, shape");
    check_entry(u8 + "\"shape\":[1],\"data_offsets\":[0]}", 1, "two data_offsets");
    check_entry(u8 + "\"shape\":[1],\"data_offsets\":[0,1,1]}", 1, "more than 2 numbers");
    check_entry(u8 + "\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,1]}", 1, "\"shape\" occurs twice");
    check_entry("{\"dtype\":\"U7\",\"shape\":[1],\"data_offsets\":[0,1]}", 1, "unknown dtype \"U7\"");
    check_entry("{\"dtype\":\"u8\",\"shape\":[1],\"data_offsets\":[0,1]}", 1, "unknown dtype \"u8\"");
    check_entry(u8 + "\"shape\":[-1],\"data_offsets\":[0,1]}", 1, "non-negative integer");
    check_entry(u8 + "\"shape\":[1.0],\"data_offsets\":[0,1]}", 1, "not a fraction");
    check_entry(u8 + "\"shape\":[1e0],\"data_offsets\":[0,1]}", 1, "not a fraction");
    check_entry(u8 + "\"shape\":[01],\"data_offsets\":[0,1]}", 1, "unexpected number literal; expected ']'");
    check_entry(u8 + "\"shape\":[null],\"data_offsets\":[0,1]}", 1, "non-negative integer");
    check_entry(u8 + "\"shape\":[9223372036854775808],\"data_offsets\":[0,1]}", 1, "not below 2^63");
    check_entry(u8 + "\"shape\":[99999999999999999999999],\"data_offsets\":[0,1]}", 1, "not below 2^63");
    check_entry(u8 + "\"shape\":[9223372036854775807,2],\"data_offsets\":[0,1]}", 1, "overflows");
    check_entry(u8 + "\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}", 0, "overflows");
    check_entry("{\"dtype\":\"F64\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]}", 0, "overflows");
    check_entry(u8 + "\"shape\":[9223372036854775807],\"data_offsets\":[0,9223372036854775807]}", 1, "truncated");
    check_entry(u8 + "\"shape\":[1],\"data_offsets\":[1,0]}", 1, "are not a range");
    check_entry(u8 + "\"shape\":[2],\"data_offsets\":[0,2]}", 1, "are not a range within the 1 bytes");
    check_entry(u8 + "\"shape\":[2],\"data_offsets\":[0,1]}", 1, "span 1 bytes, expected 2 for U8 [2]");
    check_entry("{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,1]}", 1, "span 1 bytes, expected 4");
    check_entry(u8 + "\"shape\":[1],\"data_offsets\":[1,2]}", 2, "expected 0: tensors overlap or leave a hole");
    check_entry(u8 + "\"shape\":[1],\"data_offsets\":[0,1]}", 2, "there are 2 bytes");
    const auto two = [](const char* a, const char* b) {
        return std::string("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":") + a +
               "},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":" + b + "}}";
    };
    CHECK_EQ(open_error(container(two("[2,4]", "[0,2]"), "xxxx")), std::string());
    check_error(container(two("[0,2]", "[1,3]"), "xxx"), "overlap");
    check_error(container(two("[0,2]", "[0,2]"), "xx"), "overlap");
    check_error(container(two("[0,2]", "[3,5]"), "xxxxx"), "hole");
    check_error(container("{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[1,1]},"
                          "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
                          "xx"),
                "overlap");
    check_error(container(two("[0,2]", "[2,4]").replace(2, 1, "b"), "xxxx"), "\"b\" occurs twice");
    check_error(container("{\"a\\u0000\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}"), "contains NUL");
}

TEST(malformed_matrices) {
    const auto spoil = [](auto&& change, const char* part, const Layout& a = kLayout) {
        Pieces p(a);
        change(p);
        check_error(p.file(), part);
    };
    spoil([](Pieces& p) { p.version = "\"bqq\":\"3\","; },
          "format version 3 is newer than this library, which reads versions up to 2: update bqq");
    spoil([](Pieces& p) { p.version = "\"bqq\":\"10000000000\","; }, "is newer");
    for (const char* v : {"", "0", "01", "1.0", "-1", "x", " 1"})
        spoil([&](Pieces& p) { p.version = std::string("\"bqq\":\"") + v + "\","; }, "expected a version number");
    spoil([](Pieces& p) { p.version = ""; }, "without the format version");
    spoil([](Pieces& p) { p.key = "bqq."; }, "names no matrix");
    spoil([](Pieces& p) { p.key = "bqq.v"; }, "\"v.bqq_y\" is missing");
    spoil([](Pieces& p) { p.key = "other"; }, "belongs to no matrix");
    spoil([](Pieces& p) { p.y_name = "v.bqq_y"; }, "\"w.bqq_y\" is missing");
    spoil([](Pieces& p) { p.extra = ",\"v.bqq_z\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}"; },
          "\"v.bqq_z\" belongs to no matrix");
    spoil([](Pieces& p) { p.extra = ",\"w\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}"; }, "both called");
    spoil([](Pieces& p) { p.y_dtype = "I8"; }, "\"w.bqq_y\" has dtype I8, expected U8");
    spoil([](Pieces& p) { p.z_dtype = "BOOL"; }, "\"w.bqq_z\" has dtype BOOL");
    spoil([](Pieces& p) { p.s_dtype = "I32"; }, "expected F32 or F16");
    spoil([](Pieces& p) { p.s_dtype = "U32"; }, "expected F32 or F16");
    for (const char part : {'y', 'z', 's'})
        spoil(
            [&](Pieces& p) {
                const std::string crc = p.crc();
                std::string& bytes = part == 'y' ? p.y : part == 'z' ? p.z : p.scales;
                p.record = "{" + p.layout_json() + ",\"crc32\":\"" + crc + "\"}";
                bytes[3] = char(bytes[3] ^ 1);
            },
            "checksum does not match");
    // Layouts that disagree with the tensors or with themselves; the checksum is right.
    const auto layout = [&](auto&& change, const char* part) {
        spoil(
            [&](Pieces& p) {
                const Layout old = p.a;
                change(p.a);
                p.record = "{" + p.layout_json() + ",\"crc32\":\"" + p.crc() + "\"}";
                p.a = old;
            },
            part);
    };
    layout([](Layout& a) { a.p = 0; }, "0 is not between 1 and 64");
    layout([](Layout& a) { a.p = 65; }, "65 is not between 1 and 64");
    layout([](Layout& a) { a.l = 0; }, "0 is not between 1 and 65535");
    layout([](Layout& a) { a.l = 65536; }, "65536 is not between");
    layout([](Layout& a) { a.l = std::numeric_limits<bqq::Index>::max(); }, "is not between");
    layout([](Layout& a) { a.m = (bqq::Index(1) << 40) + 1; }, "is not between");
    layout([](Layout& a) { a.m = -7; }, "non-negative");
    layout([](Layout& a) { a.rows = (bqq::Index(1) << 20) + 1; }, "is not between");
    layout([](Layout& a) { a.J = bqq::Index(1) << 40, a.K = bqq::Index(1) << 40; }, "its metadata say");
    layout([](Layout& a) { a.l = 17; }, "its metadata say");
    layout([](Layout& a) { a.p = 1; }, "its metadata say");
    layout([](Layout& a) { a.cols = 8; }, "matrix \"w\": "); // the same bytes a row
    layout([](Layout& a) { a.m = 20; }, "matrix \"w\": ");
    layout([](Layout& a) { a.m = 3; }, "matrix \"w\": ");
    layout([](Layout& a) { a.n = 8; }, "matrix \"w\": ");
    layout([](Layout& a) { a.l = 10, a.m = 8; }, ""); // longer but legal: only zero bits are added

    const auto record = [&](const std::string& r, const char* part) { spoil([&](Pieces& p) { p.record = r; }, part); };
    const std::string l = Pieces(kLayout).layout_json(), c = ",\"crc32\":\"" + Pieces(kLayout).crc() + "\"";
    record("x", "metadata of matrix \"w\", byte 0: syntax error");
    record("{}", "expected the keys shape, grid");
    record("{" + l + "}", "expected the keys shape, grid");
    record("{" + l + c + "} x", "unexpected text");
    record("{" + l + c + ",\"more\":1}", "unknown key \"more\"");
    record("{" + l + ",\"col_order\":1" + c + "}", "orders or entries in a file of version 1");
    record("{" + l + ",\"col_order\":0" + c + "}", "0 is not between 1 and 1");
    record("{" + l + ",\"entries\":0" + c + "}", "0 is not between 1 and");
    record("{" + l + ",\"entries\":[1]" + c + "}", "expected a non-negative integer");
    record("{" + l + c + c + "}", "\"crc32\" occurs twice");
    record("{" + l + ",\"crc32\":\"\"}", "crc32 is \"\", expected 8 digits");
    record("{" + l + ",\"crc32\":\"1234567\"}", "expected 8 digits");
    record("{" + l + ",\"crc32\":\"123456789\"}", "expected 8 digits");
    record("{" + l + ",\"crc32\":\"1234567G\"}", "expected 8 digits");
    record("{" + l + ",\"crc32\":12345678}", "expected a string");
    record("{\"shape\":[7]}", "expected two numbers");
    record("\xEF\xBB\xBF{}", "expected an object, not a byte order mark");
    record("\"x\"", "expected an object");
    record("[1]", "expected an object");
    record("7", "expected an object");
    record("{\"l\":[7]}", "non-negative integer");
    record("{\"shape\":[[7,7],[7,7]]}", "non-negative integer");
    record("{\"shape\":{\"a\":7}}", "expected an array");
    record("{\"shape\":[7,10,1]}", "expected two numbers");
    record("{\"shape\":7}", "expected an array");

    // What the checksum agrees with and validate() must refuse.
    spoil([](Pieces& p) { p.y[1] = char(p.y[1] | 2); }, "matrix \"w\": "); // l = 9: bit 9 of a row of Y
    spoil([](Pieces& p) { p.y[p.y.size() - 2] = char(p.y[p.y.size() - 2] | 1); },
          "matrix \"w\": ");                                                       // row 4 of a block of 3
    spoil([](Pieces& p) { p.z[0] = char(p.z[0] | 0x10); }, "matrix \"w\": ");      // 4 columns
    spoil([](Pieces& p) { p.z.back() = char(p.z.back() | 4); }, "matrix \"w\": "); // 2 columns in the last block
    for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()})
        spoil(
            [&](Pieces& p) {
                std::vector<float> s(std::size_t(p.a.scales_count()), 1.0f);
                s[5] = bad;
                p.set_scales(s);
            },
            "matrix \"w\": ");
    spoil(
        [](Pieces& p) { // infinity in float16
            p.s_dtype = "F16";
            p.scales.assign(std::size_t(2 * p.a.scales_count()), '\0');
            p.scales[1] = 0x7C;
        },
        "matrix \"w\": ");
}

TEST(every_truncation_is_an_error) {
    const TemporaryDirectory dir;
    const Matrix q = files::random_matrix(kLayout, 1);
    const std::uint8_t raw[] = {1, 2, 3};
    save(dir.file("w"), {{"w", q.view()}}, {{"t", "U8", {3}, raw, 3}});
    const std::string bytes = files::read(dir.file("w"));
    for (std::size_t size = 0; size < bytes.size(); ++size) CHECK(open_error(bytes.substr(0, size)) != "");
    CHECK(open_error(bytes + '\0') != "");
    CHECK_EQ(open_error(bytes), std::string());
}

TEST(every_flipped_bit_is_an_error) {
    for (const bool f16 : {false, true}) {
        const TemporaryDirectory dir;
        const Matrix q = files::random_matrix(kLayout, 2), r = files::random_matrix(files::layout(3, 5, 1, 1, 1, 2), 3);
        SaveOptions options;
        options.scales = f16 ? Dtype::f16 : Dtype::f32;
        save(dir.file("w"), {{"w", q.view()}, {"x", r.view()}}, {}, options);
        std::string bytes = files::read(dir.file("w"));
        for (std::size_t i = 0; i < 8 * bytes.size(); ++i) {
            bytes[i / 8] = char(bytes[i / 8] ^ 1 << i % 8);
            if (open_error(bytes).empty())
                check::fail(__FILE__, __LINE__, "bit " + std::to_string(i) + " flipped and not seen");
            bytes[i / 8] = char(bytes[i / 8] ^ 1 << i % 8);
        }
        CHECK_EQ(open_error(bytes), std::string());
    }
}

TEST(random_damage_never_crashes) {
    const std::string good = Pieces(kLayout).file();
    std::mt19937 draw(4);
    const std::string interesting = "{}[]\",:\\u0129.eE-+ \n\xFF\x80tfn";
    for (int round = 0; round < 5000; ++round) {
        std::string bytes = good;
        for (int k = int(draw() % 4); k >= 0; --k) {
            const std::size_t at = draw() % bytes.size(), n = 1 + draw() % 8;
            switch (draw() % 4) {
            case 0:
                bytes[at] = char(draw());
                break;
            case 1:
                bytes[at] = interesting[draw() % interesting.size()];
                break;
            case 2:
                bytes.erase(at, n);
                break;
            default:
                bytes.insert(at, bytes.substr(draw() % bytes.size(), n));
                break;
            }
        }
        if (round % 2 && bytes.size() > 600) bytes[0] = char(int(bytes[0]) + int(bytes.size()) - int(good.size()));
        open_error(bytes); // checks the kind of the error
    }
}
