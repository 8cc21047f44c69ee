// The two stages of a product and what lies between them, for a few columns and block rows at a time.
#pragma once

#include "product/dense.hpp"
#include "product/method.hpp"
#include "product/strided.hpp"

#include <optional>

namespace bqq::detail {

/// Columns [first, first + count) of an Inputs: a group that goes together.
struct Columns {
    Index first, count;
};

/// Some columns of X in float32, `start` the first, by groups: for each group and block column k its vectors, as the
/// method arranges them, less the mean of the column if the method wants that, zero-padded to units, and their sums.
struct Inputs {
    Index columns, start = 0;

    Inputs(const Prepared& h, const ProductMethod& method, Index columns, Arena& arena);
    /// Columns [column, column + count) of X; count at most what there is room for.
    void load(const ConstArray& X, Index column, Index count);

    Index groups() const { return ceil_div(columns, method_.columns); }
    Columns group(Index i) const {
        return {i * method_.columns, std::min(method_.columns, columns - i * method_.columns)};
    }
    VectorsOf<float> x(Columns group, Index k) const;
    double* sigma(Columns group, Index k) const;
    const double* mean(Columns group) const { return mean_ + group.first; } ///< zeros if they were not taken out

  private:
    void load_block(const ConstArray& X, Columns group, Index k);
    void centre(Columns group);

    const Prepared& h_;
    const ProductMethod& method_;
    Index ld_;
    float* x_;
    double *sigma_, *mean_;
};

/// What lies between the stages, for one group of columns of some block rows: the inputs of stage 2 for block row
/// number `slot`, zero-padded to units, and what every row of the block row gets besides.
class StageBuffer {
  public:
    StageBuffer(const Prepared& h, const ProductMethod& method, Index block_rows, Index columns, Arena& arena);
    void begin(Index block_rows, Index columns);
    /// What stage 1 made of block column k for block rows [begin, end), the first of which is slot 0: v has their p l
    /// entries each, sigma[c] the sum of column c.
    void put(const bqq_kernels& kernels, Index k, Index begin, Index end, const Vectors& v, const double* sigma);
    void end(Index block_rows);

    Vectors w(Index slot) const;
    const double* total(Index slot) const { return total_ + slot * method_.room(columns_); }

  private:
    const Prepared& h_;
    const ProductMethod& method_;
    Index columns_, ld_;
    float *w_, *sums_; // sums: kPanelRows partial sums of each vector; of lanes: the sigmas
    double* total_;
};

/// A bit matrix in units.
struct BitMatrix {
    Units units;
    const std::uint8_t* at;
};

/// The memory of one thread: the rows of a block and either tables and both sides of stage 1 or tiles of W_hat.
struct Scratch {
    float *y, *tables = nullptr, *v = nullptr, *held = nullptr, *scale = nullptr; // held: sums of blocks before
    std::uint8_t* sums = nullptr;                                                 // of lanes: of all rows at once
    std::optional<StageBuffer> between;
    std::optional<DenseTiles> tiles;

    Scratch(const Prepared& h, const bqq_kernels& kernels, const ProductMethod& method, Index together, Arena& arena);
};

/// out = panels [begin, end) of a bit matrix, centred, times the vectors.
void multiply(const ProductMethod& method, const BitMatrix& bits, Index begin, Index end, const Vectors& x,
              const Scratch& scratch, const VectorsOf<float>& out);

/// Block rows that go through stage 1 together.
Index rows_at_once(const Prepared& h, Index columns);

/// One call of matmul or matmul_rows.
struct Product {
    const Prepared& h;
    const bqq_kernels& kernels;
    const ProductMethod& method;
    const Array& out;
    bool accumulate;
    Index begin, end; ///< rows of out that are wanted, of a matrix with an order of its rows

    BitMatrix z(Index k) const { return {h.z_units(), h.z_bits(k)}; }
    BitMatrix y(Index j) const { return {h.y_units(), h.y_bits(j)}; }

    /// Rows [begin, end) of the matrix, all of block rows that go together, for some columns of `in`.
    void rows(const Inputs& in, Columns columns, Index begin, Index end, Scratch& scratch) const;
    /// Rows [begin, end) of block row j of a group of `in`, from slot `slot` of `between`, to out.
    void stage2(Index j, Index begin, Index end, const StageBuffer& between, Index slot, const Inputs& in,
                Columns group, Scratch& scratch) const;

  private:
    void stage1(const Inputs& in, Columns columns, Index begin, Index end, Scratch& scratch) const; // block rows
    void dense(Index j, Index begin, Index end, const Inputs& in, Columns columns, Scratch& scratch) const;
    /// The only way to out: entries are added, rows put where they belong. rows: `count` results from row `first` on.
    void store(Index first, Index count, const VectorsOf<float>& rows, const double* shift, const RowShift& common,
               const Inputs& in, Columns group) const;
};

} // namespace bqq::detail
