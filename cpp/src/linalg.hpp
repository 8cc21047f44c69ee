// Dense linear algebra in float64: the room of Eigen. Matrices are symmetric or column-major (noted), sizes in
// elements.
#pragma once

#include <cstdint>

namespace bqq::detail {

/// x with A x = b for a positive semidefinite A (n x n); where A is singular, the minimum-norm solution of the system
/// scaled to unit diagonal. Allocates nothing for n = 4 while A is regular.
void solve_semidefinite(std::int64_t n, const double* A, const double* b, double* x);

/// Replaces H (n x n, symmetric) by the upper triangular R with H = R R^T, column-major. False if H is not positive
/// definite; H is undefined then. n^3/3 flop.
bool upper_factor(std::int64_t n, double* H);

/// From R of upper_factor and its columns [begin, begin + width): S = R_PP R_PP^T (width x width) and, with the columns
/// behind as the rest, move = R_PR R_RR^-1 (width x rest), both column-major.
void schur_and_move(std::int64_t n, const double* R, std::int64_t begin, std::int64_t width, double* S, double* move);

/// Replaces A (n x n, symmetric) by its lower Cholesky factor, column-major. False if A is not positive definite.
bool cholesky(std::int64_t n, double* A);

/// B (n x cols, row-major) becomes (L L^T)^-1 B.
void cholesky_solve(std::int64_t n, const double* L, std::int64_t cols, double* B);

} // namespace bqq::detail
