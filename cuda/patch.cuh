// What the solver's kernels know about a patch.
#pragma once

#include "portable.cuh"

namespace bqq::cuda {

/// The target of one stack: X = (W - mean) / divisor. The random numbers are those of (seed, block, stack).
struct Patch {
    const float* W; ///< m x n, ldw elements between rows
    std::int64_t ldw;
    double mean, divisor;
    std::int64_t block;
    std::int32_t stack, m, n;
    std::int32_t active; ///< 0: left alone
};

/// Bits of a stack while it is worked on: rows of Y and columns of Z, both of l bits in words of 32, padding zero.
__host__ __device__ constexpr int words_of(int l) { return (l + 31) / 32; }

/// Room for `count` floats that leaves what follows aligned to 16 bytes.
__host__ __device__ constexpr std::size_t whole_float4(std::size_t count) { return (count + 3) / 4 * 4; }

} // namespace bqq::cuda
