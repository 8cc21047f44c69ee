// The product for a few vectors by vpshufb: sixteen rows x four bits a lane, tables of sixteen bytes. A record has the
// tables of a block as [h][plane][side][32]: of bytes 2h (low lane) and 2h + 1 of a row, their low (side 0) and high
// half.
//   fast      one plane of entries + 128, of 8 bits
//   float32   entries + 2^20, of 21 bits in three planes of seven, the lowest first: two of these add in a byte
// Sums gather in 16 bits, of odd rows and of whole 16-bit words; even rows are what is left.
//   vpshufb ymm     2 per cycle;  vpermps ymm, of exact float tables: 1, two operations on a Zen
#pragma once

#include "kernels/records_inl.hpp"
#include "kernels/tuning.hpp"
#include "kernels/units_avx2_inl.hpp"
#include "kernels/x86.hpp"

#include <string.h>

namespace {

inline __m256 absolute(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

// Largest sum |x_q| / 2 of a group of four; NaN or infinite if an input is (positive floats order as their bits do).
inline float chunk_size(size_t blocks, const float* in) {
    const __m256 half = _mm256_set1_ps(0.5f);
    const auto load = [&](size_t i) { return absolute(_mm256_mul_ps(half, _mm256_loadu_ps(in + i))); };
    __m256i most = _mm256_setzero_si256();
    for (size_t b = 0; b < blocks; ++b, in += kUnitColumns) {
        const __m256 s = _mm256_hadd_ps(load(0), load(8)), t = _mm256_hadd_ps(load(16), load(24));
        most = _mm256_max_epi32(most, _mm256_castps_si256(_mm256_hadd_ps(s, t)));
    }
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), most);
    int32_t bits = 0;
    for (int k = 0; k < 8; ++k) bits = lanes[k] > bits ? lanes[k] : bits;
    float size;
    memcpy(&size, &bits, sizeof size);
    return size;
}

template <int P> constexpr size_t kBlockBytes = P * 128; // tables of a block
template <int P> constexpr int kEntryBias = P == 1 ? 128 : 1 << 20;
// What undoes the scaling is record[0] times this, so that neither leaves the range of a float.
template <int P> constexpr float kStep = P == 1 ? 1.0f : 1.0f / kEntryBias<P>;

// out (+)= the sums of a chunk of `count` blocks, 16 rows.
template <class Unit, int P>
inline void end_chunk(const __m256i* all, const __m256i* odd, size_t count, float scale, float* out, bool add) {
    __m256i sum[2];
    BQQ_UNROLL
    for (int p = P - 1; p >= 0; --p) { // both lanes have the same rows
        const __m128i o = _mm_add_epi16(_mm256_castsi256_si128(odd[p]), _mm256_extracti128_si256(odd[p], 1));
        const __m128i w = _mm_add_epi16(_mm256_castsi256_si128(all[p]), _mm256_extracti128_si256(all[p], 1));
        const __m128i e = _mm_sub_epi16(w, _mm_slli_epi16(o, 8));
        const __m256i rows[2] = {_mm256_cvtepu16_epi32(_mm_unpacklo_epi16(e, o)),
                                 _mm256_cvtepu16_epi32(_mm_unpackhi_epi16(e, o))};
        BQQ_UNROLL
        for (int h = 0; h < 2; ++h)
            sum[h] = p == P - 1 ? rows[h] : _mm256_add_epi32(_mm256_slli_epi32(sum[h], 7), rows[h]);
    }
    Unit::sort(sum);
    const __m256i bias = _mm256_set1_epi32(8 * kEntryBias<P> * int(count));
    const __m256 factor = _mm256_set1_ps(scale), step = _mm256_set1_ps(kStep<P>);
    BQQ_UNROLL
    for (int h = 0; h < 2; ++h) {
        const __m256 before = add ? _mm256_loadu_ps(out + 8 * h) : _mm256_setzero_ps();
        const __m256 value = _mm256_mul_ps(step, _mm256_cvtepi32_ps(_mm256_sub_epi32(sum[h], bias)));
        _mm256_storeu_ps(out + 8 * h, _mm256_fmadd_ps(value, factor, before));
    }
}

