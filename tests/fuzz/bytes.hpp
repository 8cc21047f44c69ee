// What a fuzzer's bytes are taken for: numbers that lie where arithmetic goes wrong, floats of every kind. Bytes that
// have run out are zeros.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace fuzz {

/// The process ends here if what is promised does not hold: in a fuzzer that is a finding.
inline void promise(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "broken promise: %s\n", what);
    std::abort();
}

class Bytes {
  public:
    Bytes(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}

    bool empty() const { return at_ == end_; }

    template <class T> T take() {
        T value{};
        const std::size_t size = std::min(sizeof value, std::size_t(end_ - at_));
        std::memcpy(&value, at_, size);
        at_ += size;
        return value;
    }

    /// From low to high, both included.
    std::int64_t within(std::int64_t low, std::int64_t high) {
        return low + std::int64_t(take<std::uint16_t>() % std::uint64_t(high - low + 1));
    }
    bool often() { return take<std::uint8_t>() % 8 != 7; } ///< seven times out of eight

    /// Small, near a power of two, or anything.
    std::int64_t number() {
        const auto kind = take<std::uint8_t>();
        if (kind < 160) return kind % 20;
        if (kind < 170) return -std::int64_t(kind - 159);
        if (kind < 250) return std::int64_t((std::uint64_t(1) << kind % 64) + std::uint64_t(kind / 64) - 3);
        return take<std::int64_t>();
    }

    /// Mostly small integers; else bits as they come, NaN and infinities among them.
    float real(bool tame) {
        const auto kind = take<std::int8_t>();
        return tame || kind % 8 ? float(kind) / 4 : take<float>();
    }
    std::vector<float> reals(std::size_t count, bool tame) {
        std::vector<float> all(count);
        for (float& x : all) x = real(tame);
        return all;
    }

    std::vector<std::uint8_t> rest() {
        std::vector<std::uint8_t> all(at_, end_);
        at_ = end_;
        return all;
    }

  private:
    const std::uint8_t* at_;
    const std::uint8_t* end_;
};

} // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
