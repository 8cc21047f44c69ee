// Discrete refinement of one stack: its bits annealed by Metropolis sweeps. With one side and the scales fixed, every
// row of W is a binary least-squares problem over the l bits of the other side, and so is every column.
#pragma once

#include "bqq/matrix.hpp"
#include "kernels/table.hpp"
#include "memory.hpp"
#include "search/scales.hpp"
#include "search/schedule.hpp"

#include <functional>
#include <vector>

namespace bqq::detail {

class Refiner {
  public:
    /// `metric`: room for a metric on the columns, see set_target.
    Refiner(const bqq_kernels& kernels, Index max_rows, Index max_cols, Index l, bool metric = false);

    /// Target X = (W - c) / divisor, m x n, c the (weighted) mean of W; the divisor brings X near 1, so that float32
    /// can square it. H: NULL, or n x n, symmetric, positive definite: the error is tr(E H E^T), E = X - W_hat.
    void set_target(Index m, Index n, const float* W, Index ldw, double divisor, const float* H = nullptr,
                    Index ldh = 0);
    /// The bits of the stack, from planes as a View has them.
    void set_bits(const std::uint8_t* Y, Index y_row, const std::uint8_t* Z, Index z_row);
    void get_bits(std::uint8_t* Y, Index y_row, std::uint8_t* Z, Index z_row) const;

    /// Anneals, then descends greedily until no single flip helps. Returns the error of X. The random numbers are those
    /// of (seed, block, stack). on_sweeps(1) is called after each sweep, on_sweeps(0) often in between; it may throw to
    /// stop.
    double run(const RefineOptions& options, std::uint64_t seed, Index block, Index stack,
               const std::function<void(Index)>& on_sweeps);
    /// The error before the first sweep of the last run.
    double initial_error() const { return initial_error_; }
    const double* scales() const { return scales_; } ///< r, s, t, u of X, of the last run

  private:
    // One side of the factorisation: `count` rows of l bits (Y, or Z transposed), and what the other side makes of X.
    struct Side {
        Index count = 0, ldc = 0;        ///< rows, and rows padded
        float* bits = nullptr;           ///< count x ld
        std::uint16_t* packed = nullptr; ///< the same, 16 a number
        float* gram = nullptr;           ///< l x ld: <bit column k, bit column q>, in the metric for the columns
        float* nu = nullptr;             ///< ld: <bit column k, 1>, likewise
        float* gram_sums = nullptr;      ///< ld: sums of the columns of gram
        double size = 0;                 ///< <1, 1>, likewise
        float* X = nullptr;              ///< count x (the other's ldc): X for the rows, (X H)^T for the columns
        float* atoms = nullptr;          ///< l x ldc: bit column k of the other side times its X; moves with its flips
        float* X_other = nullptr;        ///< count x ld: rows of its transpose, scratch
        const float* X_sum = nullptr;    ///< sums of the rows of X H, of the columns of X H
        struct Totals {
            double nu, gram, X_sum, X_dot; ///< sums of nu, of gram_sums, of bits^T X_sum, of bits X_other
        } totals{};
    };
    std::size_t sweep(Side& side, Side& other, double r, double s, double t, double T,
                      const std::function<void(Index)>& on_sweeps);
    std::size_t sweep_rows(Side& side, const Side& other, const bqq_atoms& atoms, bqq_anneal problem,
                           const std::function<void(Index)>& on_sweeps);
    std::size_t sweep_coupled(const bqq_atoms& atoms, const bqq_anneal& problem,
                              const std::function<void(Index)>& on_sweeps);
    std::size_t anneal_coupled(bqq_anneal problem, const std::function<void(Index)>& on_sweeps);
    void count_in_metric();
    void sum_up(Side& side, const Side& other);
    void clear_projections();
    void set_totals(Side& side);
    void count_pairs(Side& side);
    void make_atoms();
    void solve(const Side& moved);

    const bqq_kernels& kernels_;
    bool weighted_ = false;
    Index m_ = 0, n_ = 0, l_, ld_;
    AlignedMemory memory_;
    float *H_, *base_, *c_, *M_, *diagonal_, *coefficients_, *pool_, *before_, *pairs_, *X_sums_, *X_dots_, *gram_dots_,
        *workspace_;
    Side y_, z_;
    std::vector<float> x_row_, x_col_;
    std::vector<char> changed_;
    std::vector<std::uint32_t> flipped_;
    std::vector<std::uint16_t> packed_; ///< bits of both sides
    JointSystem system_{4};
    double scales_[4] = {}, XX_ = 0, error_ = 0, initial_error_ = 0;
    std::uint64_t state_ = 0;
};

} // namespace bqq::detail
