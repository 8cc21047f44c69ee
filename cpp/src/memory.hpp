// Memory that starts on a cache line, parts of it, and sizes rounded up.
#pragma once

#include "bqq/error.hpp"

#include <algorithm>
#include <memory>

namespace bqq::detail {

constexpr Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

constexpr std::size_t kAlign = 64;
inline std::size_t aligned(std::size_t size) { return (size + kAlign - 1) / kAlign * kAlign; }
inline bool is_aligned(const void* at) { return reinterpret_cast<std::uintptr_t>(at) % kAlign == 0; }

/// Owns `size` bytes from a cache line on, not initialised. Throws std::bad_alloc.
class AlignedMemory {
  public:
    AlignedMemory() = default;
    explicit AlignedMemory(std::size_t size)
        : owner_(new std::uint8_t[size + kAlign]),
          at_(reinterpret_cast<void*>(aligned(reinterpret_cast<std::uintptr_t>(owner_.get())))) {}
    void* data() const { return at_; }

  private:
    std::unique_ptr<std::uint8_t[]> owner_;
    void* at_ = nullptr;
};

/// `count` elements from a cache line on, each `value`.
template <class T> struct AlignedArray {
    AlignedMemory memory;
    T* at;
    explicit AlignedArray(std::size_t count, T value = T())
        : memory(count * sizeof(T)), at(static_cast<T*>(memory.data())) {
        std::fill_n(at, count, value);
    }
};

/// Hands out aligned parts of one block of memory; with a null base it only measures.
class Arena {
  public:
    explicit Arena(void* base = nullptr) : base_(static_cast<std::uint8_t*>(base)) {}
    template <class T> T* take(Index count) {
        auto* part = reinterpret_cast<T*>(base_ ? base_ + used_ : nullptr);
        used_ += aligned(std::size_t(count) * sizeof(T));
        return part;
    }
    float* floats(Index count) { return take<float>(count); }
    std::size_t used() const { return used_; }

  private:
    std::uint8_t* base_;
    std::size_t used_ = 0;
};

} // namespace bqq::detail
