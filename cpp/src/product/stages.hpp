// The two stages of a product and what lies between them, for a few columns and block rows at a time.
#pragma once

#include "product/dense.hpp"
#include "product/method.hpp"

#include <optional>

namespace bqq::detail {

/// Some columns of X in float32, `start` the first: x[(k*columns + c)*ld + b] zero-padded to units for each block
/// column k, their sums sigma[k*columns + c].
struct Inputs {
    Index columns, ld, start = 0;
    float* x;
    double* sigma;

    Inputs(const Prepared& h, Index columns, Arena& arena);
    /// Columns [column, column + count) of X; count at most what there is room for.
    void load(const Prepared& h, const ConstArray& X, Index column, Index count);
};

/// Columns [first, first + count) of an Inputs.
struct Columns {
    Index first, count;
};

/// What lies between the stages, for `columns` columns of some block rows: the inputs of stage 2 for block row number
/// `slot` in w[(slot*columns + c)*ld + ...], zero-padded to units, and what every row of the block row gets besides.
struct StageBuffer {
    Index columns, ld;
    float *w, *sums; // sums: kPanelRows partial sums each
    double* total;

    StageBuffer(const Prepared& h, Index block_rows, Index columns, Arena& arena);
    void begin(const Prepared& h, Index block_rows, Index columns);
    /// What stage 1 made of block column k for block rows [begin, end), the first of which is slot 0: v[c*ldv + ...]
    /// has their p l entries each, sigma[c] the sum of column c.
    void put(const bqq_kernels& kernels, const Prepared& h, Index k, Index begin, Index end, const float* v, Index ldv,
             const double* sigma);
    void end(Index block_rows);
};

/// A bit matrix in units.
struct BitMatrix {
    Units units;
    const std::uint8_t* at;
};
/// `count` vectors, ld apart.
struct Vectors {
    const float* at;
    Index ld, count;
};

/// out[c*ldo + ...] = panels [begin, end) of a bit matrix, centred, times the vectors.
void multiply(const ProductMethod& method, const BitMatrix& bits, Index begin, Index end, const Vectors& x,
              void* tables, float* out, Index ldo);

/// Block rows that go through stage 1 together.
Index rows_at_once(const Prepared& h, Index columns);

/// The memory of one thread: the rows of a block and either tables and both sides of stage 1 or tiles of W_hat.
struct Scratch {
    float *y, *tables = nullptr, *v = nullptr;
    std::optional<StageBuffer> between;
    std::optional<DenseTiles> tiles;

    Scratch(const Prepared& h, const bqq_kernels& kernels, const ProductMethod& method, Index together, Arena& arena);
};

/// One call of matmul or matmul_rows.
struct Product {
    const Prepared& h;
    const bqq_kernels& kernels;
    const ProductMethod& method;
    const Array& out;
    bool accumulate;

    BitMatrix z(Index k) const { return {h.z_units(), h.z_bits(k)}; }
    BitMatrix y(Index j) const { return {h.y_units(), h.y_bits(j)}; }

    /// Rows [begin, end) of the matrix, all of block rows that go together, for some columns of `in`.
    void rows(const Inputs& in, Columns columns, Index begin, Index end, Scratch& scratch) const;
    /// Rows [begin, end) of block row j, from vectors of `between` from number `at` on, to `count` columns of out from
    /// `column` on.
    void stage2(Index j, Index begin, Index end, const StageBuffer& between, Index at, Index column, Index count,
                Scratch& scratch) const;

  private:
    void stage1(const Inputs& in, Columns columns, Index begin, Index end, Scratch& scratch) const; // block rows
    void dense(Index j, Index begin, Index end, const Inputs& in, Columns columns, Scratch& scratch) const;
};

} // namespace bqq::detail
