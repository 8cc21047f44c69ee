// A compressed matrix: its shape, an owner and a view of one, and what can be done with it without a product.
//
// Glossary (the paper's letters, used everywhere: code, docs, files, tests)
//   W      real matrix, m rows (outputs) x n columns (inputs)
//   W_hat  its approximation  sum_{i<p} ( r_i Y_i Z_i + s_i (Y_i 1) + t_i (1 Z_i) ) + u
//   Y_i    binary m x l,  Z_i  binary l x n,  one pair is a *stack*; p stacks
//   l      inner dimension; l = round(mn/(m+n)) costs about one bit per element and stack
//   patch  W is cut into J x K blocks of at most patch x patch; each block has its own Y, Z, r, s, t, u
//
// Source: "Binary Quadratic Quantization", NeurIPS 2025, arXiv 2510.18650.
#pragma once

#include "bqq/error.hpp"

#include <functional>
#include <vector>

namespace bqq {

/// Limits on the parameters of a matrix, checked on every way in.
constexpr Index kMaxStacks = 64;           ///< p
constexpr Index kMaxInner = 65535;         ///< l: an entry of Y Z fits 16 bits
constexpr Index kMaxSide = Index(1) << 40; ///< m, n
constexpr Index kMaxBlockSide = 1 << 20;   ///< rows, cols of a block

/// The shape of a compressed matrix. All blocks share p, l and the block size; blocks of the last row and
/// the last column may be shorter, their missing rows and columns are stored as zero bits.
struct Layout {
    Index m = 0, n = 0;       ///< shape of W
    Index J = 0, K = 0;       ///< grid: J block rows, K block columns
    Index rows = 0, cols = 0; ///< block size: rows = ceil(m/J), cols = ceil(n/K)
    Index p = 0, l = 0;       ///< stacks, inner dimension

    Index blocks() const { return J * K; }
    Index y_row_bytes() const { return (l + 7) / 8; }    ///< one row of one Y plane
    Index z_row_bytes() const { return (cols + 7) / 8; } ///< one row of one Z plane
    Index y_plane_bytes() const { return rows * y_row_bytes(); }
    Index z_plane_bytes() const { return l * z_row_bytes(); }
    Index y_bytes() const { return blocks() * p * y_plane_bytes(); }
    Index z_bytes() const { return blocks() * p * z_plane_bytes(); }
    Index scales_per_block() const { return 3 * p + 1; }
    Index scales_count() const { return blocks() * scales_per_block(); }
    /// Rows of block row j (columns of block column k) that exist in W.
    Index rows_of(Index j) const { return j + 1 < J ? rows : m - j * rows; }
    Index cols_of(Index k) const { return k + 1 < K ? cols : n - k * cols; }
    /// Bytes of planes and float32 scales, padding included: what a file spends on the matrix.
    Index nbytes() const { return y_bytes() + z_bytes() + 4 * scales_count(); }
    double bits_per_weight() const { return 8.0 * double(nbytes()) / (double(m) * double(n)); }
    bool operator==(const Layout& o) const {
        return m == o.m && n == o.n && J == o.J && K == o.K && rows == o.rows && cols == o.cols && p == o.p && l == o.l;
    }
    bool operator!=(const Layout& o) const { return !(*this == o); }
};

/// Layout of an m x n matrix cut into balanced blocks of at most patch x patch.
/// patch = 0 chooses: the whole matrix up to 512 on a side, blocks of at most 256 beyond. l = 0 means
/// max(1, round(rows*cols/(rows+cols))). Throws Error(invalid_argument).
BQQ_API Layout make_layout(Index m, Index n, Index p, Index l = 0, Index patch = 0);

/// The layout of the transpose.
inline Layout transposed_layout(const Layout& a) { return {a.n, a.m, a.K, a.J, a.cols, a.rows, a.p, a.l}; }

/// A number that is added to one element of a matrix. The same as bqq_entry of the C interface.
struct Entry {
    std::uint32_t row, col;
    float value;
};

/// Non-owning view of a compressed matrix: plain arrays, bits little-endian within a byte (element k of a row is bit
/// k%8 of byte k/8), pad bits zero. May point into a mapped file.
///
/// A matrix may carry an order of its rows, one of its columns, and a few entries. With A what the blocks stand for
/// plus the entries, W_hat[row_order[a], col_order[b]] = A[a, b]: entries count rows and columns as the blocks do.
/// Sides are at most 2^32 then.
struct View {
    Layout layout;
    const std::uint8_t* Y = nullptr;          ///< [J, K, p, rows, ceil(l/8)]
    const std::uint8_t* Z = nullptr;          ///< [J, K, p, l, ceil(cols/8)]
    const float* scales = nullptr;            ///< [J, K, 3p+1]: r_0 s_0 t_0 r_1 s_1 t_1 ... u
    const std::uint32_t* row_order = nullptr; ///< [m], a permutation of 0 .. m-1; NULL: rows as they are
    const std::uint32_t* col_order = nullptr; ///< [n], of 0 .. n-1; NULL: columns as they are
    const Entry* entries = nullptr;           ///< [entry_count], ascending by (row, col), each pair once
    Index entry_count = 0;

