// Tiles of W_hat in float32 from a prepared matrix, for products of so many columns that a dense product is fastest.
#pragma once

#include "product/prepared.hpp"
#include "product/tuning.hpp"

namespace bqq::detail {

/// Tiles of one block column after the other. An element costs O(p l / 32) operations.
class DenseTiles {
  public:
    static constexpr Index kRows = kMaxPanels * kPanelRows, kColumns = kDenseTileColumns;

    DenseTiles(const Prepared& h, const bqq_kernels& kernel, Arena& arena);

    /// Goes to columns [first, first + count) of block (j, k): first a multiple of 32, count <= kColumns.
    void select(Index j, Index k, Index first, Index count);
    /// Rows [16 panel, 16 (panel + panels)) of those columns, transposed: [count][16 panels]. All panels in one group
    /// of kMaxPanels.
    const float* tile(Index panel, Index panels);

  private:
    void find_segments(Index k);
    bqq_dense common(Index panel, Index panels) const;

    const Prepared& h_;
    const bqq_kernels& kernel_;
    std::uint32_t *first_, *block_, *mask_, *z_; // segments: words of the rows of Y, cut where stacks end
    std::uint16_t (*halves_)[kColumns];          // columns of Z, 16 rows at a time
    float *r_, *s_, *column_, *row_, *tile_;
    float zero_ = 0;
    Index j_ = -1, k_ = -1, count_ = 0;
};

} // namespace bqq::detail
