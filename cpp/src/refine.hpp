// Discrete refinement: the bits of all stacks of a block, annealed together. With one side and the scales fixed, every
// row of W is a binary least-squares problem over the p l bits of the other side, and so is every column.
#pragma once

#include "bqq/types.hpp"
#include "kernels/table.h"

#include <functional>
#include <memory>
#include <vector>

namespace bqq::detail {

struct RefineOptions {
    double T_begin = 3, T_end = 0.7; ///< temperatures against gains in total squared error, in units of the mean
                                     ///< squared error at the start
    Index sweeps = 4000;             ///< passes over all rows, all columns and the scales
};

class Refiner {
  public:
    Refiner(const bqq_kernels& kernels, Index max_rows, Index max_cols, Index l, Index max_stacks);

    /// Target X = (W - mean(W)) / divisor, m x n; the divisor brings X near 1, so that float32 can square it.
    void set_target(Index m, Index n, const float* W, Index ldw, double divisor);
    /// The bits of p stacks, from planes as a View has them.
    void set_bits(Index p, const std::uint8_t* Y, Index y_plane, Index y_row, const std::uint8_t* Z, Index z_plane,
                  Index z_row);
    void get_bits(std::uint8_t* Y, Index y_plane, Index y_row, std::uint8_t* Z, Index z_plane, Index z_row) const;

    /// Anneals, then descends greedily until no single flip helps. Returns the squared error of X. The random numbers
    /// are those of (seed, block, stack). on_sweeps(1) is called after each
    /// sweep, on_sweeps(0) often in between; it may throw to stop.
    double run(const RefineOptions& options, std::uint64_t seed, Index block, Index stack,
               const std::function<void(Index)>& on_sweeps);

  private:
    // One side of the factorisation: `count` rows of L bits (Y, or Z transposed), and what the other side makes of X.
    struct Side {
        Index count = 0, ldc = 0; ///< rows, and rows padded
        float* bits = nullptr;    ///< count x ld
        float* gram = nullptr;    ///< L x ld: <bit column k, bit column q>
        float* X = nullptr;       ///< count x (the other's ldc): X for the rows, X transposed for the columns
        float* atoms = nullptr; ///< L x ldc: bit column k of the other side times X; moves with the other side's flips
        float* X_other = nullptr;     ///< count x ld: its transpose, as of the last sweep of this side
        const float* X_sum = nullptr; ///< sums of the rows of X
    };
    std::size_t sweep(Side& side, Side& other, bool rows, double T, const std::function<void(Index)>& on_sweeps);
    void recount(Side& side, const Side& other);
    void solve(const Side& moved);

    const bqq_kernels& kernels_;
    Index m_ = 0, n_ = 0, l_, p_ = 0, L_ = 0, ld_ = 0, max_L_;
    std::unique_ptr<float[]> memory_;
    float *base_, *c_, *M_, *diagonal_, *coefficients_, *zeros_, *pool_, *before_, *with_new_, *with_old_, *turned_;
    Side y_, z_;
    std::vector<float> x_row_, x_col_;
    std::vector<std::uint32_t> flipped_;
    std::vector<double> scales_;
    double XX_ = 0, error_ = 0;
    std::uint64_t state_ = 0;
};

} // namespace bqq::detail