// One panel, N vectors, P planes.
template <class Unit, int P, int N> inline void lookup_panel(size_t blocks, const uint8_t* bits, size_t stride,
                                                             const uint8_t* record, size_t column, float* out,
                                                             size_t ldo, int accumulate) {
    const __m256i nibble = _mm256_set1_epi8(15);
    for (size_t first = 0; first < blocks; first += kChunkBlocks, record += kRecord) {
        const size_t count = chunk_blocks(blocks - first);
        __m256i all[N][P], odd[N][P];
        BQQ_UNROLL
        for (int c = 0; c < N; ++c) {
            BQQ_UNROLL
            for (int p = 0; p < P; ++p) all[c][p] = odd[c][p] = _mm256_setzero_si256();
        }
        const uint8_t* tables = record + 64;
        for (size_t b = 0; b < count; ++b, bits += stride, tables += kBlockBytes<P>) {
            _mm_prefetch(reinterpret_cast<const char*>(bits + kPrefetchBlocks * stride), _MM_HINT_T1);
            __m256i parts[2];
            Unit::split(bits, parts);
            BQQ_UNROLL
            for (int h = 0; h < 2; ++h) {
                const __m256i low = _mm256_and_si256(parts[h], nibble);
                const __m256i high = _mm256_and_si256(_mm256_srli_epi16(parts[h], 4), nibble);
                BQQ_UNROLL
                for (int c = 0; c < N; ++c) {
                    BQQ_UNROLL
                    for (int p = 0; p < P; ++p) {
                        const __m256i* t =
                            reinterpret_cast<const __m256i*>(tables + size_t(c) * column) + 2 * (h * P + p);
                        const __m256i v = _mm256_shuffle_epi8(_mm256_load_si256(t), low);
                        const __m256i w = _mm256_shuffle_epi8(_mm256_load_si256(t + 1), high);
                        if constexpr (P == 1) {
                            all[c][p] = _mm256_add_epi16(all[c][p], _mm256_add_epi16(v, w));
                            odd[c][p] = _mm256_add_epi16(
                                odd[c][p], _mm256_add_epi16(_mm256_srli_epi16(v, 8), _mm256_srli_epi16(w, 8)));
                        } else {
                            const __m256i both = _mm256_add_epi8(v, w);
                            all[c][p] = _mm256_add_epi16(all[c][p], both);
                            odd[c][p] = _mm256_add_epi16(odd[c][p], _mm256_srli_epi16(both, 8));
                        }
                        BQQ_HOLD(all[c][p]);
                        BQQ_HOLD(odd[c][p]);
                    }
                }
            }
        }
        BQQ_UNROLL
        for (int c = 0; c < N; ++c)
            end_chunk<Unit, P>(all[c], odd[c], count, *reinterpret_cast<const float*>(record + size_t(c) * column),
                               out + size_t(c) * ldo, accumulate || first);
    }
}

// Most vectors at a time: as many as their sums fit into registers.
template <class Unit, int P, int N = P == 1 ? 4 : 2>
void lookup_bytes(size_t panels, size_t blocks, const uint8_t* bits, size_t stride, size_t columns, const void* tables,
                  float* out, size_t ldo, int accumulate) {
    const size_t column = record_stride(blocks);
    const uint8_t* record = static_cast<const uint8_t*>(tables);
    for (; columns >= size_t(N); columns -= N, record += N * column, out += N * ldo)
        for (size_t q = 0; q < panels; ++q)
            lookup_panel<Unit, P, N>(blocks, bits + q * kUnitBytes, stride, record, column, out + q * kPanelRows, ldo,
                                     accumulate);
    if constexpr (N > 1) {
        if (columns) lookup_bytes<Unit, P, N / 2>(panels, blocks, bits, stride, columns, record, out, ldo, accumulate);
    }
}

// ---- tables of the fast class ----

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
                _mm256_store_si256(t + side, entries(sums, 0));
                _mm256_store_si256(t + 2 + side, entries(sums, 8));
            }
        }
    });
}

} // namespace
