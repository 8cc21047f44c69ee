// A file that appears whole or not at all.
#pragma once

#include "bqq/error.hpp"

#include <memory>

namespace bqq::detail {

/// Written beside `path`, then put in its place. What stands there and is no regular file is left alone. Without
/// commit() nothing is left behind. Throws Error(io).
class Output {
  public:
    explicit Output(const std::string& path);
    Output(const Output&) = delete;
    Output& operator=(const Output&) = delete;
    ~Output();
    void write(const void* data, std::size_t size);
    void commit(); ///< synced, renamed, the folder synced

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace bqq::detail
