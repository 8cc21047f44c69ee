// Exact float tables in registers: sixteen rows in the lanes of a vector of 32-bit words, whose low four bits index a
// table of sixteen floats; then the words are shifted.
//   vpermps zmm     1 per cycle: 16 rows x 4 bits
//   vfmadd231ps zmm as an addition (times one), since Zen adds on the ports of the permutes but multiplies on others
#pragma once

#include "kernels/tuning.hpp"
#include "kernels/x86.hpp"

namespace {

// [column][block][group of 4 inputs][16]; entry e is 1/2 sum_q (bit q of e ? +x_q : -x_q).
void tables_f32(size_t blocks, size_t columns, const float* x, size_t ldx, void* tables) {
    const __m512 half = _mm512_set1_ps(0.5f), minus = _mm512_set1_ps(-0.5f);
    const __m512 s0 = _mm512_mask_mov_ps(minus, 0xAAAA, half), s1 = _mm512_mask_mov_ps(minus, 0xCCCC, half);
    const __m512 s2 = _mm512_mask_mov_ps(minus, 0xF0F0, half), s3 = _mm512_mask_mov_ps(minus, 0xFF00, half);
    float* t = static_cast<float*>(tables);
    for (size_t c = 0; c < columns; ++c)
        for (size_t g = 0; g < 8 * blocks; ++g, t += 16) {
            const float* in = x + c * ldx + 4 * g;
            const __m512 low = _mm512_fmadd_ps(s1, _mm512_set1_ps(in[1]), _mm512_mul_ps(s0, _mm512_set1_ps(in[0])));
            const __m512 high = _mm512_fmadd_ps(s3, _mm512_set1_ps(in[3]), _mm512_mul_ps(s2, _mm512_set1_ps(in[2])));
            _mm512_store_ps(t, _mm512_add_ps(low, high));
        }
}

template <int P, int N> inline void lookup_tile(size_t blocks, const uint8_t* bits, size_t stride, const float* t,
                                                float* out, size_t ldo, int accumulate) {
    const size_t column = 128 * blocks;
    const __m512 one = _mm512_set1_ps(1);
    __m512 s[P][N];
    for (int q = 0; q < P; ++q)
        for (int c = 0; c < N; ++c)
            s[q][c] = accumulate ? _mm512_loadu_ps(out + c * ldo + kPanelRows * q) : _mm512_setzero_ps();
    for (size_t b = 0; b < blocks; ++b, bits += stride) {
        __m512i word[P];
        for (int q = 0; q < P; ++q) {
            word[q] = _mm512_loadu_si512(bits + kUnitBytes * q);
            _mm_prefetch(reinterpret_cast<const char*>(bits + kPrefetchBlocks * stride + kUnitBytes * q), _MM_HINT_T1);
        }
        for (int g = 0; g < 8; ++g, t += 16) {
            for (int c = 0; c < N; ++c) {
                const __m512 table = _mm512_load_ps(t + c * column);
                for (int q = 0; q < P; ++q)
                    s[q][c] = _mm512_fmadd_ps(_mm512_permutexvar_ps(word[q], table), one, s[q][c]);
            }
            for (int q = 0; q < P; ++q) word[q] = _mm512_srli_epi32(word[q], 4);
        }
    }
    for (int q = 0; q < P; ++q)
        for (int c = 0; c < N; ++c) _mm512_storeu_ps(out + c * ldo + kPanelRows * q, s[q][c]);
}

template <int N, int P = N == 1 ? 8 : 4> inline void lookup_columns(size_t panels, size_t blocks, const uint8_t* bits,
                                                                    size_t stride, const float* t, float* out,
                                                                    size_t ldo, int accumulate) {
    for (; panels >= size_t(P); panels -= P, bits += kUnitBytes * P, out += kPanelRows * P)
        lookup_tile<P, N>(blocks, bits, stride, t, out, ldo, accumulate);
    if constexpr (P > 1) {
        if (panels) lookup_columns<N, P / 2>(panels, blocks, bits, stride, t, out, ldo, accumulate);
    }
}

void lookup_f32(size_t panels, size_t blocks, const uint8_t* bits, size_t stride, size_t columns, const void* tables,
                float* out, size_t ldo, int accumulate) {
    const float* t = static_cast<const float*>(tables);
    for (; columns >= 4; columns -= 4, t += 4 * 128 * blocks, out += 4 * ldo)
        lookup_columns<4>(panels, blocks, bits, stride, t, out, ldo, accumulate);
    if (columns & 2) {
        lookup_columns<2>(panels, blocks, bits, stride, t, out, ldo, accumulate);
        t += 2 * 128 * blocks, out += 2 * ldo;
    }
    if (columns & 1) lookup_columns<1>(panels, blocks, bits, stride, t, out, ldo, accumulate);
}

} // namespace
