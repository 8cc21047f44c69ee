// Strict JSON reading, just what file headers need, for text that nobody has checked; and the UTF-8 helpers with it.
#pragma once

#include "bqq/matrix.hpp"

#include <set>
#include <string>
#include <utility>

namespace bqq::detail {

/// Length of the well-formed UTF-8 sequence at s (RFC 3629: no overlong forms, no surrogates), 0 if there is none.
inline std::size_t utf8_length(const char* s, std::size_t size) noexcept {
    const auto byte = [&](std::size_t i) { return i < size ? static_cast<unsigned char>(s[i]) : 0u; };
    const auto tail = [&](std::size_t i, unsigned low = 0x80, unsigned high = 0xBF) {
        return byte(i) >= low && byte(i) <= high;
    };
    if (size == 0) return 0;
    const unsigned a = byte(0);
    if (a < 0x80) return 1;
    if (a >= 0xC2 && a <= 0xDF) return tail(1) ? 2 : 0;
    if (a >= 0xE0 && a <= 0xEF) return tail(1, a == 0xE0 ? 0xA0 : 0x80, a == 0xED ? 0x9F : 0xBF) && tail(2) ? 3 : 0;
    if (a >= 0xF0 && a <= 0xF4)
        return tail(1, a == 0xF0 ? 0x90 : 0x80, a == 0xF4 ? 0x8F : 0xBF) && tail(2) && tail(3) ? 4 : 0;
    return 0;
}

inline bool is_utf8(const std::string& s) noexcept {
    for (std::size_t i = 0; i < s.size();) {
        const std::size_t n = utf8_length(s.data() + i, s.size() - i);
        if (!n) return false;
        i += n;
    }
    return true;
}

/// Appends s, which must be UTF-8, as a JSON string.
inline void append_json(std::string& out, const std::string& s) {
    static const char hex[] = "0123456789abcdef";
    out += '"';
    for (const char c : s) {
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (static_cast<unsigned char>(c) < 0x20) {
            out += "\\u00";
            out += hex[c >> 4];
            out += hex[c & 15];
        } else {
            out += c;
        }
    }
    out += '"';
}

/// A name for an error text: in quotes, valid UTF-8 without control characters whatever it was, at most about 200
/// bytes.
inline std::string quote(const std::string& s) {
    static const char hex[] = "0123456789abcdef";
    std::string out = "\"";
    for (std::size_t i = 0; i < s.size();) {
        if (out.size() > 200) return out + "...\"";
        const std::size_t n = utf8_length(s.data() + i, s.size() - i);
        const unsigned char c = static_cast<unsigned char>(s[i]);
        if (n == 0 || c < 0x20 || c == 0x7F) {
            out += "\\x";
            out += hex[c >> 4];
            out += hex[c & 15];
            ++i;
        } else {
            out.append(s, i, n);
            i += n;
        }
    }
    return out + '"';
}

/// A cursor over one JSON text. Each call consumes one value of the kind it names or throws Error(format) whose text
/// begins with `where` and the byte. Never reads outside [text, text + size); nesting is limited; keys of an object
/// must differ.
class JsonReader {
  public:
    JsonReader(const char* text, std::size_t size, std::string where)
        : text_(text), size_(size), where_(std::move(where)) {}

    /// Calls member(key) for each key; it must consume the value.
    template <class F> void object(F&& member) {
        open('{', "an object");
        std::set<std::string> keys;
        if (!take('}')) {
            do {
                space();
                const auto [key, fresh] = keys.insert(string());
                if (!fresh) fail("key " + quote(*key) + " occurs twice");
                space();
                if (!take(':')) fail("expected ':' after key " + quote(*key));
                member(*key);
                space();
            } while (take(','));
            if (!take('}')) fail("expected ',' or '}' in an object");
        }
        --depth_;
    }

    /// Calls element() for each element; it must consume it.
    template <class F> void array(F&& element) {
        open('[', "an array");
        if (!take(']')) {
            do {
                element();
                space();
            } while (take(','));
            if (!take(']')) fail("expected ',' or ']' in an array");
        }
        --depth_;
    }

    std::string string() {
        space();
        if (!take('"')) fail("expected a string");
        std::string out;
        for (;;) {
            if (at_ == size_) fail("a string is not closed");
            const unsigned char c = static_cast<unsigned char>(text_[at_]);
            if (c == '"') break;
            if (c < 0x20) fail("control character in a string");
            if (c == '\\') {
                ++at_;
                escape(out);
                continue;
            }
            const std::size_t n = utf8_length(text_ + at_, size_ - at_);
            if (!n) fail("a string is not valid UTF-8");
            out.append(text_ + at_, n);
            at_ += n;
        }
        ++at_;
        return out;
    }

