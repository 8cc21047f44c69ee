// The 4 x 4 normal equations of the scales of one mean-field stack, for host and device.
#pragma once

#include "host_device.hpp"

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

BQQ_HOST_DEVICE inline MeanFieldSystem mean_field_system(const MeanFieldSums& q) {
    const double rr = q.yz_yz + q.cy_cz - q.cy2_cz2;
    const double rs = q.sy_yz + q.cy_cz - q.cy2_cz, rt = q.sz_yz + q.cy_cz - q.cy_cz2, ru = q.cy_cz;
    const double ss = q.n * (q.sy_sy + q.cy - q.cy2), st = q.cy * q.cz, su = q.n * q.cy;
    const double tt = q.m * (q.sz_sz + q.cz - q.cz2), tu = q.m * q.cz;
    return {{{rr, rs, rt, ru}, {rs, ss, st, su}, {rt, st, tt, tu}, {ru, su, tu, q.m * q.n}},
            {q.X_yz, q.X_sy, q.X_sz, q.X}};
}

} // namespace bqq::detail
