// Fixed-point tables: a chunk of kChunkBlocks blocks of one vector, which shares a scale, is a record of kRecord bytes.
// It starts with the scale; 64 bytes in, the tables of its blocks follow. Records lie vector by vector.
#pragma once

#include "kernels/table.hpp"

namespace {

constexpr size_t kRecord = kChunkBlocks * kTableBytes;

inline size_t chunk_blocks(size_t left) { return left < kChunkBlocks ? left : size_t(kChunkBlocks); }

// Bytes of the records of a vector.
inline size_t record_stride(size_t blocks) { return (blocks + kChunkBlocks - 1) / kChunkBlocks * kRecord; }

// Calls f(record, blocks, inputs) for every chunk of every vector.
template <class F>
inline void for_records(size_t blocks, size_t columns, const float* x, size_t ldx, void* tables, F&& f) {
    uint8_t* record = static_cast<uint8_t*>(tables);
    for (size_t c = 0; c < columns; ++c)
        for (size_t b = 0; b < blocks; b += kChunkBlocks, record += kRecord)
            f(record, chunk_blocks(blocks - b), x + c * ldx + kUnitColumns * b);
}

} // namespace
