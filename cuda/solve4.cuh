// The 4 x 4 solve of a step, by one warp in float64: what linalg.cpp does with Eigen.
#pragma once

#include "block.cuh"
#include "search/mean_field.hpp"

namespace bqq::cuda {

/// The system and, for the singular case, its eigenvectors: in shared memory, since they would fill the registers of
/// every thread.
struct Solve4 {
    detail::MeanFieldSystem system;
    double A[4][4], V[4][4];
};

/// Eigenvalues into the diagonal of A, eigenvectors into the columns of V: Jacobi rotations, until what is off the
/// diagonal could change no digit.
__device__ inline void eigen4(Solve4& e) {
#pragma unroll 1
    for (int i = 0; i < 16; ++i) e.V[i / 4][i % 4] = i / 4 == i % 4;
#pragma unroll 1
    for (int turn = 0; turn < 72; ++turn) { // 12 times all six pairs
        const int pair = turn % 6,
                  p = pair < 3   ? 0
                      : pair < 5 ? 1
                                 : 2,
                  q = pair < 3   ? pair + 1
                      : pair < 5 ? pair - 1
                                 : 3;
        if (pair == 0) {
            double off = 0, most = 0;
#pragma unroll 1
            for (int i = 0; i < 16; ++i) {
                const double x = fabs(e.A[i / 4][i % 4]);
                most = fmax(most, x), off = fmax(off, i / 4 == i % 4 ? 0 : x);
            }
            if (off <= 1e-20 * most) return;
        }
        if (e.A[p][q] == 0) continue;
        const double theta = (e.A[q][q] - e.A[p][p]) / (2 * e.A[p][q]);
        const double t = (theta < 0 ? -1.0 : 1.0) / (fabs(theta) + sqrt(theta * theta + 1));
        const double c = 1 / sqrt(t * t + 1), s = t * c;
        const auto turn_pair = [c, s](double& x, double& y) {
            const double a = c * x - s * y;
            y = s * x + c * y;
            x = a;
        };
#pragma unroll 1
        for (int k = 0; k < 4; ++k) turn_pair(e.A[k][p], e.A[k][q]);
#pragma unroll 1
        for (int k = 0; k < 4; ++k) turn_pair(e.A[p][k], e.A[q][k]);
#pragma unroll 1
        for (int k = 0; k < 4; ++k) turn_pair(e.V[k][p], e.V[k][q]);
    }
}

/// x of minimum norm with D A D x = D b for the diagonal D = d, and D x in place of x. By one thread.
__device__ inline void minimum_norm4(Solve4& e, const double (&d)[4], double* x) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) e.A[i][j] = d[i] * e.system.A[i][j] * d[j];
    eigen4(e);
    double largest = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) largest = fmax(largest, e.A[i][i]), x[i] = 0;
#pragma unroll 1
    for (int i = 0; i < 4; ++i) {
        if (!(e.A[i][i] > 1e-11 * largest)) continue;
        double along = 0;
#pragma unroll
        for (int k = 0; k < 4; ++k) along += e.V[k][i] * d[k] * e.system.b[k];
#pragma unroll
        for (int k = 0; k < 4; ++k) x[k] += d[k] * e.V[k][i] * (along / e.A[i][i]);
    }
}

/// The scales a = (r, s, t, u) of a system; its minimum-norm solution, scaled to unit diagonal, where it is singular.
/// By a whole warp that sees the system: lane i (and i + 4, ...) has row i, so that roots and quotients are made at
/// once. a is seen by all lanes.
__device__ inline void solve4(Solve4& room, double* a) {
    const int lane = lane_of_thread(), row = lane % 4;
    const detail::MeanFieldSystem& e = room.system;
    const double own = e.A[row][row] > 0 ? 1 / sqrt(e.A[row][row]) : 0;
    double d[4], L[4], inverse[4], b = own * e.b[row], smallest = 1;
#pragma unroll
    for (int j = 0; j < 4; ++j) d[j] = __shfl_sync(full_warp, own, j), L[j] = own * e.A[row][j] * d[j];
    // L D L^T; below the diagonal L holds L D.
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const double pivot = __shfl_sync(full_warp, L[k], k), b_k = __shfl_sync(full_warp, b, k);
        smallest = fmin(smallest, pivot);
        inverse[k] = 1 / pivot;
        const double f = row > k ? L[k] * inverse[k] : 0;
#pragma unroll
        for (int j = k + 1; j < 4; ++j) L[j] = fma(-f, __shfl_sync(full_warp, L[k], j), L[j]);
        b = fma(-f, b_k, b);
    }
    if (smallest > 1e-9) { // the same in all lanes
        double x[4];
#pragma unroll
        for (int k = 3; k >= 0; --k) {
            x[k] = __shfl_sync(full_warp, b, k);
#pragma unroll
            for (int i = k + 1; i < 4; ++i) x[k] = fma(-__shfl_sync(full_warp, L[k], i), x[i], x[k]);
            x[k] *= inverse[k];
        }
        if (lane == 0)
#pragma unroll
            for (int i = 0; i < 4; ++i) a[i] = d[i] * x[i];
    } else if (lane == 0) {
        minimum_norm4(room, d, a);
    }
    __syncwarp();
}

} // namespace bqq::cuda
