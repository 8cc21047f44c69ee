// The int8 class with vpshufb. A chunk of BQQ_CHUNK blocks of one vector is a record: the scale, then, 64 bytes in, two
// rows of 64 bytes per block: the tables of the groups 0 2 4 6 (low halves of the four bytes of a word) and 1 3 5 7.
// Entries are biased by 128, to unsigned bytes, so that 16-bit sums of them split into even and odd rows.
constexpr size_t kRecord = BQQ_CHUNK * BQQ_TABLE_BYTES;

inline __m256 absolute(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

// Largest sum |x_q| / 2 of a group of four and 0 or, if an input is not finite, NaN.
inline void chunk_size(size_t groups, const float* in, float* largest, float* taint) {
    __m256 most = _mm256_setzero_ps(), bad = most;
    for (size_t g = 0; g < groups; g += 8, in += 32) {
        const __m256 a = _mm256_hadd_ps(absolute(_mm256_loadu_ps(in)), absolute(_mm256_loadu_ps(in + 8)));
        const __m256 b = _mm256_hadd_ps(absolute(_mm256_loadu_ps(in + 16)), absolute(_mm256_loadu_ps(in + 24)));
        const __m256 sums = _mm256_mul_ps(_mm256_set1_ps(0.5f), _mm256_hadd_ps(a, b));
        most = _mm256_max_ps(most, sums);
        bad = _mm256_fmadd_ps(_mm256_setzero_ps(), sums, bad);
    }
    *largest = vmaxof(most);
    *taint = vsum(bad);
}

void tables_i8(size_t blocks, size_t columns, const float* x, size_t ldx, void* tables) {
    const float a = 0.5f, z = -0.5f;
    const __m256 s0 = _mm256_setr_ps(z, a, z, a, z, a, z, a), s1 = _mm256_setr_ps(z, z, a, a, z, z, a, a);
    const __m256 s2 = _mm256_setr_ps(z, z, z, z, a, a, a, a), s3 = _mm256_set1_ps(a);
    const __m256i bias = _mm256_set1_epi32(128);
    uint8_t* record = static_cast<uint8_t*>(tables);
    for (size_t c = 0; c < columns; ++c)
        for (size_t b = 0; b < blocks; b += BQQ_CHUNK, record += kRecord) {
            const size_t count = blocks - b < BQQ_CHUNK ? blocks - b : size_t(BQQ_CHUNK);
            const float* in = x + c * ldx + BQQ_UNIT_COLUMNS * b;
            float largest, taint;
            chunk_size(8 * count, in, &largest, &taint);
            const bool usable = largest > 1e-34f && taint == 0;
            *reinterpret_cast<float*>(record) = (usable ? largest / 127.0f : 0.0f) + taint;
            const __m256 factor = _mm256_set1_ps(usable ? 127.0f / largest : 0.0f);
            uint8_t* t = record + 64;
            for (size_t g = 0; g < 8 * count; ++g, in += 4) {
                __m256 low = _mm256_mul_ps(s0, _mm256_broadcast_ss(in));
                low = _mm256_fmadd_ps(s1, _mm256_broadcast_ss(in + 1), low);
                low = _mm256_fmadd_ps(s2, _mm256_broadcast_ss(in + 2), low);
                const __m256 last = _mm256_mul_ps(s3, _mm256_broadcast_ss(in + 3));
                const __m256i lo =
                    _mm256_add_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(_mm256_sub_ps(low, last), factor)), bias);
                const __m256i hi =
                    _mm256_add_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(_mm256_add_ps(low, last), factor)), bias);
                // entries 0..3 8..11 | 4..7 12..15 -> bytes in order
                const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(lo, hi), 0xD8);
                const __m128i bytes =
                    _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
                _mm_store_si128(reinterpret_cast<__m128i*>(t + 128 * (g / 8) + 64 * (g % 2) + 16 * (g % 8 / 2)), bytes);
            }
        }
}

