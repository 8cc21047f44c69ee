// A matrix cut into tiles of accumulators.
#pragma once

#include <stddef.h>

namespace {

// The last tile of a column panel has fewer rows: count down to its size at compile time.
template <int MR, int NV, class Op> inline void tile_rows(Op& op, size_t i, size_t j, size_t rows) {
    if constexpr (MR > 1) {
        if (rows < size_t(MR)) return tile_rows<MR - 1, NV>(op, i, j, rows);
    }
    op.template tile<MR, NV>(i, j);
}

// Calls op.tile<rows, vectors>(i, j) for tiles of at most `rows` rows and `vectors` vectors of `width` elements that
// cover M x N; N a multiple of width.
template <int rows, int vectors, int width, class Op> inline void for_tiles(Op& op, size_t M, size_t N) {
    size_t j = 0;
    for (; j + vectors * width <= N; j += vectors * width)
        for (size_t i = 0; i < M; i += rows) tile_rows<rows, vectors>(op, i, j, M - i);
    for (; j < N; j += width)
        for (size_t i = 0; i < M; i += rows) tile_rows<rows, 1>(op, i, j, M - i);
}

} // namespace
