#include "search/metric.hpp"

#include "linalg.hpp"
#include "search/recipe.hpp"

#include <algorithm>
#include <cmath>

namespace bqq::detail {
namespace {

[[noreturn]] void bad_weight(const std::string& text) { bad_argument("weight " + text); }

// From column-major float64.
PaddedMatrix rounded(Index rows, Index cols, const std::vector<double>& a) {
    PaddedMatrix out(rows, cols);
    for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < cols; ++j) out.row(i)[j] = float(a[std::size_t(j * rows + i)]);
    return out;
}

void check_finite(double value, Index i, Index j) {
    if (!std::isfinite(value))
        bad_weight("[" + std::to_string(i) + (j < 0 ? "" : ", " + std::to_string(j)) + "] is " + std::to_string(value) +
                   ", expected finite values");
}

double mean_diagonal(Index n, const float* H, Index ldh) {
    double trace = 0;
    for (Index b = 0; b < n; ++b) trace += double(H[ldh ? b * ldh + b : b]);
    return trace / double(n);
}

} // namespace

void check_weight(Index n, const float* H, Index ldh) {
    if (ldh && ldh < n) bad_value("ldweight", ldh, "n = " + std::to_string(n) + " or more, or 0 for a diagonal");
    for (Index b = 0; b < n; ++b) {
        const double h = double(H[ldh ? b * ldh + b : b]);
        check_finite(h, b, ldh ? b : -1);
        if (h < 0)
            bad_weight("has " + std::to_string(h) + " at diagonal position " + std::to_string(b) +
                       ", expected 0 or more: it is not positive semidefinite");
    }
    const double mean = mean_diagonal(n, H, ldh);
    if (mean == 0) bad_weight("is zero: no error would count");
    for (Index i = 0; ldh && i < n; ++i)
        for (Index j = 0; j < n; ++j) {
            const double h = double(H[i * ldh + j]), mirrored = double(H[j * ldh + i]);
            check_finite(h, i, j);
            if (std::fabs(h - mirrored) > tuning::kAsymmetry * mean + tuning::kRelativeAsymmetry * std::fabs(h))
                bad_weight("is not symmetric: [" + std::to_string(i) + ", " + std::to_string(j) + "] is " +
                           std::to_string(h) + ", [" + std::to_string(j) + ", " + std::to_string(i) + "] is " +
                           std::to_string(mirrored));
        }
}

Metric::Metric(const Layout& layout, const float* H, Index ldh, double damping) : layout_(layout) {
    const Index n = layout.n;
    if (!(damping >= 0) || !std::isfinite(damping))
        bad_argument("damping is " + std::to_string(damping) + ", expected 0 or more");
    check_weight(n, H, ldh);
    const double mean = mean_diagonal(n, H, ldh), ridge = damping * mean;
    const double scale = 1 / (mean + ridge);
    const auto first = [&](Index k) { return k * layout.cols; };
    if (!ldh) {
        for (Index b = 0; b < n; ++b)
            if (double(H[b]) + ridge == 0)
                bad_weight("has a zero at position " + std::to_string(b) + " and no damping");
        for (Index k = 0; k < layout.K; ++k) {
            PaddedMatrix patch(layout.cols_of(k), layout.cols_of(k));
            for (Index b = 0; b < patch.rows; ++b) patch.row(b)[b] = float((double(H[first(k) + b]) + ridge) * scale);
            patches_.push_back(std::move(patch));
        }
        return;
    }
    std::vector<double> D(std::size_t(n * n));
    for (Index i = 0; i < n; ++i)
        for (Index j = 0; j < n; ++j) {
            const double h = double(H[i * ldh + j]), mirrored = double(H[j * ldh + i]);
            D[std::size_t(i * n + j)] = (0.5 * (h + mirrored) + (i == j ? ridge : 0)) * scale;
        }
    whole_ = rounded(n, n, D);
    if (!upper_factor(n, D.data()))
        bad_weight("is not positive definite after damping: pass a second moment X^T X, or more damping");
    for (Index k = 0; k < layout.K; ++k) {
        const Index width = layout.cols_of(k), rest = n - first(k) - width;
        std::vector<double> S(std::size_t(width * width)), move(std::size_t(width * rest));
        schur_and_move(n, D.data(), first(k), width, S.data(), move.data());
        patches_.push_back(rounded(width, width, S));
        moves_.push_back(rounded(width, rest, move));
    }
}

void Metric::compensate(const bqq_kernels& kernels, Index k, const PaddedMatrix& E, float* W, Index ldw) const {
    const PaddedMatrix& move = moves_[std::size_t(k)];
    if (!move.cols) return;
    float* rest = W + k * layout_.cols + E.cols;
    kernels.gemm(std::size_t(E.rows), std::size_t(move.ld), std::size_t(E.cols), E.row(0), std::size_t(E.ld), 1,
                 move.row(0), std::size_t(move.ld), rest, std::size_t(ldw), nullptr, rest, std::size_t(ldw));
}

std::unique_ptr<const Metric> make_metric(const Layout& a, const DecomposeOptions& options) {
    if (!options.weight) return nullptr;
    return std::make_unique<const Metric>(a, options.weight, options.ldweight, damping_of(options));
}

CompensatedRows::CompensatedRows(const Metric& metric, const float* W, Index ldw, Index m)
    : metric_(metric), m_(m), ld_(metric.layout().n + 2 * kPad), X_(std::size_t(m * ld_)) {
    for (Index r = 0; r < m; ++r) std::copy_n(W + r * ldw, metric.layout().n, X_.data() + r * ld_);
}

void CompensatedRows::compensate(const bqq_kernels& kernels, Index k, const BlockProducts& block, const float* scales) {
    PaddedMatrix E(m_, metric_.layout().cols_of(k));
    std::vector<float> residual(std::size_t(m_ * E.cols));
    block_residual(block, scales, patch(k), ld_, residual.data());
    for (Index r = 0; r < m_; ++r) std::copy_n(residual.data() + r * E.cols, E.cols, E.row(r));
    metric_.compensate(kernels, k, E, X_.data(), ld_);
}

} // namespace bqq::detail
