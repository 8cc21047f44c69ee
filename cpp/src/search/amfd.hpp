// Annealed mean-field descent: one stack (Y, Z) for one block. Paper, section 3; AMFD, arXiv 2504.08315.
#pragma once

#include "bqq/matrix.hpp"
#include "kernels/table.hpp"
#include "memory.hpp"
#include "search/scales.hpp"
#include "search/schedule.hpp"

#include <functional>

namespace bqq::detail {

/// The descent on one block shape: all buffers are made once, a step allocates nothing.
class Amfd {
  public:
    Amfd(const bqq_kernels& kernels, Index max_rows, Index max_cols, Index l);

    /// Target X = (W - mean) / divisor, m x n with m <= max_rows, n <= max_cols. Removing the mean leaves the
    /// trajectory as it is (u is free) and float32 its digits.
    void set_target(Index m, Index n, const float* W, Index ldw, double mean, double divisor);

    /// y_old, z_old uniform in [0,1) from the counter-based stream (seed, block, stack); y, z one step towards 1/2;
    /// scales solved.
    void start(const AmfdOptions& options, std::uint64_t seed, Index block, Index stack);

    /// One step at temperature T: gradients at the look-ahead point with the scales of the step before, clipped update,
    /// scales solved on the new y, z. Returns the largest change of a variable.
    float step(const AmfdOptions& options, double T);

    /// All steps. on_steps(count) is called after each with the steps just done, those an early end saves included: the
    /// counts add up to options.steps. It may throw to stop.
    void run(const AmfdOptions& options, const std::function<void(Index)>& on_steps);

    Index m() const { return m_; }
    Index n() const { return n_; }
    Index l() const { return l_; }
    const float* y() const { return y_; } ///< m x l, leading dimension ldl()
    const float* z() const { return z_; } ///< l x n, leading dimension ldn()
    Index ldl() const { return ldl_; }
    Index ldn() const { return ldn_; }
    const double* scales() const { return a_; } ///< r, s, t, u of X
    /// Share of the variables' variance left, 4 mean(x(1-x)): 1 at all 1/2, 0 when all are bits.
    double softness() const { return soft_; }

  private:
    void solve_scales_of_means();

    const bqq_kernels& kernels_;
    Index m_ = 0, n_ = 0, l_;
    Index ldl_, ldn_;
    AlignedMemory memory_;
    float *X_, *R_, *y_, *y_old_, *z_, *z_old_, *zf_, *psi_, *phi_, *phiT_, *gy_, *gz_;
    float *row_m_, *bias_, *col_l_, *col_sq_l_, *row_l_, *row_sq_l_, *col_n_, *Py_, *Qy_, *Pz_, *Qz_, *x_row_, *x_col_,
        *workspace_;
    double x_sum_ = 0, a_[4] = {};
    double soft_ = 1;
};

} // namespace bqq::detail
