// The weighted objective tr(E H E^T), E = W - W_hat: the metric of each column patch, what is left of its error for the
// later patches to make good, and the scales that are best in it.
#pragma once

#include "bits/pack.hpp"
#include "bqq/decompose.hpp"
#include "kernels/table.hpp"

#include <memory>
#include <vector>

namespace bqq::detail {

/// A square matrix with padded rows, zero beyond its width.
struct PaddedMatrix {
    Index rows = 0, cols = 0, ld = 0;
    std::vector<float> v;
    PaddedMatrix() = default;
    PaddedMatrix(Index rows_, Index cols_)
        : rows(rows_), cols(cols_), ld((cols_ + kPad - 1) / kPad * kPad), v(std::size_t(rows_ * ld)) {}
    float* row(Index i) { return v.data() + i * ld; }
    const float* row(Index i) const { return v.data() + i * ld; }
};

/// H, damped and scaled to a mean diagonal of 1, cut at the column patches of a layout. Quantising patch P and moving
/// its error E_P into the columns R still to come, W_R += E_P H_PR H_RR^-1, leaves an error tr(E_P S E_P^T) that
/// nothing later can change, S the Schur complement of H_RR (GPTQ; algorithm of the paper's weighted variant).
class Metric {
  public:
    /// H: n x n with ldh >= n, or its diagonal of n numbers if ldh is 0. damping times the mean of the diagonal is
    /// added to it. Throws as check_weight, and unless it is positive definite after damping. O(n^3 / 3), twice, in
    /// float64; 2.5 n^2 floats.
    Metric(const Layout& layout, const float* H, Index ldh, double damping);

    /// H_kk of a diagonal metric, S of patch k otherwise.
    const PaddedMatrix& patch(Index k) const { return patches_[std::size_t(k)]; }
    /// Whether patches know of each other.
    bool coupled() const { return !moves_.empty(); }
    /// The whole damped H, if coupled.
    const PaddedMatrix& whole() const { return whole_; }
    /// Adds to the columns of W behind patch k what makes up for the error E (rows x cols of the patch, padded rows) of
    /// that patch. W: the row block, ldw >= n + kPad.
    void compensate(const bqq_kernels& kernels, Index k, const PaddedMatrix& E, float* W, Index ldw) const;

    const Layout& layout() const { return layout_; }

  private:
    Layout layout_;
    PaddedMatrix whole_;
    std::vector<PaddedMatrix> patches_, moves_; ///< moves: H_PR H_RR^-1
};

/// Throws Error(invalid_argument) unless H, n x n or its diagonal as in Metric, is finite, symmetric and not zero, with
/// a diagonal of 0 or more.
void check_weight(Index n, const float* H, Index ldh);

/// The metric of the options, NULL without a weight. Throws as its constructor, and for a wrong ldweight.
std::unique_ptr<const Metric> make_metric(const Layout& layout, const DecomposeOptions& options);

/// The m rows of a block row, into which the error of each patch is moved once it is quantised.
class CompensatedRows {
  public:
    CompensatedRows(const Metric& metric, const float* W, Index ldw, Index m);
    const float* patch(Index k) const { return X_.data() + k * metric_.layout().cols; }
    Index ld() const { return ld_; }
    /// After patch k: `block` with these scales stands for it.
    void compensate(const bqq_kernels& kernels, Index k, const BlockProducts& block, const float* scales);

  private:
    const Metric& metric_;
    Index m_, ld_;
    std::vector<float> X_;
};

/// The first `stacks` stacks of blocks (j, k_begin) to (j, k_end).
struct BlockRange {
    Index j, k_begin, k_end, stacks;
};

/// All scales of a range together, minimising tr(E H E^T) over its columns, for fixed bits. W: its rows x columns; H:
/// square of that width. scales: 3 stacks + 1 numbers a block, written. Returns the error of the float32 scales. Gram
/// matrices in float32, sums and solve in float64: below a damping of about 1e-5 their rounding shows in the scales.
double solve_scales_in_metric(const bqq_kernels& kernels, const View& q, const BlockRange& range, const float* W,
                              Index ldw, const PaddedMatrix& H, float* scales);

} // namespace bqq::detail
