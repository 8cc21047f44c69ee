// The closed-form scales: the 4 x 4 system of one mean-field stack and the joint system of all 3p+1 scales of a block.
#pragma once

#include "bits/pack.hpp"
#include "bqq/matrix.hpp"
#include "search/mean_field.hpp"

namespace bqq::detail {

/// Minimum-norm solution (of the system scaled to unit diagonal) where A is singular.
void solve(const MeanFieldSystem& system, double a[4]);

/// All 3p+1 scales of a block by least squares in float64 for fixed bits; Gram matrix summed in integers, exactly.
/// W: the block's rows x cols corner, row-major with ldw. scales: r_0 s_0 t_0 ... u, rounded to float32.
/// Returns the sum of squared errors of the rounded scales. O(p l rows cols / 2 + p^2 rows cols).
double solve_scales(const BlockProducts& block, const float* W, Index ldw, float* scales);

/// The normal equations of `count` scales (r_0 s_0 t_0 ... u, 3p+1 a block) for a target of squared norm XX.
struct JointSystem {
    explicit JointSystem(Index count) : size(count), A(std::size_t(size * size)), b(std::size_t(size)) {}
    Index size;
    std::vector<double> A, b; ///< A symmetric; both triangles are read
    double XX = 0;
    void set(Index i, Index j, double value) { A[std::size_t(i * size + j)] = A[std::size_t(j * size + i)] = value; }
};

/// Solves into scales and returns the squared error there, XX - 2 b.a + a.A a.
double solve(const JointSystem& system, double* scales);

} // namespace bqq::detail
