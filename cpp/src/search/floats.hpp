// Padded arrays of floats of the search, and float64 sums over them.
#pragma once

#include "kernels/table.hpp"
#include "memory.hpp"

#include <algorithm>

namespace bqq::detail {

inline Index padded(Index count) { return ceil_div(count, kPad) * kPad; }

inline double sum(Index count, const float* a) {
    double total = 0;
    for (Index i = 0; i < count; ++i) total += double(a[i]);
    return total;
}
inline double dot(Index count, const float* a, const float* b) {
    double total = 0;
    for (Index i = 0; i < count; ++i) total += double(a[i]) * double(b[i]);
    return total;
}

/// Where an array of `count` floats is to be put.
struct PaddedFloats {
    float** at;
    Index count;
};

/// One block of zeros with all the arrays, each from a cache line on.
template <std::size_t N> AlignedMemory zeroed(const PaddedFloats (&parts)[N]) {
    Index size = 0;
    for (const PaddedFloats& part : parts) size += padded(part.count);
    AlignedMemory memory(std::size_t(size) * sizeof(float));
    float* at = static_cast<float*>(memory.data());
    std::fill(at, at + size, 0.0f);
    for (const PaddedFloats& part : parts) {
        *part.at = at;
        at += padded(part.count);
    }
    return memory;
}

} // namespace bqq::detail
