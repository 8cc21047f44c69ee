// How a product is computed.
#pragma once

#include "bqq/prepared.hpp"
#include "product/prepared.hpp"

#include <array>

namespace bqq::detail {

/// `count` vectors: element i of vector c is at[i*step + c*ld]. One of step and ld is 1.
template <class T> struct VectorsOf {
    T* at;
    Index step, ld, count;
    VectorsOf(T* at, Index step, Index ld, Index count) : at(at), step(step), ld(ld), count(count) {}
    template <class U> VectorsOf(const VectorsOf<U>& v) : VectorsOf(v.at, v.step, v.ld, v.count) {}
    VectorsOf from(Index i) const { return {at + i * step, step, ld, count}; }
};
using Vectors = VectorsOf<const float>;

/// Chosen from shape, batch, precision and instruction set; or given, for tests and benchmarks.
struct ProductMethod {
    enum Kind {
        tables, ///< of the sums of four inputs, in registers, for small batches
        lanes,  ///< the same in memory, for all columns side by side
        tiles,  ///< matrix units, where there are any and the columns fill them
        dense   ///< tiles of W_hat in float32, for many columns and stacks
    };
    Kind kind;
    const bqq_product* kernel; ///< of tables and tiles
    const bqq_lanes* wide;     ///< of lanes
    Index columns;             ///< that go together
    bool centred;              ///< the mean of a column goes its own way, exactly

    /// The one that costs least by kernels.costs.
    ProductMethod(const bqq_kernels& kernels, const Layout& a, Precision precision, Index batch);
    /// A given one, which has to be possible.
    ProductMethod(const bqq_kernels& kernels, Kind kind, Precision precision, Index batch);
    static bool possible(const bqq_kernels& kernels, const Layout& a, Precision precision, Kind kind);
    /// How often a product of `batch` columns pays each member of the cost of its way.
    static std::array<double, 4> effort(const bqq_kernels& kernels, const Layout& a, Precision precision, Kind kind,
                                        Index batch);
    static const bqq_cost& cost(const bqq_kernels& kernels, Precision precision, Kind kind);

    /// Columns there has to be room for where there are `count`: lanes are filled up.
    Index room(Index count) const;
    /// `count` <= columns vectors of `length` elements in memory at `at` with room(count) * length.
    template <class T> VectorsOf<T> arrange(T* at, Index length, Index count) const {
        if (kind == lanes) return {at, room(count), 1, count};
        return {at, 1, length, count};
    }
    /// Blocks of `count` columns whose tables are built at a time: a multiple or, with lanes, a divisor of a chunk.
    Index blocks(Index count) const;
    Index table_bytes() const;
};

/// bqq::matmul with the method given, arguments unchecked, at least one column: how tests and benchmarks reach a way
/// that would not be chosen.
void matmul_by(const ProductMethod& method, const void* prepared, const ConstArray& X, const Array& out,
               const MatmulOptions& options);

} // namespace bqq::detail
