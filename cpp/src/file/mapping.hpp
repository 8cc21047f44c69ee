// The bytes of a file, read-only: mapped, read into memory, or there already.
#pragma once

#include "memory.hpp"

#include <string>

namespace bqq::detail {

class Mapping {
  public:
    /// Regular files alone. `read`: into memory; Error(format) if the file ends before the size it had when it was
    /// opened. Where the system has no mapping, always. Throws Error(io), std::bad_alloc.
    Mapping(const std::string& path, bool read);
    /// Bytes of the caller's, which stay where they are.
    Mapping(const void* data, std::size_t size) : data_(static_cast<const std::uint8_t*>(data)), size_(size) {}
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping();
    const std::uint8_t* data() const { return data_; }
    std::size_t size() const { return size_; }

  private:
    AlignedMemory memory_;
    const std::uint8_t* data_ = nullptr;
    std::size_t size_ = 0;
    bool mapped_ = false;
};

/// "cannot open "path": No such file or directory"
[[noreturn]] void fail_io(const char* what, const std::string& path, int error);

} // namespace bqq::detail
