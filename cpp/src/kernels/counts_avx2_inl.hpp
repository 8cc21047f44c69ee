// Products of bits and whole numbers in bytes: A as [M][K/4] and B as [K/4][N] words of four neighbours along K.
//   vpmaddubsw    four products of a column to two sums of 16 bits: at most 510 are added a word, so 64 words fit
//   vpmaddwd      with ones: the two sums of a column to one
// Written over V, a vector of words_avx2_inl.hpp or words_avx512_inl.hpp.
#pragma once

#include "kernels/for_tiles_inl.hpp"
#include "kernels/table.hpp"
#include "kernels/words_avx2_inl.hpp"

namespace {

// Rows of bits to [rows][stride] words; reads whole vectors of 16 of the padded rows.
inline void pack_bits(size_t rows, size_t cols, const float* A, size_t lda, uint32_t* out, size_t stride) {
    for (size_t i = 0; i < rows; ++i, A += lda, out += stride)
        for (size_t j = 0; j < cols; j += 16) Words256::store_bytes(out + j / 4, A + j);
}

// Byte `shift`/8 of rows of whole numbers to [rows/4][cols] words, one row above the other. Returns whether any number
// has a higher byte.
template <class V> bool pack_counts(size_t rows, size_t cols, const float* B, size_t ldb, int shift, uint32_t* out) {
    const typename V::Word byte = V::set(255u);
    typename V::Word all = V::set(0u);
    for (size_t k = 0; k < rows; k += 4, B += 4 * ldb, out += cols)
        for (size_t j = 0; j < cols; j += V::kLanes) {
            typename V::Word word = V::set(0u);
            for (size_t q = 0; q < 4 && k + q < rows; ++q) {
                const typename V::Word v = V::right(V::whole(B + q * ldb + j), shift);
                all = V::bits_or(all, v);
                word = V::bits_or(word, V::left(V::bits_and(v, byte), int(8 * q)));
            }
            V::store(out + j, word);
        }
    return V::any(V::bits_and(all, V::set(~255u)));
}

template <class V> struct CountTiles {
    size_t K; // words
    const uint32_t *A, *B;
    size_t lda, ldb;
    float* C;
    size_t ldc;
    float factor;
    bool add; // to what C holds

    template <int MR, int NV> void tile(size_t i, size_t j) {
        typename V::Word sum[MR][NV];
        BQQ_UNROLL for (int q = 0; q < MR; ++q) BQQ_UNROLL for (int v = 0; v < NV; ++v) sum[q][v] = V::set(0u);
        const uint32_t *a = A + i * lda, *b = B + j;
        for (size_t k = 0; k < K; ++k, ++a, b += ldb) {
            typename V::Word counts[NV];
            BQQ_UNROLL for (int v = 0; v < NV; ++v) counts[v] = V::load(b + v * V::kLanes);
            BQQ_UNROLL for (int q = 0; q < MR; ++q) {
                const typename V::Word bits = V::set(a[size_t(q) * lda]);
                BQQ_UNROLL for (int v = 0; v < NV; ++v) {
                    sum[q][v] = V::add_byte_products(sum[q][v], counts[v], bits);
                    BQQ_HOLD(sum[q][v]);
                }
            }
        }
        BQQ_UNROLL for (int q = 0; q < MR; ++q) BQQ_UNROLL for (int v = 0; v < NV; ++v) {
            const typename V::Word whole = V::add_halves(sum[q][v]);
            float* c = C + (i + size_t(q)) * ldc + j + size_t(v * V::kLanes);
            if (add)
                V::put_more(c, whole, factor);
            else
                V::put(c, whole);
        }
    }
};

template <class V> void gemm_counts_in_bytes(size_t M, size_t N, size_t K, const float* A, size_t lda, const float* B,
                                             size_t ldb, float* C, size_t ldc, float* workspace) {
    constexpr size_t kMost = 64; // words whose sums fit
    uint32_t* b = (uint32_t*)workspace;
    const size_t words = (K + 3) / 4, stride = (words + 3) / 4 * 4 + 4;
    bool more = pack_counts<V>(K, N, B, ldb, 0, b);
    uint32_t* a = b + words * N;
    pack_bits(M, K, A, lda, a, stride);
    CountTiles<V> op{0, a, b, stride, N, C, ldc, 1, false};
    for (int shift = 0;;) {
        for (size_t k = 0; k < words; k += kMost) {
            op.K = words - k < kMost ? words - k : kMost;
            op.A = a + k, op.B = b + k * N;
            for_tiles<V::kRows, V::kVectors, V::kLanes>(op, M, N);
            op.add = true;
        }
        if (shift || !more) return;
        shift = 8, op.factor = 256;
        pack_counts<V>(K, N, B, ldb, shift, b);
    }
}

} // namespace
