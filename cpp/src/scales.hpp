// The closed-form scales: the 4 x 4 system of one mean-field stack and the joint system of all 3p+1 scales of a block.
#pragma once

#include "bqq/types.hpp"
#include "pack.hpp"

namespace bqq::detail {

/// What the 4 x 4 system needs to know about continuous y (m x l), z (l x n) and the target X (m x n). With
/// sy = rowsum(y), sz = colsum(z), cy_k = sum_a y_ak, cy2_k = sum_a y_ak^2, cz_k = sum_b z_kb, cz2_k = sum_b z_kb^2:
struct MeanFieldSums {
    double m, n;
    double yz_yz;               ///< sum (yz)^2
    double X_yz, X_sy, X_sz, X; ///< <X, yz>, rowsum(X).sy, colsum(X).sz, sum X
    double sy_yz, sz_yz;        ///< sum_a sy_a (y cz)_a,  sum_b sz_b (cy^T z)_b
    double sy_sy, sz_sz;        ///< |sy|^2, |sz|^2
    double cy, cz;              ///< sum_k cy_k, sum_k cz_k
    double cy2, cz2;            ///< sum_k cy2_k, sum_k cz2_k
    double cy_cz, cy2_cz2, cy2_cz, cy_cz2;
};

/// A a = b of the expected squared error over Bernoulli bits with means y, z (paper, section 3 and appendix): a = (r,
/// s, t, u).
struct MeanFieldSystem {
    double A[4][4], b[4];
};
MeanFieldSystem mean_field_system(const MeanFieldSums& sums);

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
