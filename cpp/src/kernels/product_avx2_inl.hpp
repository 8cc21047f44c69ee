// Exact float tables in registers: eight rows in the lanes of a vector of 32-bit words, whose low three bits index a
// table of eight floats; then the words are shifted. 32 columns are ten groups of three and one of two.
//   vpermps ymm      8 rows x 3 bits
#pragma once

#include "kernels/tuning.hpp"
#include "kernels/x86.hpp"

namespace {

// [column][block][11 groups][8]; entry e is 1/2 sum_q (bit q of e ? +x_q : -x_q).
constexpr size_t kGroups = 11;

void tables_f32(size_t blocks, size_t columns, const float* x, size_t ldx, void* tables) {
    const float a = 0.5f, z = -0.5f;
    const __m256 s0 = _mm256_setr_ps(z, a, z, a, z, a, z, a), s1 = _mm256_setr_ps(z, z, a, a, z, z, a, a);
    const __m256 s2 = _mm256_setr_ps(z, z, z, z, a, a, a, a);
    float* t = static_cast<float*>(tables);
    for (size_t c = 0; c < columns; ++c)
        for (size_t b = 0; b < blocks; ++b) {
            const float* in = x + c * ldx + kUnitColumns * b;
            for (size_t g = 0; g < kGroups; ++g, in += 3, t += 8) {
                const __m256 low =
                    _mm256_fmadd_ps(s1, _mm256_broadcast_ss(in + 1), _mm256_mul_ps(s0, _mm256_broadcast_ss(in)));
                _mm256_store_ps(t, g + 1 < kGroups ? _mm256_fmadd_ps(s2, _mm256_broadcast_ss(in + 2), low) : low);
            }
        }
}

// H half panels of eight rows.
template <int H, int N> inline void lookup_tile(size_t blocks, const uint8_t* bits, size_t stride, const float* t,
                                                float* out, size_t ldo, int accumulate) {
    const size_t column = 8 * kGroups * blocks;
    __m256 s[H][N];
    for (int q = 0; q < H; ++q)
        for (int c = 0; c < N; ++c) s[q][c] = accumulate ? _mm256_loadu_ps(out + c * ldo + 8 * q) : _mm256_setzero_ps();
    for (size_t b = 0; b < blocks; ++b, bits += stride) {
        __m256i word[H];
        for (int q = 0; q < H; ++q) {
            word[q] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bits + 32 * q));
            if (q % 2 == 0)
                _mm_prefetch(reinterpret_cast<const char*>(bits + kPrefetchBlocks * stride + 32 * q), _MM_HINT_T1);
        }
        for (size_t g = 0; g < kGroups; ++g, t += 8) {
            for (int c = 0; c < N; ++c) {
                const __m256 table = _mm256_load_ps(t + c * column);
                for (int q = 0; q < H; ++q) s[q][c] = _mm256_add_ps(s[q][c], _mm256_permutevar8x32_ps(table, word[q]));
            }
            for (int q = 0; q < H; ++q) word[q] = _mm256_srli_epi32(word[q], 3);
        }
    }
    for (int q = 0; q < H; ++q)
        for (int c = 0; c < N; ++c) _mm256_storeu_ps(out + c * ldo + 8 * q, s[q][c]);
}

template <int N, int H = N == 4   ? 2
                         : N == 2 ? 4
                                  : 6>
inline void lookup_columns(size_t halves, size_t blocks, const uint8_t* bits, size_t stride, const float* t, float* out,
                           size_t ldo, int accumulate) {
    for (; halves >= size_t(H); halves -= H, bits += 32 * H, out += 8 * H)
        lookup_tile<H, N>(blocks, bits, stride, t, out, ldo, accumulate);
    if constexpr (H > 2) {
        if (halves) lookup_columns<N, (H > 4 ? 4 : 2)>(halves, blocks, bits, stride, t, out, ldo, accumulate);
    }
}

void lookup_f32(size_t panels, size_t blocks, const uint8_t* bits, size_t stride, size_t columns, const void* tables,
                float* out, size_t ldo, int accumulate) {
    const float* t = static_cast<const float*>(tables);
    const size_t column = 8 * kGroups * blocks;
    for (; columns >= 4; columns -= 4, t += 4 * column, out += 4 * ldo)
        lookup_columns<4>(2 * panels, blocks, bits, stride, t, out, ldo, accumulate);
    if (columns & 2) {
        lookup_columns<2>(2 * panels, blocks, bits, stride, t, out, ldo, accumulate);
        t += 2 * column, out += 2 * ldo;
    }
    if (columns & 1) lookup_columns<1>(2 * panels, blocks, bits, stride, t, out, ldo, accumulate);
}

} // namespace
