// Bit planes: packing, transposing, and the integer rows of Y Z that scales, residuals and reconstructions are made of.
#pragma once

#include "bqq/matrix.hpp"

#include <algorithm>

namespace bqq::detail {

/// Bit (i, j) = x[i*ld + j] > 1/2; pad bits zero.
void pack_bits(Index rows, Index cols, const float* x, Index ld, std::uint8_t* bits, Index row_bytes);

/// out (cols x rows, pad bits zero) = transpose of bits (rows x cols).
void transpose_bits(Index rows, Index cols, const std::uint8_t* bits, Index row_bytes, std::uint8_t* out,
                    Index out_row_bytes);

constexpr Index kMaxOrdered = Index(1) << 32; ///< largest side that has an order or entries

/// The order of entries.
inline bool before(const Entry& a, const Entry& b) { return a.row != b.row ? a.row < b.row : a.col < b.col; }

/// Throws Error(unsupported) if q has an order or entries: what the GPU does not know yet.
inline void check_plain(const View& q) {
    if (!q.is_plain())
        throw Error(ErrorCode::unsupported,
                    "a matrix with an order of its rows or columns or with entries is not supported on the GPU yet");
}

/// Those of the transpose.
std::vector<Entry> transposed_entries(const View& q);

/// The entries of rows [begin, end).
struct EntryRange {
    const Entry *first, *last;
    const Entry* begin() const { return first; }
    const Entry* end() const { return last; }
};
inline EntryRange entries_of(const Entry* entries, Index count, Index begin, Index end) {
    const auto above = [&](Index row) {
        return std::lower_bound(entries, entries + count, row,
                                [](const Entry& e, Index r) { return Index(e.row) < r; });
    };
    return {above(begin), above(end)};
}

/// Copies the planes of the first `stacks` stacks of every block from q to a matrix of the same m, n, grid and l.
void copy_stacks(const View& q, Matrix& to, Index stacks);

/// Rows of the integer products Y_i Z_i of one block (entries 0..l), one row at a time so that no m x n array is
/// needed. Holds the unpacked Z: 2 p l cols bytes.
class BlockProducts {
  public:
    /// Of the first `stacks` stacks of block (j, k); refers to q's planes.
    BlockProducts(const View& q, Index j, Index k, Index stacks);
    Index rows() const { return rows_; }
    Index cols() const { return cols_; }
    Index stacks() const { return p_; }
    /// products[i*cols + b] = (Y_i Z_i)_ab and rho[i] = rowsum(Y_i)_a, i < stacks.
    void row(Index a, std::uint16_t* products, std::int64_t* rho) const;
    /// zeta[i*cols + b] = colsum(Z_i)_b.
    void column_sums(std::int64_t* zeta) const;

  private:
    View q_;
    Index j_, k_, rows_, cols_, p_, l_;
    std::vector<std::uint16_t> z_;
};

/// Row a of W_hat of one block, in float64 from the float32 scales, from what BlockProducts::row gave.
void reconstruct_row(const float* scales, Index p, Index cols, const std::uint16_t* products, const std::int64_t* rho,
                     const std::int64_t* zeta, double* out);

/// residual (rows x cols, contiguous) = W - W_hat of one block, rounded from float64.
void block_residual(const BlockProducts& block, const float* scales, const float* W, Index ldw, float* residual);

} // namespace bqq::detail
