#include "linalg.hpp"

#include <Eigen/Cholesky>
#include <Eigen/QR>

#include <cmath>

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
template <class Matrix, class Vector> void scaled_solve(const Matrix& A, const Vector& b, double* x) {
    Vector d = A.diagonal();
    for (Eigen::Index i = 0; i < d.size(); ++i) d[i] = d[i] > 0 ? 1 / std::sqrt(d[i]) : 0;
    const Matrix scaled = d.asDiagonal() * A * d.asDiagonal();
    const Vector rhs = d.cwiseProduct(b);
    const Eigen::LDLT<Matrix> ldlt(scaled);
    Map<VectorXd> out(x, b.size());
    if (ldlt.info() == Eigen::Success && ldlt.vectorD().minCoeff() > 1e-9)
        out = d.cwiseProduct(Vector(ldlt.solve(rhs)));
    else
        out = d.cwiseProduct(Vector(minimum_norm(scaled, rhs)));
}

} // namespace

void solve_semidefinite(std::int64_t n, const double* A, const double* b, double* x) {
    if (n == 4)
        scaled_solve<Eigen::Matrix4d, Eigen::Vector4d>(Map<const Eigen::Matrix4d>(A), Map<const Eigen::Vector4d>(b), x);
    else
        scaled_solve<MatrixXd, VectorXd>(Map<const MatrixXd>(A, n, n), Map<const VectorXd>(b, n), x);
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

} // namespace bqq::detail
