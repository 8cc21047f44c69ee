// Counter-based random numbers: value k of a stream is a function of (key, k), so results do not depend on threads or
// order. Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include "host_device.hpp"

#include <cstdint>

namespace bqq::detail {

struct Philox {
    std::uint32_t key[2];
    std::uint32_t stream[3]; ///< words 1..3 of the counter; word 0 counts

    /// Four 32-bit values of block `at` of the stream.
    BQQ_HOST_DEVICE void operator()(std::uint32_t at, std::uint32_t out[4]) const {
        std::uint32_t c[4] = {at, stream[0], stream[1], stream[2]}, k0 = key[0], k1 = key[1];
        for (int round = 0; round < 10; ++round) {
            const std::uint64_t a = std::uint64_t(0xD2511F53u) * c[0], b = std::uint64_t(0xCD9E8D57u) * c[2];
            const std::uint32_t c1 = c[1], c3 = c[3];
            c[0] = std::uint32_t(b >> 32) ^ c1 ^ k0;
            c[1] = std::uint32_t(b);
            c[2] = std::uint32_t(a >> 32) ^ c3 ^ k1;
            c[3] = std::uint32_t(a);
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        for (int i = 0; i < 4; ++i) out[i] = c[i];
    }
};

/// Uniform in [0, 1) with 24 random bits.
BQQ_HOST_DEVICE inline float to_uniform(std::uint32_t value) { return float(value >> 8) * (1.0f / 16777216.0f); }

/// Sequential uniform floats.
class Uniform {
  public:
    Uniform(std::uint64_t seed, std::uint32_t a, std::uint32_t b, std::uint32_t c)
        : philox_{{std::uint32_t(seed), std::uint32_t(seed >> 32)}, {a, b, c}} {}
    float operator()() {
        if (used_ == 4) philox_(at_++, values_), used_ = 0;
        return to_uniform(values_[used_++]);
    }

  private:
    Philox philox_;
    std::uint32_t at_ = 0, values_[4] = {};
    int used_ = 4;
};

} // namespace bqq::detail
