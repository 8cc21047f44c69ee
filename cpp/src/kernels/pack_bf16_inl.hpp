// Packing of float operands into 32-bit pairs of bfloat16 that are neighbours along K, with AVX512-BF16.
#pragma once

#include "kernels/table.hpp"
#include "kernels/x86.hpp"

namespace {

// A(i,k) = at[i*row + k*col], one of row and col 1.
struct Left {
    const float* at;
    size_t row, col;
};

// Neighbours x (low half) and y (high half) of 16 columns.
inline __m512i pair(__m512 x, __m512 y) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(y));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// A power-of-two distance between rows would map them to few cache sets: an odd number of lines.
inline size_t odd_lines(size_t words) { return words / 16 % 2 ? words : words + 16; }

// Rows of floats to [rows/2][cols] of vertical pairs, `stride` apart; an odd last row is paired with zeros.
void pack_down(size_t rows, size_t cols, const float* A, size_t lda, uint32_t* out, size_t stride) {
    for (size_t i = 0; i < rows; i += 2, A += 2 * lda, out += stride)
        for (size_t j = 0; j < cols; j += 16) {
            const __m512 x = _mm512_loadu_ps(A + j);
            const __m512 y = i + 1 < rows ? _mm512_loadu_ps(A + lda + j) : _mm512_setzero_ps();
            _mm512_storeu_si512(out + j, pair(x, y));
        }
}

// Rows of floats to [rows][ceil(cols/2)] of horizontal pairs, `stride` apart; reads whole vectors of the padded rows.
void pack_along(size_t rows, size_t cols, const float* A, size_t lda, uint32_t* out, size_t stride) {
    for (size_t i = 0; i < rows; ++i, A += lda, out += stride)
        for (size_t j = 0; j < cols; j += 16)
            _mm256_storeu_si256((__m256i*)(out + j / 2),
                                (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(
                                    j + 16 <= cols ? __mmask16(0xFFFF) : __mmask16((1u << (cols - j)) - 1u), A + j)));
}

} // namespace