// One panel, N vectors.
template <int N> inline void lookup_panel_i8(size_t blocks, const uint8_t* bits, size_t stride, const uint8_t* record,
                                             size_t column, float* out, size_t ldo, int accumulate) {
    const __m256i by_byte = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8, 12, 1, 5, 9,
                                             13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m256i nibble = _mm256_set1_epi8(15);
    for (size_t first = 0; first < blocks; first += BQQ_CHUNK, record += kRecord) {
        const size_t count = blocks - first < BQQ_CHUNK ? blocks - first : size_t(BQQ_CHUNK);
        __m256i all[N], odd[N];
        for (int c = 0; c < N; ++c) all[c] = odd[c] = _mm256_setzero_si256();
        for (size_t b = 0; b < count; ++b, bits += stride) {
            // Sixteen rows of four bytes to four times sixteen rows of one byte; rows 0-3 8-11 4-7 12-15.
            const __m256i* at = reinterpret_cast<const __m256i*>(bits);
            const __m256i u = _mm256_shuffle_epi8(_mm256_loadu_si256(at), by_byte);
            const __m256i v = _mm256_shuffle_epi8(_mm256_loadu_si256(at + 1), by_byte);
            const __m256i byte[2] = {_mm256_permute4x64_epi64(_mm256_unpacklo_epi32(u, v), 0xD8),
                                     _mm256_permute4x64_epi64(_mm256_unpackhi_epi32(u, v), 0xD8)};
            for (int h = 0; h < 2; ++h)
                for (int side = 0; side < 2; ++side) {
                    const __m256i index = _mm256_and_si256(side ? _mm256_srli_epi16(byte[h], 4) : byte[h], nibble);
                    for (int c = 0; c < N; ++c) {
                        const __m256i table = _mm256_load_si256(
                            reinterpret_cast<const __m256i*>(record + c * column + 64 + 128 * b + 64 * side + 32 * h));
                        const __m256i w = _mm256_shuffle_epi8(table, index);
                        all[c] = _mm256_add_epi16(all[c], w);
                        odd[c] = _mm256_add_epi16(odd[c], _mm256_srli_epi16(w, 8));
                    }
                }
        }
        for (int c = 0; c < N; ++c) {
            // Lanes hold the same rows. Even rows: what is left of the sum of whole 16-bit words.
            const __m128i o = _mm_add_epi16(_mm256_castsi256_si128(odd[c]), _mm256_extracti128_si256(odd[c], 1));
            const __m128i w = _mm_add_epi16(_mm256_castsi256_si128(all[c]), _mm256_extracti128_si256(all[c], 1));
            const __m128i e = _mm_sub_epi16(w, _mm_slli_epi16(o, 8));
            const __m256i bias = _mm256_set1_epi32(int(128 * 8 * count));
            const __m256 scale = _mm256_set1_ps(*reinterpret_cast<const float*>(record + c * column));
            // e: rows 0 2 8 10 4 6 12 14, o: rows 1 3 9 11 5 7 13 15
            const __m256i low = _mm256_cvtepu16_epi32(_mm_unpacklo_epi16(e, o));  // rows 0 1 2 3 8 9 10 11
            const __m256i high = _mm256_cvtepu16_epi32(_mm_unpackhi_epi16(e, o)); // rows 4 5 6 7 12 13 14 15
            const __m256i rows[2] = {_mm256_permute2x128_si256(low, high, 0x20),
                                     _mm256_permute2x128_si256(low, high, 0x31)};
            for (int h = 0; h < 2; ++h) {
                float* y = out + c * ldo + 8 * h;
                const __m256 before = accumulate || first ? _mm256_loadu_ps(y) : _mm256_setzero_ps();
                _mm256_storeu_ps(y,
                                 _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(rows[h], bias)), scale, before));
            }
        }
    }
}

void lookup_i8(size_t panels, size_t blocks, const uint8_t* bits, size_t stride, size_t columns, const void* tables,
               float* out, size_t ldo, int accumulate) {
    const size_t column = (blocks + BQQ_CHUNK - 1) / BQQ_CHUNK * kRecord;
    for (size_t q = 0; q < panels; ++q, bits += BQQ_UNIT_BYTES, out += BQQ_PANEL) {
        const uint8_t* record = static_cast<const uint8_t*>(tables);
        size_t c = 0;
        for (; c + 4 <= columns; c += 4)
            lookup_panel_i8<4>(blocks, bits, stride, record + c * column, column, out + c * ldo, ldo, accumulate);
        for (; c < columns; ++c)
            lookup_panel_i8<1>(blocks, bits, stride, record + c * column, column, out + c * ldo, ldo, accumulate);
    }
}

void fill_product(bqq_kernels* table) {
    table->latents = latents;
    table->product[0] = bqq_product{tables_f32, lookup_f32};
    table->product[1] = bqq_product{tables_i8, lookup_i8};
}
