// Products of bits and whole numbers in bytes: A as [M][K/4] and B as [K/4][N] words of four neighbours along K.
//   vpmaddubsw    four products of a column to two sums of 16 bits: at most 510 are added a word, so 64 words fit
//   vpmaddwd      with ones: the two sums of a column to one
// Written over a vector V of 32-bit words; the 512-bit one is in counts_avx512_inl.hpp.
#pragma once

#include "kernels/for_tiles_inl.hpp"
#include "kernels/table.hpp"
#include "kernels/x86.hpp"

namespace {

struct Words256 {
    typedef __m256i Word;
    static constexpr int kLanes = 8, kRows = 4, kVectors = 2;

    static Word load(const uint32_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
    static void store(uint32_t* p, Word a) { _mm256_storeu_si256((__m256i*)p, a); }
    static Word set(uint32_t a) { return _mm256_set1_epi32(int(a)); }
    static Word whole(const float* p) { return _mm256_cvtps_epi32(_mm256_loadu_ps(p)); }
    static Word bits_and(Word a, Word b) { return _mm256_and_si256(a, b); }
    static Word bits_or(Word a, Word b) { return _mm256_or_si256(a, b); }
    static Word left(Word a, int bits) { return _mm256_slli_epi32(a, bits); }
    static Word right(Word a, int bits) { return _mm256_srli_epi32(a, bits); }
    static Word add_halves(Word a) { return _mm256_madd_epi16(a, _mm256_set1_epi16(1)); }
    static bool any(Word a) { return !_mm256_testz_si256(a, a); }
    static Word add_products(Word sum, Word counts, Word bits) {
        return _mm256_add_epi16(sum, _mm256_maddubs_epi16(counts, bits));
    }
    static void put(float* c, Word a) { _mm256_storeu_ps(c, _mm256_cvtepi32_ps(a)); }
    static void add(float* c, Word a, float factor) {
        _mm256_storeu_ps(c, _mm256_fmadd_ps(_mm256_set1_ps(factor), _mm256_cvtepi32_ps(a), _mm256_loadu_ps(c)));
    }
};

// Rows of bits to [rows][stride] words; reads whole vectors of 16 of the padded rows.
void pack_bits(size_t rows, size_t cols, const float* A, size_t lda, uint32_t* out, size_t stride) {
    for (size_t i = 0; i < rows; ++i, A += lda, out += stride)
        for (size_t j = 0; j < cols; j += 16) {
            const __m256i words = _mm256_packs_epi32(Words256::whole(A + j), Words256::whole(A + j + 8));
            const __m256i turned = _mm256_permute4x64_epi64(words, 0xD8); // the packs work within 128 bits
            const __m128i low = _mm256_castsi256_si128(turned), high = _mm256_extracti128_si256(turned, 1);
            _mm_storeu_si128((__m128i*)(out + j / 4), _mm_packs_epi16(low, high));
        }
}

// Byte `shift`/8 of rows of whole numbers to [rows/4][cols] words, one row above the other. Returns whether any number
// has a higher byte.
template <class V> bool pack_counts(size_t rows, size_t cols, const float* B, size_t ldb, int shift, uint32_t* out) {
    const typename V::Word byte = V::set(255);
    typename V::Word all = V::set(0);
    for (size_t k = 0; k < rows; k += 4, B += 4 * ldb, out += cols)
        for (size_t j = 0; j < cols; j += V::kLanes) {
            typename V::Word word = V::set(0);
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
        BQQ_UNROLL for (int q = 0; q < MR; ++q) BQQ_UNROLL for (int v = 0; v < NV; ++v) sum[q][v] = V::set(0);
        const uint32_t *a = A + i * lda, *b = B + j;
        for (size_t k = 0; k < K; ++k, ++a, b += ldb) {
            typename V::Word counts[NV];
            BQQ_UNROLL for (int v = 0; v < NV; ++v) counts[v] = V::load(b + v * V::kLanes);
            BQQ_UNROLL for (int q = 0; q < MR; ++q) {
                const typename V::Word bits = V::set(a[size_t(q) * lda]);
                BQQ_UNROLL for (int v = 0; v < NV; ++v) {
                    sum[q][v] = V::add_products(sum[q][v], counts[v], bits);
                    BQQ_HOLD(sum[q][v]);
                }
            }
        }
        BQQ_UNROLL for (int q = 0; q < MR; ++q) BQQ_UNROLL for (int v = 0; v < NV; ++v) {
            const typename V::Word whole = V::add_halves(sum[q][v]);
            float* c = C + (i + size_t(q)) * ldc + j + size_t(v * V::kLanes);
            if (add)
                V::add(c, whole, factor);
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
