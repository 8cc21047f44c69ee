// How a product is computed.
#pragma once

#include "bqq/prepared.hpp"
#include "product/prepared.hpp"

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

/// Chosen from shape, batch, precision and instruction set.
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

    ProductMethod(const bqq_kernels& kernels, const Prepared& h, Precision precision, Index batch);

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

} // namespace bqq::detail
