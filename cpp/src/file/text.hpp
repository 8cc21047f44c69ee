// UTF-8, names in error texts, JSON strings.
#pragma once

#include <string>

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

} // namespace bqq::detail
