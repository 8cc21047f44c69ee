// The layout of a prepared matrix: bit planes re-ordered into the units of kernels/table.hpp, in the order of the
// instruction set in use.
//
//   stage 1   block column k: the Z of all blocks (j, k) and stacks under one another, a bit matrix of J p l rows and
//             `cols` columns, which shares the tables of one slice of x
//   stage 2   block row j: the Y of all blocks (j, k) and stacks side by side, `rows` rows and K p l columns
//
// Units of a bit matrix lie in groups of kMaxPanels panels: group by group, in a group block by block, in a block panel
// by panel. Rows are padded to 16, columns to 32, with zeros.
#pragma once

#include "arguments.hpp"
#include "bits/pack.hpp"
#include "bqq/matrix.hpp"
#include "kernels/table.hpp"
#include "memory.hpp"

#include <algorithm>

namespace bqq::detail {

/// Sizes of a bit matrix in units.
struct Units {
    Index panels = 0, blocks = 0;
    Units(Index rows, Index cols) : panels(ceil_div(rows, kPanelRows)), blocks(ceil_div(cols, kUnitColumns)) {}
    Index rows() const { return panels * kPanelRows; }
    Index cols() const { return blocks * kUnitColumns; }
    Index bytes() const { return panels * blocks * kUnitBytes; }
    /// Panels of the group that panel q is in.
    Index width(Index q) const { return std::min<Index>(kMaxPanels, panels - q / kMaxPanels * kMaxPanels); }
    /// Where unit (panel q, block b) starts; within a group the next block is width(q) units further.
    Index offset(Index q, Index b) const {
        return (q / kMaxPanels * kMaxPanels * blocks + b * width(q) + q % kMaxPanels) * kUnitBytes;
    }
};

/// Start of a prepared block of memory; offsets count from here.
struct Prepared {
    std::uint64_t magic, order; // order: of this layout and of the bytes of a unit
    Layout layout;
    std::uint64_t constants, stacks, row_sums, z, y, row_orders, col_orders, entries, size; // orders: 0 for none
    Index entry_count;

    /// Columns of the Y of one block, its stacks side by side.
    Index inner_width() const { return layout.p * layout.l; }
    Units z_units() const { return {layout.J * inner_width(), layout.cols}; }
    Units y_units() const { return {layout.rows, layout.K * inner_width()}; }
    /// Every row of block (j, k) gets constant * sigma.
    double constant(Index j, Index k) const { return at<double>(constants)[j * layout.K + k]; }
    /// The p stacks of block (j, k).
    const bqq_stack* block(Index j, Index k) const { return at<bqq_stack>(stacks) + (j * layout.K + k) * layout.p; }
    /// Of W_hat: what a common part of all inputs adds to each of the m results.
    const float* row_sum() const { return at<float>(row_sums); }
    const std::uint32_t* row_order() const { return row_orders ? at<std::uint32_t>(row_orders) : nullptr; }
    const std::uint32_t* col_order() const { return col_orders ? at<std::uint32_t>(col_orders) : nullptr; }
    /// Of rows [begin, end).
    EntryRange entries_in(Index begin, Index end) const {
        return entries_of(at<Entry>(entries), entry_count, begin, end);
    }
    const std::uint8_t* z_bits(Index k) const { return at<std::uint8_t>(z) + k * z_units().bytes(); }
    const std::uint8_t* y_bits(Index j) const { return at<std::uint8_t>(y) + j * y_units().bytes(); }

  private:
    template <class T> const T* at(std::uint64_t offset) const {
        return reinterpret_cast<const T*>(reinterpret_cast<const std::uint8_t*>(this) + offset);
    }
};

/// Throws Error(invalid_argument) if `prepared` is not what prepare() of this version wrote.
const Prepared& prepared_of(const void* prepared);

} // namespace bqq::detail
