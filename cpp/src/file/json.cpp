#include "file/json.hpp"

#include "file/text.hpp"

#include <cstring>
#include <iterator>

#define JSON_ASSERT(condition) static_cast<void>(0) // a library never ends the process
#include <nlohmann/json.hpp>

namespace bqq::detail {

namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxDepth = 32;

/// Bytes of a text that say how far the parser has come.
struct Cursor {
    using iterator_category = std::input_iterator_tag;
    using value_type = char;
    using difference_type = std::ptrdiff_t;
    using pointer = const char*;
    using reference = const char&;

    const char* at;
    std::size_t* count;
    const char& operator*() const { return *at; }
    Cursor& operator++() { return ++at, ++*count, *this; }
    bool operator==(const Cursor& o) const { return at == o.at; }
    bool operator!=(const Cursor& o) const { return at != o.at; }
};

} // namespace

/// The parser's events, handed on.
struct JsonEvents : nlohmann::json_sax<Json> {
    explicit JsonEvents(JsonReader& reader) : r(reader) {}

    bool null() override { return r.report({JsonValue::null, {}}), true; }
    bool boolean(bool) override { return r.report({JsonValue::boolean, {}}), true; }
    bool string(string_t& s) override { return r.report({JsonValue::string, std::move(s)}), true; }
    bool number_integer(number_integer_t) override { return number(0, "expected a non-negative integer"); }
    bool number_unsigned(number_unsigned_t u) override {
        return u > INT64_MAX ? number(0, kTooLarge) : number(Index(u), nullptr);
    }
    bool number_float(number_float_t, const string_t& digits) override {
        if (digits.find_first_of(".eE") != std::string::npos) return number(0, "expected an integer, not a fraction");
        return digits[0] == '-' ? number_integer(0) : number(0, kTooLarge);
    }
    bool binary(binary_t&) override { return false; }
    bool start_object(std::size_t) override { return r.begin(JsonValue::object), true; }
    bool start_array(std::size_t) override { return r.begin(JsonValue::array), true; }
    bool key(string_t& name) override { return r.key(name), true; }
    bool end_object() override { return r.close(), ended = r.levels_.empty(), true; }
    bool end_array() override { return r.close(), true; }

    bool parse_error(std::size_t position, const std::string&, const Json::exception& error) override {
        r.at_ = position ? position - 1 : 0;
        if (ended) r.fail("unexpected text after the end");
        if (error.id == 406) r.fail("a number is out of range");
        // "[json.exception...] parse error at line 1, column 2: what is wrong; last read: '...'; ..."
        std::string what = error.what();
        what.erase(0, what.find(": ") + 2);
        r.fail(what.substr(0, what.find("; last read")));
    }

  private:
    static constexpr char kTooLarge[] = "an integer is not below 2^63";
    bool number(Index integer, const char* wrong) { return r.report({JsonValue::number, {}, integer, wrong}), true; }

    JsonReader& r;
    bool ended = false;
};

void JsonReader::read(const char* text, std::size_t size) {
    at_ = 0, keys_.clear(), levels_.clear();
    const auto* const zero = static_cast<const char*>(std::memchr(text, 0, size)); // where the parser would stop
    if (size >= 3 && std::memcmp(text, "\xEF\xBB\xBF", 3) == 0) fail("expected an object, not a byte order mark");
    if (zero) at_ = std::size_t(zero - text), fail("NUL in the text");
    JsonEvents events(*this);
    Json::sax_parse(Cursor{text, &at_}, Cursor{text + size, &at_}, &events);
}

void JsonReader::report(const JsonValue& v) {
    if (levels_.empty()) object(v);
    value(v);
}

void JsonReader::begin(JsonValue::Kind kind) {
    if (levels_.size() == kMaxDepth) fail("nested deeper than " + std::to_string(kMaxDepth));
    report({kind, {}});
    levels_.push_back({kind == JsonValue::object, {}});
}

void JsonReader::key(const std::string& name) {
    Level& level = levels_.back();
    if (!level.seen.empty()) keys_.pop_back();
    if (!level.seen.insert(name).second) fail("key " + quote(name) + " occurs twice");
    keys_.push_back(name);
}

void JsonReader::close() {
    if (!levels_.back().seen.empty()) keys_.pop_back();
    levels_.pop_back();
    end();
}

void JsonReader::object(const JsonValue& v) const {
    if (v.kind != JsonValue::object) fail("expected an object");
}

void JsonReader::array(const JsonValue& v) const {
    if (v.kind != JsonValue::array) fail("expected an array");
}

const std::string& JsonReader::string(const JsonValue& v) const {
    if (v.kind != JsonValue::string) fail("expected a string");
    return v.text;
}

Index JsonReader::integer(const JsonValue& v) const {
    if (v.kind != JsonValue::number) fail("expected a non-negative integer");
    if (v.wrong) fail(v.wrong);
    return v.integer;
}

void JsonReader::fail(const std::string& what) const {
    throw Error(ErrorCode::format, where_ + ", byte " + std::to_string(at_) + ": " + what);
}

} // namespace bqq::detail
