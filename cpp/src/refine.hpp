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
    double T_begin = 2.5, T_end = 0.5; ///< temperatures against gains in total squared error, in units of the mean
                                       ///< squared error at the start
    Index sweeps = 3000;               ///< passes over all rows, all columns and the scales
    int inner = 1;                     ///< visits of each bit within a pass
};

class Refiner {
  public:
    Refiner(const bqq_kernels& kernels, Index max_rows, Index max_cols, Index l, Index max_stacks);

    /// Target X = W - mean(W), m x n.
    void set_target(Index m, Index n, const float* W, Index ldw);
    /// The bits of p stacks, from planes as a View has them.
    void set_bits(Index p, const std::uint8_t* Y, Index y_plane, Index y_row, const std::uint8_t* Z, Index z_plane,
                  Index z_row);
    void get_bits(std::uint8_t* Y, Index y_plane, Index y_row, std::uint8_t* Z, Index z_plane, Index z_row) const;

    /// Anneals, then descends greedily until no single flip helps. Returns the squared error. The random numbers are
    /// those of (seed, block, stack). on_sweep is called after each pass and may throw to stop.
    double run(const RefineOptions& options, std::uint64_t seed, Index block, Index stack,
               const std::function<void()>& on_sweep);

  private:
    // One side of the factorisation: `count` rows of L bits (Y, or Z transposed), what the other side makes of X.
    struct Side {
        Index count = 0;
        float *bits = nullptr, *X_other = nullptr; ///< count x ld: bits; X times the other side's bits
        float* gram = nullptr;                     ///< ld x ld: <bit column k, bit column q> of this side
        const float* X_sum = nullptr;              ///< sums of X along the other direction
    };
    std::size_t sweep(Side& side, const Side& other, bool rows, double T, int inner);
    void project(Side& side, const Side& other, bool rows);
    void count_pairs(Side& side);
    void solve(const Side& moved);

    const bqq_kernels& kernels_;
    Index m_ = 0, n_ = 0, l_, p_ = 0, L_ = 0, ld_ = 0, ldx_, max_L_;
    std::unique_ptr<float[]> memory_;
    float *X_, *base_, *c_, *M_, *diagonal_, *coefficients_, *zeros_, *pool_;
    Side y_, z_;
    std::vector<float> x_row_, x_col_;
    std::vector<double> scales_;
    double XX_ = 0, error_ = 0;
    std::uint64_t state_ = 0;
};

} // namespace bqq::detail
