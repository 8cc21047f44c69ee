// Sums for the joint solve of all scales of a patch, residuals and their spread: the twins of cpp/src/scales.hpp and
// pack.hpp. Device pointers, work ordered on the stream that comes last; nothing is allocated here and nothing waits.
#pragma once

#include "patch.cuh"
#include "search/schedule.hpp"

namespace bqq::cuda {

/// Patches of at most rows x cols with `stacks` stacks of room for their words: Y[count][stacks][rows][words_of(l)],
/// Z[count][stacks][cols][words_of(l)]. Of each Patch, W, ldw, m, n and active are used.
struct WordBatch {
    int count, rows, cols, l, stacks;
    const Patch* patches;
    std::uint32_t *Y, *Z;
    std::size_t plane(int patch, int stack) const {
        return std::size_t(patch) * std::size_t(stacks) + std::size_t(stack);
    }
    std::uint32_t* y(int patch, int stack) const { return Y + plane(patch, stack) * std::size_t(rows * words_of(l)); }
    std::uint32_t* z(int patch, int stack) const { return Z + plane(patch, stack) * std::size_t(cols * words_of(l)); }
};

/// The normal equations of the 3p+1 scales of each patch (r_0 s_0 t_0 ... u), p <= stacks: gram[count][3p+1][3p+1],
/// exact; rhs[count][3p+2], of W less its mean, which is the last entry. O(p^2 rows cols l / 32) popcounts.
cudaError_t scale_sums(const WordBatch& batch, int p, std::int64_t* gram, double* rhs, cudaStream_t stream);

/// What a residual W - W_hat tells.
struct Spread : detail::Spread { ///< of the residual rounded to float32
    double error;                ///< sum of squares, in float64 before rounding
};

/// residual[count][rows][cols] = W - W_hat of the first p stacks with scales[count][3p+1], from float64; spread[count].
/// p = 0: W itself. residual may be NULL: only the spread.
cudaError_t residuals(const WordBatch& batch, int p, const float* scales, float* residual, Spread* spread,
                      cudaStream_t stream);

/// Words of the first p stacks of every patch to the planes of bqq::View: Y[count][p][rows][ceil(l/8)],
/// Z[count][p][l][ceil(cols/8)], all bytes written; and back.
cudaError_t planes_of_words(const WordBatch& batch, int p, std::uint8_t* Y, std::uint8_t* Z, cudaStream_t stream);
cudaError_t words_of_planes(const WordBatch& batch, int p, const std::uint8_t* Y, const std::uint8_t* Z,
                            cudaStream_t stream);

/// The words of stack `stack` of each patch of `from` to stack `to_stack` of patch where[patch] of `to`; those with
/// where[patch] < 0 stay.
cudaError_t copy_words(const WordBatch& from, int stack, const int* where, const WordBatch& to, int to_stack,
                       cudaStream_t stream);

/// *first: index (row-major) of the first entry of W (m x n, ldw) that is not finite or beyond `most` in size, or
/// m * n if there is none.
cudaError_t find_invalid(const float* W, std::int64_t m, std::int64_t n, std::int64_t ldw, float most,
                         unsigned long long* first, cudaStream_t stream);

} // namespace bqq::cuda
