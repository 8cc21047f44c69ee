// Hands out aligned parts of one block of memory; with a null base it only measures.
#pragma once

#include "prepared.hpp"

namespace bqq::detail {

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