    /// A non-negative integer below 2^63, written in digits alone.
    Index integer() {
        space();
        if (!digit()) fail("expected a non-negative integer");
        if (text_[at_] == '0' && at_ + 1 < size_ && text_[at_ + 1] >= '0' && text_[at_ + 1] <= '9')
            fail("a number begins with 0");
        Index value = 0;
        for (; digit(); ++at_) {
            const int d = text_[at_] - '0';
            if (value > (INT64_MAX - d) / 10) fail("an integer is not below 2^63");
            value = 10 * value + d;
        }
        if (at_ < size_ && (text_[at_] == '.' || text_[at_] == 'e' || text_[at_] == 'E'))
            fail("expected an integer, not a fraction");
        return value;
    }

    /// Any value, checked and dropped.
    void skip() {
        space();
        const char c = at_ < size_ ? text_[at_] : '\0';
        if (c == '{') return object([&](const std::string&) { skip(); });
        if (c == '[') return array([&] { skip(); });
        if (c == '"') return void(string());
        for (const char* word : {"true", "false", "null"})
            if (c == word[0]) {
                for (; *word; ++word)
                    if (!take(*word)) fail("expected true, false or null");
                return;
            }
        take('-');
        if (!take('0')) digits();
        if (take('.')) digits();
        if (take('e') || take('E')) {
            if (!take('+')) take('-');
            digits();
        }
    }

    /// Only white space may follow.
    void finish() {
        space();
        if (at_ != size_) fail("unexpected text after the end");
    }

    [[noreturn]] void fail(const std::string& what) const {
        throw Error(ErrorCode::format, where_ + ", byte " + std::to_string(at_) + ": " + what);
    }

  private:
    static constexpr int kMaxDepth = 32;

    void open(char bracket, const char* kind) {
        space();
        if (!take(bracket)) fail(std::string("expected ") + kind);
        if (++depth_ > kMaxDepth) fail("nested deeper than " + std::to_string(kMaxDepth));
        space();
    }
    void space() {
        while (at_ < size_ && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t'))
            ++at_;
    }
    bool take(char c) {
        if (at_ == size_ || text_[at_] != c) return false;
        ++at_;
        return true;
    }
    bool digit() const { return at_ < size_ && text_[at_] >= '0' && text_[at_] <= '9'; }
    void digits() {
        if (!digit()) fail("expected a value");
        while (digit()) ++at_;
    }
    unsigned hex4() {
        unsigned u = 0;
        for (int i = 0; i < 4; ++i, ++at_) {
            const char c = at_ < size_ ? text_[at_] : '\0';
            const int d = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
            if (d < 0) fail("\\u needs four hexadecimal digits");
            u = 16 * u + unsigned(d);
        }
        return u;
    }
    void escape(std::string& out) {
        static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
        for (int i = 0; from[i]; ++i)
            if (take(from[i])) return void(out += to[i]);
        if (!take('u')) fail("unknown escape in a string");
        unsigned u = hex4();
        if (u >= 0xDC00 && u <= 0xDFFF) fail("\\u escape is a lone low surrogate");
        if (u >= 0xD800 && u <= 0xDBFF) {
            if (!take('\\') || !take('u')) fail("\\u escape is a lone high surrogate");
            const unsigned low = hex4();
            if (low < 0xDC00 || low > 0xDFFF) fail("\\u escape is a lone high surrogate");
            u = 0x10000 + ((u - 0xD800) << 10) + (low - 0xDC00);
        }
        const auto put = [&](unsigned byte) { out += static_cast<char>(byte); };
        if (u < 0x80) return put(u);
        if (u < 0x800) {
            put(0xC0 | u >> 6);
        } else {
            if (u < 0x10000) {
                put(0xE0 | u >> 12);
            } else {
                put(0xF0 | u >> 18);
                put(0x80 | (u >> 12 & 63));
            }
            put(0x80 | (u >> 6 & 63));
        }
        put(0x80 | (u & 63));
    }

    const char* text_;
    std::size_t size_, at_ = 0;
    std::string where_;
    int depth_ = 0;
};

} // namespace bqq::detail
