// How a product is computed.
#pragma once

#include "bqq/prepared.hpp"
#include "product/prepared.hpp"

namespace bqq::detail {

/// Chosen from shape, batch, precision and instruction set.
struct ProductMethod {
    enum Kind {
        tables, ///< of the sums of four inputs, for small batches
        tiles,  ///< matrix units, where there are any and the columns fill them
        dense   ///< tiles of W_hat in float32, for many columns and stacks
    };
    Kind kind;
    const bqq_product* kernel; ///< of tables and tiles
    Index columns;             ///< that go together

    ProductMethod(const bqq_kernels& kernels, const Prepared& h, Precision precision, Index batch);

    /// Blocks of `count` columns whose tables are built at a time. Tables: a multiple of kChunkBlocks that fits.
    Index blocks(Index count) const;
    Index table_bytes() const;
};

} // namespace bqq::detail
