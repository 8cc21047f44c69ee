// The fast class with vpshufb: 32 rows x 4 bits, sixteen signed bytes a table. A record has two rows of 64 bytes a
// block: the tables of the groups 0 2 4 6 (low halves of the four bytes of a word) and 1 3 5 7. Entries are biased by
// 128, to unsigned bytes, so that 16-bit sums of them split into even and odd rows.
#pragma once

#include "kernels/records_inl.hpp"
#include "kernels/tuning.hpp"
#include "kernels/x86.hpp"

#include <string.h>

namespace {

inline __m256 absolute(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

// Largest sum |x_q| / 2 of a group of four; NaN or infinite if an input is (positive floats order as their bits do).
inline float chunk_size(size_t blocks, const float* in) {
    __m256i most = _mm256_setzero_si256();
    for (size_t b = 0; b < blocks; ++b, in += kUnitColumns) {
        const __m256 s = _mm256_hadd_ps(absolute(_mm256_loadu_ps(in)), absolute(_mm256_loadu_ps(in + 8)));
        const __m256 t = _mm256_hadd_ps(absolute(_mm256_loadu_ps(in + 16)), absolute(_mm256_loadu_ps(in + 24)));
        most = _mm256_max_epi32(most, _mm256_castps_si256(_mm256_hadd_ps(s, t)));
    }
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), most);
    int32_t bits = 0;
    for (int k = 0; k < 8; ++k) bits = lanes[k] > bits ? lanes[k] : bits;
    float size;
    memcpy(&size, &bits, sizeof size);
    return 0.5f * size;
}

inline __m256i twice(__m128i lane) { return _mm256_broadcastsi128_si256(lane); }

// Tables of two groups, one in each lane of `words` from word `first` (0 or 4) of the lane on: bytes of the sums of
// pairs (input 0 and 1, then 2 and 3), entry e % 4 being +- the first +- the second.
inline __m256i pair_sums(__m256i words, int first) {
    const __m128i shift = _mm_set1_epi8(char(2 * first));
    const __m128i one = _mm_setr_epi8(0, 1, 0, 1, 0, 1, 0, 1, 4, 5, 4, 5, 4, 5, 4, 5);
    const __m128i other = _mm_setr_epi8(2, 3, 2, 3, 2, 3, 2, 3, 6, 7, 6, 7, 6, 7, 6, 7);
    const __m256i a = _mm256_shuffle_epi8(words, twice(_mm_add_epi8(one, shift)));
    const __m256i b = _mm256_shuffle_epi8(words, twice(_mm_add_epi8(other, shift)));
    const __m256i sum = _mm256_add_epi16(_mm256_sign_epi16(a, twice(_mm_setr_epi16(-1, 1, -1, 1, -1, 1, -1, 1))),
                                         _mm256_sign_epi16(b, twice(_mm_setr_epi16(-1, -1, 1, 1, -1, -1, 1, 1))));
    return _mm256_srai_epi16(_mm256_add_epi16(sum, _mm256_set1_epi16(128)), 8);
}

// Entries e = sums[e % 4] + sums[4 + e / 4] + 128 of the groups whose eight sums start at byte `first` of a lane.
inline __m256i entries(__m256i sums, int first) {
    const __m128i shift = _mm_set1_epi8(char(first));
    const __m128i low = _mm_setr_epi8(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
    const __m128i high = _mm_setr_epi8(4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7);
    const __m256i sum = _mm256_add_epi8(_mm256_shuffle_epi8(sums, twice(_mm_add_epi8(low, shift))),
                                        _mm256_shuffle_epi8(sums, twice(_mm_add_epi8(high, shift))));
    return _mm256_add_epi8(sum, _mm256_set1_epi8(char(-128)));
}

// Entries are sums of two rounded sums of pairs, at most 126 + 1 in size.
void tables_i8(size_t blocks, size_t columns, const float* x, size_t ldx, void* tables) {
    for_records(blocks, columns, x, ldx, tables, [](uint8_t* record, size_t count, const float* in) {
        const float size = chunk_size(count, in);
        const bool finite = size - size == 0, usable = finite && size > 1e-34f;
        *reinterpret_cast<float*>(record) = usable ? size / 126.0f : 0.0f * size;
        const __m256 factor = _mm256_set1_ps(usable ? 0.5f * 32256.0f / size : 0.0f);
        __m256i* t = reinterpret_cast<__m256i*>(record + 64);
        for (size_t k = 0; k < count; ++k, in += kUnitColumns, t += 4) {
            __m256i wide[4];
            for (int h = 0; h < 4; ++h)
                wide[h] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(in + 8 * h), factor));
            // Groups 0 4 | 1 5 and 2 6 | 3 7 to 0 4 | 2 6 and 1 5 | 3 7.
            const __m256i u = _mm256_packs_epi32(wide[0], wide[2]), v = _mm256_packs_epi32(wide[1], wide[3]);
            for (int side = 0; side < 2; ++side) {
                const __m256i words =
                    side ? _mm256_permute2x128_si256(u, v, 0x31) : _mm256_permute2x128_si256(u, v, 0x20);
                const __m256i sums = _mm256_packs_epi16(pair_sums(words, 0), pair_sums(words, 4));
                _mm256_store_si256(t + 2 * side, entries(sums, 0));
                _mm256_store_si256(t + 2 * side + 1, entries(sums, 8));
            }
        }
    });
}

// One panel, N vectors.
template <int N> inline void lookup_panel_i8(size_t blocks, const uint8_t* bits, size_t stride, const uint8_t* record,
                                             size_t column, float* out, size_t ldo, int accumulate) {
    const __m256i by_byte = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8, 12, 1, 5, 9,
                                             13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m256i nibble = _mm256_set1_epi8(15);
    for (size_t first = 0; first < blocks; first += kChunkBlocks, record += kRecord) {
        const size_t count = chunk_blocks(blocks - first);
        __m256i all[N], odd[N];
        for (int c = 0; c < N; ++c) all[c] = odd[c] = _mm256_setzero_si256();
        for (size_t b = 0; b < count; ++b, bits += stride) {
            // Sixteen rows of four bytes to four times sixteen rows of one byte; rows 0-3 8-11 4-7 12-15.
            const __m256i* at = reinterpret_cast<const __m256i*>(bits);
            _mm_prefetch(reinterpret_cast<const char*>(bits + kPrefetchBlocks * stride), _MM_HINT_T1);
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
    const size_t column = record_stride(blocks);
    for (size_t q = 0; q < panels; ++q, bits += kUnitBytes, out += kPanelRows) {
        const uint8_t* record = static_cast<const uint8_t*>(tables);
        size_t c = 0;
        for (; c + 4 <= columns; c += 4)
            lookup_panel_i8<4>(blocks, bits, stride, record + c * column, column, out + c * ldo, ldo, accumulate);
        for (; c < columns; ++c)
            lookup_panel_i8<1>(blocks, bits, stride, record + c * column, column, out + c * ldo, ldo, accumulate);
    }
}

} // namespace