    /// The blocks alone, without orders and entries.
    bool is_plain() const { return !row_order && !col_order && !entry_count; }
    View blocks_alone() const { return {layout, Y, Z, scales}; }
    /// Layout::nbytes and what orders (2 or 4 bytes a row or column) and entries (8 or 12 bytes) take in a file.
    Index nbytes() const;

    const std::uint8_t* y_plane(Index j, Index k, Index i) const {
        return Y + ((j * layout.K + k) * layout.p + i) * layout.y_plane_bytes();
    }
    const std::uint8_t* z_plane(Index j, Index k, Index i) const {
        return Z + ((j * layout.K + k) * layout.p + i) * layout.z_plane_bytes();
    }
    const float* block_scales(Index j, Index k) const {
        return scales + (j * layout.K + k) * layout.scales_per_block();
    }
};

/// Owner of a compressed matrix. Copyable; copying copies the planes.
struct Matrix {
    Layout layout;
    std::vector<std::uint8_t> Y, Z;
    std::vector<float> scales;
    std::vector<std::uint32_t> row_order, col_order; ///< empty: none
    std::vector<Entry> entries;

    Matrix() = default;
    explicit Matrix(const Layout& a)
        : layout(a), Y(std::size_t(a.y_bytes())), Z(std::size_t(a.z_bytes())), scales(std::size_t(a.scales_count())) {}
    /// A copy of what q shows. Does not validate.
    explicit Matrix(const View& q)
        : layout(q.layout), Y(q.Y, q.Y + q.layout.y_bytes()), Z(q.Z, q.Z + q.layout.z_bytes()),
          scales(q.scales, q.scales + q.layout.scales_count()) {
        copy_extras(q);
    }
    /// The orders and entries of a matrix of the same shape.
    void copy_extras(const View& q) {
        if (q.row_order) row_order.assign(q.row_order, q.row_order + q.layout.m);
        if (q.col_order) col_order.assign(q.col_order, q.col_order + q.layout.n);
        if (q.entry_count) entries.assign(q.entries, q.entries + q.entry_count);
    }
    View view() const {
        View q{layout, Y.data(), Z.data(), scales.data()};
        if (!row_order.empty()) q.row_order = row_order.data();
        if (!col_order.empty()) q.col_order = col_order.data();
        if (!entries.empty()) q.entries = entries.data();
        q.entry_count = Index(entries.size());
        return q;
    }
};

/// Bytes of an element of an order of a side, and of the position row * n + col of an entry, in a file.
inline Index order_bytes(Index side) { return side <= 65536 ? 2 : 4; }
inline Index position_bytes(const Layout& a) { return double(a.m) * double(a.n) <= 4294967296.0 ? 4 : 8; }

inline Index View::nbytes() const {
    return layout.nbytes() + (row_order ? order_bytes(layout.m) * layout.m : 0) +
           (col_order ? order_bytes(layout.n) * layout.n : 0) +
           (position_bytes(layout) + Index(sizeof(float))) * entry_count;
}

/// Checks a layout or a whole matrix: sizes consistent and within limits, scales finite, pad bits and pad rows zero,
/// orders permutations, entries finite, in range and in order.
/// Throws Error(format) that says what is wrong. O(bytes). Never reads beyond the arrays the layout describes.
BQQ_API void validate(const Layout& layout);
BQQ_API void validate(const View& q);

/// The first k stacks (1 <= k <= p) as a matrix of their own: same bits, same r, s, t, orders and entries; u keeps each
/// block's mean. O(bits).
BQQ_API Matrix prefix(const View& q, Index k);

/// The transpose, exactly: Y' = Z^T, Z' = Y^T, s and t exchanged, the orders too.
BQQ_API Matrix transpose(const View& q);

/// Writes W_hat (m x n, row-major, ldo >= n). O(p l m n / 2) integer additions. `poll`, if given, is called on the
/// calling thread after each of its rows; what it throws ends the work.
BQQ_API void reconstruct(const View& q, float* out, Index ldo, int threads = 0, const std::function<void()>& poll = {});

/// Sum of squared differences between W and W_hat, accumulated in float64; W_hat is formed a row at a time.
BQQ_API double squared_error(const View& q, const float* W, Index ldw, int threads = 0,
                             const std::function<void()>& poll = {});

/// Squared norms of the rows of W_hat to out[0..m), accumulated in float64; a row at a time, as squared_error.
BQQ_API void row_squares(const View& q, float* out, int threads = 0, const std::function<void()>& poll = {});

} // namespace bqq
