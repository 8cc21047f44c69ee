#include "linalg.hpp"

// Temporaries on the stack: up to 128 KB otherwise, all that a thread has with musl, or with threading.stack_size().
#define EIGEN_STACK_ALLOCATION_LIMIT 16384
#include <Eigen/Cholesky>
#include <Eigen/QR>

#include <cmath>
#include <utility>

namespace bqq::detail {
namespace {

using Eigen::Map;
using Eigen::MatrixXd;
using Eigen::VectorXd;

VectorXd minimum_norm(const MatrixXd& A, const VectorXd& b) {
    Eigen::CompleteOrthogonalDecomposition<MatrixXd> qr;
    qr.setThreshold(1e-11);
    qr.compute(A);
    return qr.solve(b);
}

// Scaling to unit diagonal makes the rank decision independent of the units of the basis.
constexpr double kLeastPivot = 1e-9;

void scaled_solve(const MatrixXd& A, const VectorXd& b, double* x) {
    VectorXd d = A.diagonal();
    for (Eigen::Index i = 0; i < d.size(); ++i) d[i] = d[i] > 0 ? 1 / std::sqrt(d[i]) : 0;
    const MatrixXd scaled = d.asDiagonal() * A * d.asDiagonal();
    const VectorXd rhs = d.cwiseProduct(b);
    const Eigen::LDLT<MatrixXd> ldlt(scaled);
    const bool regular = ldlt.info() == Eigen::Success && ldlt.vectorD().minCoeff() > kLeastPivot;
    Map<VectorXd>(x, b.size()) = d.cwiseProduct(regular ? VectorXd(ldlt.solve(rhs)) : minimum_norm(scaled, rhs));
}

// The same for 4 x 4, which is solved in every step and sweep; false where A is singular. Which of nearly equal pivots
// is the largest is chance: no branch on it.
bool solve4(const double* A, const double* b, double* x) {
    constexpr int n = 4;
    double scaled[n][n], d[n], y[n];
    int order[n] = {0, 1, 2, 3};
    for (int i = 0; i < n; ++i) d[i] = A[5 * i] > 0 ? 1 / std::sqrt(A[5 * i]) : 0;
    for (int i = 0; i < n; ++i)
        for (int j = 0; j <= i; ++j) scaled[i][j] = scaled[j][i] = d[i] * A[n * i + j] * d[j];
    for (int k = 0; k < n - 1; ++k) {
        int most = k;
        for (int i = k + 1; i < n; ++i) most = scaled[order[i]][order[i]] > scaled[order[most]][order[most]] ? i : most;
        std::swap(order[k], order[most]);
    }
    // L below the diagonal of S, D on it.
    double S[n][n];
    for (int k = 0; k < n; ++k) {
        double t[n];
        for (int j = 0; j < k; ++j) t[j] = S[j][j] * S[k][j];
        for (int i = k; i < n; ++i) {
            S[i][k] = scaled[order[i]][order[k]];
            double sum = 0;
            for (int j = 0; j < k; ++j) sum += S[i][j] * t[j];
            S[i][k] -= sum;
        }
        if (!(S[k][k] > kLeastPivot)) return false;
        for (int i = k + 1; i < n; ++i) S[i][k] /= S[k][k];
    }
    for (int i = 0; i < n; ++i) y[i] = d[order[i]] * b[order[i]];
    y[1] -= S[1][0] * y[0];
    y[2] -= S[2][0] * y[0] + S[2][1] * y[1];
    y[3] -= S[3][0] * y[0] + (S[3][1] * y[1] + S[3][2] * y[2]);
    for (int i = 0; i < n; ++i) y[i] /= S[i][i];
    y[2] -= S[3][2] * y[3];
    y[1] -= S[2][1] * y[2] + S[3][1] * y[3];
    y[0] -= (S[1][0] * y[1] + S[2][0] * y[2]) + S[3][0] * y[3];
    for (int i = 0; i < n; ++i) x[order[i]] = d[order[i]] * y[i];
    return true;
}

} // namespace

void solve_semidefinite(std::int64_t n, const double* A, const double* b, double* x) {
    if (n == 4 && solve4(A, b, x)) return;
    scaled_solve(Map<const MatrixXd>(A, n, n), Map<const VectorXd>(b, n), x);
}

// The Cholesky factor of H read from its last row and column backwards.
bool upper_factor(std::int64_t n, double* H) {
    Map<MatrixXd> map(H, n, n);
    const Eigen::LLT<MatrixXd> factor(map.reverse());
    if (factor.info() != Eigen::Success) return false;
    map = MatrixXd(factor.matrixL()).reverse();
    return true;
}

void schur_and_move(std::int64_t n, const double* R, std::int64_t begin, std::int64_t width, double* S, double* move) {
    const Map<const MatrixXd> all(R, n, n);
    const std::int64_t rest = n - begin - width;
    const MatrixXd own = all.block(begin, begin, width, width);
    Map<MatrixXd>(S, width, width) = own * own.transpose();
    Map<MatrixXd> out(move, width, rest);
    out = all.block(begin, begin + width, width, rest);
    all.bottomRightCorner(rest, rest).triangularView<Eigen::Upper>().solveInPlace<Eigen::OnTheRight>(out);
}

bool cholesky(std::int64_t n, double* A) {
    Map<MatrixXd> map(A, n, n);
    return Eigen::LLT<Eigen::Ref<MatrixXd>>(map).info() == Eigen::Success;
}

void cholesky_solve(std::int64_t n, const double* L, std::int64_t cols, double* B) {
    const Map<const MatrixXd> lower(L, n, n);
    Map<Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>> x(B, n, cols);
    lower.triangularView<Eigen::Lower>().solveInPlace(x);
    lower.triangularView<Eigen::Lower>().transpose().solveInPlace(x);
}

} // namespace bqq::detail
