// A tile of W_hat from its bits by AND and population count, with AVX512-VPOPCNTDQ: 16 rows in the lanes of a vector.
#pragma once

#include "kernels/table.hpp"
#include "kernels/x86.hpp"

namespace {

// C columns of panel q from column b on. S: words of every stack, 0 if they differ.
template <int C, int S> inline void dense_columns(const bqq_dense& t, size_t q, size_t b) {
    const uint8_t* bits = t.bits + kUnitBytes * q;
    const uint32_t* z = t.z + b;
    const size_t ldz = t.ldz;
    const __m512 row = t.row ? _mm512_loadu_ps(t.row + kPanelRows * q) : _mm512_setzero_ps();
    __m512 sum[C];
    for (int c = 0; c < C; ++c) sum[c] = _mm512_add_ps(row, _mm512_set1_ps(t.column[b + size_t(c)]));
    const auto both = [&](size_t g, int c) {
        const __m512i y = _mm512_loadu_si512(bits + t.block[g] * t.stride);
        return _mm512_popcnt_epi32(_mm512_and_si512(y, _mm512_set1_epi32(int(z[g * ldz + size_t(c)]))));
    };
    for (size_t i = 0; i < t.stacks; ++i) {
        const size_t begin = t.first[i], end = S ? begin + S : t.first[i + 1];
        __m512i count[C];
        for (int c = 0; c < C; ++c) count[c] = both(begin, c);
        for (size_t g = begin + 1; g < end; ++g)
            for (int c = 0; c < C; ++c) count[c] = _mm512_add_epi32(count[c], both(g, c));
        const __m512 r = _mm512_set1_ps(t.r[i]);
        for (int c = 0; c < C; ++c) sum[c] = _mm512_fmadd_ps(r, _mm512_cvtepi32_ps(count[c]), sum[c]);
    }
    for (int c = 0; c < C; ++c) _mm512_storeu_ps(t.out + (b + size_t(c)) * t.ldo + kPanelRows * q, sum[c]);
}

template <int S> void dense_tile(const bqq_dense& t) {
    for (size_t q = 0; q < t.panels; ++q) {
        size_t b = 0;
        for (; b + 8 <= t.columns; b += 8) dense_columns<8, S>(t, q, b);
        for (; b < t.columns; ++b) dense_columns<1, S>(t, q, b);
    }
}

void unit_columns(const uint8_t* unit, uint16_t* columns) {
    const __m512i words = _mm512_loadu_si512(unit);
    __m512i bit = _mm512_set1_epi32(1);
    for (int b = 0; b < kUnitColumns; ++b, bit = _mm512_add_epi32(bit, bit))
        columns[b] = uint16_t(_cvtmask16_u32(_mm512_test_epi32_mask(words, bit)));
}

void dense(const bqq_dense* tile) {
    const bqq_dense t = *tile;
    size_t words = t.first[1] - t.first[0];
    for (size_t i = 1; i < t.stacks; ++i)
        if (t.first[i + 1] - t.first[i] != words) words = 0;
    switch (words) {
    case 1:
        return dense_tile<1>(t);
    case 2:
        return dense_tile<2>(t);
    case 4:
        return dense_tile<4>(t);
    default:
        return dense_tile<0>(t);
    }
}

} // namespace
