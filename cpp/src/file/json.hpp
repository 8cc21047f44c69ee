// Strict JSON reading for file headers: text that nobody has checked.
#pragma once

#include "bqq/error.hpp"

#include <set>
#include <vector>

namespace bqq::detail {

struct JsonValue {
    enum Kind { object, array, string, number, null, boolean } kind;
    std::string text;            ///< of a string
    Index integer = 0;           ///< of a number, if there is nothing wrong
    const char* wrong = nullptr; ///< why a number is no integer from 0 to 2^63 - 1
};

/// Reads one JSON object and reports each value in the order of the text; nothing is kept. Syntax as in RFC 8259, and:
/// UTF-8 well-formed, no lone surrogates, keys of an object distinct, nesting limited, nothing but white space after
/// the end. What is wrong throws Error(format) whose text begins with `where` and the byte.
class JsonReader {
  public:
    explicit JsonReader(std::string where) : where_(std::move(where)) {}
    JsonReader(const JsonReader&) = delete;
    JsonReader& operator=(const JsonReader&) = delete;
    virtual ~JsonReader() = default;
    void read(const char* text, std::size_t size);

  protected:
    /// A value, at keys(): the keys that lead to it from the outermost object, none for that object itself. Objects and
    /// arrays are reported when they begin; elements of an array have its keys.
    virtual void value(const JsonValue& v) = 0;
    /// The object or array at keys() ends.
    virtual void end() {}

    const std::vector<std::string>& keys() const { return keys_; }
    bool is_element() const { return !levels_.empty() && !levels_.back().is_object; } ///< of an array
    // What must be there, else fail().
    void object(const JsonValue& v) const;
    void array(const JsonValue& v) const;
    const std::string& string(const JsonValue& v) const;
    Index integer(const JsonValue& v) const; ///< from 0 to 2^63 - 1, written in digits alone
    [[noreturn]] void fail(const std::string& what) const;

  private:
    friend struct JsonEvents;
    struct Level {
        bool is_object;
        std::set<std::string> seen;
    };
    void report(const JsonValue& v);
    void begin(JsonValue::Kind kind);
    void key(const std::string& name);
    void close();

    std::string where_;
    std::size_t at_ = 0;
    std::vector<std::string> keys_;
    std::vector<Level> levels_;
};

} // namespace bqq::detail
