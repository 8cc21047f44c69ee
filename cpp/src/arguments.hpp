// The error for a bad argument.
#pragma once

#include "bqq/error.hpp"

namespace bqq::detail {

[[noreturn]] inline void bad_argument(const std::string& text) { throw Error(ErrorCode::invalid_argument, text); }

/// "name is value, expected expected"; numbers as decimal text.
[[noreturn]] inline void bad_value(const std::string& name, Index value, const std::string& expected) {
    bad_argument(name + " is " + std::to_string(value) + ", expected " + expected);
}

} // namespace bqq::detail
