// What every header of the library needs: what is exported, how sizes are counted, how errors are reported.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#if defined(BQQ_STATIC)
#define BQQ_API
#elif defined(_WIN32)
#if defined(BQQ_BUILDING)
#define BQQ_API __declspec(dllexport)
#else
#define BQQ_API __declspec(dllimport)
#endif
#else
#define BQQ_API __attribute__((visibility("default")))
#endif

namespace bqq {

/// Counts elements, rows, bytes: signed, 64 bits.
using Index = std::int64_t;

/// Numbers are part of the C ABI (bqq_status in bqq.h): never renumber, only append.
enum class ErrorCode : int {
    invalid_argument = 1, ///< an argument is out of range; the text names it, its value and what was expected
    out_of_memory = 2,
    io = 3,          ///< the operating system refused to read or write a file
    format = 4,      ///< a file or a view is malformed, truncated or corrupt
    cancelled = 5,   ///< the progress callback asked to stop
    unsupported = 6, ///< an instruction set or a feature this machine or build lacks
    internal = 7,    ///< a bug in the library
};

/// The only exception type the library throws on purpose (besides std::bad_alloc).
class BQQ_API Error : public std::runtime_error {
  public:
    Error(ErrorCode code, const std::string& what, int system_error = 0)
        : std::runtime_error(what), code_(code), system_error_(system_error) {}
    ErrorCode code() const noexcept { return code_; }
    /// Of an io error, the errno of the operating system; 0 if it gave none.
    int system_error() const noexcept { return system_error_; }

  private:
    ErrorCode code_;
    int system_error_;
};

} // namespace bqq
