// The 4 x 4 solve of a step, by one thread in float64: what linalg.cpp does with Eigen.
#pragma once

#include "mean_field.hpp"
#include "portable.cuh"

namespace bqq::cuda {

/// Eigenvalues into the diagonal of A, eigenvectors into the columns of V: Jacobi rotations, for the rare singular case.
__device__ __noinline__ void eigen4(double (*A)[4], double (*V)[4]) {
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) V[i][j] = i == j;
    for (int sweep = 0; sweep < 12; ++sweep)
        for (int p = 0; p < 3; ++p)
            for (int q = p + 1; q < 4; ++q) {
                if (A[p][q] == 0) continue;
                const double theta = (A[q][q] - A[p][p]) / (2 * A[p][q]);
                const double t = (theta < 0 ? -1.0 : 1.0) / (fabs(theta) + sqrt(theta * theta + 1));
                const double c = 1 / sqrt(t * t + 1), s = t * c;
                for (int k = 0; k < 4; ++k) {
                    const double x = A[k][p], y = A[k][q];
                    A[k][p] = c * x - s * y, A[k][q] = s * x + c * y;
                }
                for (int k = 0; k < 4; ++k) {
                    const double x = A[p][k], y = A[q][k];
                    A[p][k] = c * x - s * y, A[q][k] = s * x + c * y;
                }
                for (int k = 0; k < 4; ++k) {
                    const double x = V[k][p], y = V[k][q];
                    V[k][p] = c * x - s * y, V[k][q] = s * x + c * y;
                }
            }
}

/// x of minimum norm with A x = b, A positive semidefinite with unit diagonal (or zero rows). A is destroyed.
__device__ __noinline__ void minimum_norm4(double (*A)[4], const double* b, double* x) {
    double V[4][4];
    eigen4(A, V);
    double largest = 0;
    for (int i = 0; i < 4; ++i) largest = fmax(largest, A[i][i]);
    for (int k = 0; k < 4; ++k) x[k] = 0;
    for (int i = 0; i < 4; ++i) {
        if (!(A[i][i] > 1e-11 * largest)) continue;
        double along = 0;
        for (int k = 0; k < 4; ++k) along += V[k][i] * b[k];
        for (int k = 0; k < 4; ++k) x[k] += V[k][i] * (along / A[i][i]);
    }
}

/// The scales a = (r, s, t, u) of a system; its minimum-norm solution, scaled to unit diagonal, where it is singular.
__device__ inline void solve4(const detail::MeanFieldSystem& e, double* a) {
    double d[4], A[4][4], L[4][4], D[4], b[4], x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) d[i] = e.A[i][i] > 0 ? 1 / sqrt(e.A[i][i]) : 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        b[i] = d[i] * e.b[i];
#pragma unroll
        for (int j = 0; j < 4; ++j) A[i][j] = L[i][j] = d[i] * e.A[i][j] * d[j];
    }
    double smallest = 1;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        D[k] = L[k][k];
        smallest = fmin(smallest, D[k]);
        const double inverse = 1 / D[k];
#pragma unroll
        for (int i = k + 1; i < 4; ++i) {
            const double f = L[i][k] * inverse;
#pragma unroll
            for (int j = k + 1; j <= i; ++j) L[i][j] = fma(-f, L[j][k], L[i][j]);
            b[i] = fma(-f, b[k], b[i]);
        }
    }
    if (smallest > 1e-9) {
#pragma unroll
        for (int k = 3; k >= 0; --k) {
            double sum = b[k];
#pragma unroll
            for (int i = k + 1; i < 4; ++i) sum = fma(-L[i][k], x[i], sum);
            x[k] = sum / D[k];
        }
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) b[i] = d[i] * e.b[i];
        minimum_norm4(A, b, x);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = d[i] * x[i];
}

} // namespace bqq::cuda
