// A tile of What from its bits by AND and population count, with AVX512-VPOPCNTDQ: 16 rows in the lanes of a vector.

template <int C> inline void dense_columns(const bqq_dense* tile, size_t q, size_t b) {
    const size_t segments = tile->first[tile->stacks];
    const uint8_t* bits = tile->bits + BQQ_UNIT_BYTES * q;
    const uint32_t* z = tile->z + b * segments;
    const __m512 row = tile->row ? _mm512_loadu_ps(tile->row + BQQ_PANEL * q) : _mm512_setzero_ps();
    __m512 sum[C];
    for (int c = 0; c < C; ++c) sum[c] = _mm512_add_ps(row, _mm512_set1_ps(tile->column[b + size_t(c)]));
    for (size_t i = 0; i < tile->stacks; ++i) {
        __m512i count[C];
        for (int c = 0; c < C; ++c) count[c] = _mm512_setzero_si512();
        for (size_t g = tile->first[i]; g < tile->first[i + 1]; ++g) {
            const __m512i y = _mm512_loadu_si512(bits + tile->block[g] * tile->stride);
            for (int c = 0; c < C; ++c) {
                const __m512i both = _mm512_and_si512(y, _mm512_set1_epi32(int(z[size_t(c) * segments + g])));
                count[c] = _mm512_add_epi32(count[c], _mm512_popcnt_epi32(both));
            }
        }
        const __m512 r = _mm512_set1_ps(tile->r[i]);
        for (int c = 0; c < C; ++c) sum[c] = _mm512_fmadd_ps(r, _mm512_cvtepi32_ps(count[c]), sum[c]);
    }
    for (int c = 0; c < C; ++c) _mm512_storeu_ps(tile->out + (b + size_t(c)) * tile->ldo + BQQ_PANEL * q, sum[c]);
}

void dense(const bqq_dense* tile) {
    for (size_t q = 0; q < tile->panels; ++q) {
        size_t b = 0;
        for (; b + 8 <= tile->columns; b += 8) dense_columns<8>(tile, q, b);
        for (; b < tile->columns; ++b) dense_columns<1>(tile, q, b);
    }
}
