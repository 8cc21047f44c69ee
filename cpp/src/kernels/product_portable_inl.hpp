// The product's kernels for machines without a table look-up of floats in a register: tables in memory. Several vectors
// at a time lie side by side, so that one index adds a vector of floats.
#pragma once

#include "kernels/records_inl.hpp"
#include "kernels/units_inl.hpp"
#include "kernels/vector_inl.hpp"

namespace {

inline size_t table_width(size_t columns) { return columns == 1 ? 1 : (columns + kWidth - 1) / kWidth * kWidth; }

// [block][group of 4 inputs][16 entries][width]; entry e is 1/2 sum_q (bit q of e ? +x_q : -x_q).
void tables_f32(size_t blocks, size_t columns, const float* x, size_t ldx, void* tables) {
    const size_t width = table_width(columns);
    float* t = static_cast<float*>(tables);
    for (size_t g = 0; g < 8 * blocks; ++g, t += 16 * width)
        for (size_t c = 0; c < width; ++c) {
            const float* in = x + (c < columns ? c : 0) * ldx + 4 * g;
            t[c] = -0.5f * ((in[0] + in[1]) + (in[2] + in[3]));
            for (size_t q = 0; q < 4; ++q)
                for (size_t e = 0; e < (size_t(1) << q); ++e)
                    t[((size_t(1) << q) + e) * width + c] = t[e * width + c] + in[q];
        }
}

// Four rows at a time: the additions of one row form a chain, those of four rows overlap.
void lookup_one(size_t panels, size_t blocks, const uint8_t* bits, size_t stride, const float* tables, float* out,
                int accumulate) {
    for (size_t row = 0; row < kPanelRows * panels; row += 4) {
        float s[4];
        for (size_t k = 0; k < 4; ++k) s[k] = accumulate ? out[row + k] : 0.0f;
        const uint8_t* at = bits + 4 * row;
        const float* t = tables;
        for (size_t b = 0; b < blocks; ++b, at += stride) {
            uint32_t word[4];
            for (size_t k = 0; k < 4; ++k) word[k] = load_word(at + 4 * k);
            for (size_t g = 0; g < 8; ++g, t += 16)
                for (size_t k = 0; k < 4; ++k) {
                    s[k] += t[word[k] & 15];
                    word[k] >>= 4;
                }
        }
        for (size_t k = 0; k < 4; ++k) out[row + k] = s[k];
    }
}

template <int V> void lookup_vectors(size_t panels, size_t blocks, const uint8_t* bits, size_t stride, size_t columns,
                                     const void* tables, float* out, size_t ldo, int accumulate) {
    constexpr size_t width = V * kWidth;
    for (size_t row = 0; row < kPanelRows * panels; row += 2) {
        float held[2][width] = {};
        for (size_t c = 0; accumulate && c < columns; ++c)
            for (size_t k = 0; k < 2; ++k) held[k][c] = out[c * ldo + row + k];
        vf s[2][V];
        for (int k = 0; k < 2; ++k)
            for (int v = 0; v < V; ++v) s[k][v] = vload(held[k] + v * kWidth);
        const uint8_t* at = bits + 4 * row;
        const float* t = static_cast<const float*>(tables);
        for (size_t b = 0; b < blocks; ++b, at += stride) {
            uint32_t word[2] = {load_word(at), load_word(at + 4)};
            for (size_t g = 0; g < 8; ++g, t += 16 * width)
                for (int k = 0; k < 2; ++k) {
                    const float* entry = t + (word[k] & 15) * width;
                    for (int v = 0; v < V; ++v) s[k][v] = vadd(s[k][v], vload(entry + v * kWidth));
                    word[k] >>= 4;
                }
        }
        for (int k = 0; k < 2; ++k)
            for (int v = 0; v < V; ++v) vstore(held[k] + v * kWidth, s[k][v]);
        for (size_t c = 0; c < columns; ++c)
            for (size_t k = 0; k < 2; ++k) out[c * ldo + row + k] = held[k][c];
    }
}

void lookup_f32(size_t panels, size_t blocks, const uint8_t* bits, size_t stride, size_t columns, const void* tables,
                float* out, size_t ldo, int accumulate) {
    static_assert(kMaxVectors <= 2 * kWidth, "two vectors hold the widest batch");
    if (columns == 1)
        lookup_one(panels, blocks, bits, stride, static_cast<const float*>(tables), out, accumulate);
    else if (columns <= size_t(kWidth))
        lookup_vectors<1>(panels, blocks, bits, stride, columns, tables, out, ldo, accumulate);
    else
        lookup_vectors<2>(panels, blocks, bits, stride, columns, tables, out, ldo, accumulate);
}

// Fixed point: the tables of a block are 8 of 16 signed bytes each.
void tables_i8(size_t blocks, size_t columns, const float* x, size_t ldx, void* tables) {
    for_records(blocks, columns, x, ldx, tables, [](uint8_t* record, size_t count, const float* in) {
        const size_t groups = 8 * count;
        float largest = 0, taint = 0; // taint: NaN if an input is not finite
        for (size_t g = 0; g < groups; ++g) {
            float size = 0;
            for (size_t q = 0; q < 4; ++q) size += 0.5f * (in[4 * g + q] < 0 ? -in[4 * g + q] : in[4 * g + q]);
            taint += 0.0f * size;
            largest = size > largest ? size : largest;
        }
        const bool usable = largest > 1e-34f && taint == 0;
        const float scale = (usable ? largest / 127.0f : 0.0f) + taint, factor = usable ? 127.0f / largest : 0.0f;
        *reinterpret_cast<float*>(record) = scale;
        int8_t* t = reinterpret_cast<int8_t*>(record + 64);
        for (size_t g = 0; g < groups; ++g, in += 4)
            for (size_t e = 0; e < 16; ++e) {
                float sum = 0;
                for (size_t q = 0; usable && q < 4; ++q) sum += e >> q & 1 ? 0.5f * in[q] : -0.5f * in[q];
                sum *= factor;
                *t++ = int8_t(int(sum < 0 ? sum - 0.5f : sum + 0.5f));
            }
    });
}

void lookup_i8(size_t panels, size_t blocks, const uint8_t* bits, size_t stride, size_t columns, const void* tables,
               float* out, size_t ldo, int accumulate) {
    const uint8_t* record = static_cast<const uint8_t*>(tables);
    for (size_t c = 0; c < columns; ++c)
        for (size_t first = 0; first < blocks; first += kChunkBlocks, record += kRecord) {
            const size_t count = chunk_blocks(blocks - first);
            const float scale = *reinterpret_cast<const float*>(record);
            for (size_t row = 0; row < kPanelRows * panels; ++row) {
                const int8_t* t = reinterpret_cast<const int8_t*>(record + 64);
                int32_t sum = 0;
                for (size_t b = 0; b < count; ++b) {
                    uint32_t word = load_word(bits + (first + b) * stride + 4 * row);
                    for (size_t g = 0; g < 8; ++g, t += 16, word >>= 4) sum += t[word & 15];
                }
                float* y = out + c * ldo + row;
                *y = (accumulate || first ? *y : 0.0f) + scale * float(sum);
            }
        }
}

void fill_product(bqq_kernels* table) {
    table->product[0] = bqq_product{tables_f32, lookup_f32};
    table->product[1] = bqq_product{tables_i8, lookup_i8};
}

} // namespace
