// Codes of vectors with AVX2: sixteen scores are one vector.
#pragma once

#include "kernels/codes_inl.hpp"
#include "kernels/x86.hpp"

namespace {

inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store256(void* p, __m256i a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }

struct Scores256 {
    static bool from(size_t count, const float* cost, float scale, uint16_t* scores) {
        const __m256 s = _mm256_set1_ps(scale), sign = _mm256_set1_ps(-0.0f), most = _mm256_set1_ps(kMostScore);
        __m256 beyond = _mm256_setzero_ps();
        for (size_t k = 0; k < count; k += 16) {
            const __m256 a = _mm256_mul_ps(s, _mm256_loadu_ps(cost + k)),
                         b = _mm256_mul_ps(s, _mm256_loadu_ps(cost + k + 8));
            beyond = _mm256_or_ps(beyond, _mm256_cmp_ps(_mm256_andnot_ps(sign, a), most, _CMP_NLE_UQ));
            beyond = _mm256_or_ps(beyond, _mm256_cmp_ps(_mm256_andnot_ps(sign, b), most, _CMP_NLE_UQ));
            const __m256i packed = _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
            store256(scores + k,
                     _mm256_xor_si256(_mm256_permute4x64_epi64(packed, 0xD8), _mm256_set1_epi16(int16_t(0x8000))));
        }
        return !_mm256_movemask_ps(beyond);
    }
    // phminposuw finds value and place of the least of eight.
    static int least(const uint16_t* scores, const uint16_t* noise) {
        const __m256i sums = _mm256_adds_epu16(load256(scores), load256(noise));
        const auto low = unsigned(_mm_cvtsi128_si32(_mm_minpos_epu16(_mm256_castsi256_si128(sums)))),
                   high = unsigned(_mm_cvtsi128_si32(_mm_minpos_epu16(_mm256_extracti128_si256(sums, 1))));
        return int((high & 0xFFFF) < (low & 0xFFFF) ? (high >> 16) + 8 : low >> 16);
    }
    static void add(size_t count, const int16_t* row, uint16_t* scores) {
        for (size_t k = 0; k < count; k += 16)
            store256(scores + k, _mm256_add_epi16(load256(scores + k), load256(row + k)));
    }
    static void move(size_t count, const int16_t* from, const int16_t* to, uint16_t* scores) {
        for (size_t k = 0; k < count; k += 16)
            store256(scores + k,
                     _mm256_add_epi16(load256(scores + k), _mm256_sub_epi16(load256(to + k), load256(from + k))));
    }
};

// Four look-ups fit a byte. Bytes are added as 16-bit numbers, once as they are and once their upper half alone, so
// that upper and lower byte come apart at the end. Half a block at a time.
template <int Queries> void scan_256(const bqq_scan* s) {
    const __m256i nibble = _mm256_set1_epi8(15), upper = _mm256_set1_epi16(int16_t(0xFF00)),
                  zero = _mm256_setzero_si256();
    const auto high_of = [&](__m256i c) { return _mm256_and_si256(_mm256_srli_epi16(c, 4), nibble); };
    const auto look_up = [](const uint8_t* table, __m256i low, __m256i high) {
        const auto* at = reinterpret_cast<const __m128i*>(table);
        return _mm256_add_epi8(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(at)), low),
                               _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(at + 1)), high));
    };
    for (size_t b = 0; b < s->blocks; ++b) {
        for (size_t q = 0; q < size_t(Queries); ++q) s->below[b * Queries + q] = 0;
        for (size_t half = 0; half < kScanBlock; half += 32) {
            __m256i all[Queries], odd[Queries];
            for (int q = 0; q < Queries; ++q) all[q] = odd[q] = zero;
            size_t table = 0;
            for (size_t i = 0; i < s->parts; ++i) {
                const size_t bytes = s->bytes[i];
                const uint8_t* codes = s->codes[i] + b * kScanBlock * bytes + half;
                size_t j = 0;
                for (; j + 2 <= bytes; j += 2, codes += 2 * kScanBlock, table += 4 * kEntries) {
                    const __m256i c = load256(codes), d = load256(codes + kScanBlock);
                    const __m256i c0 = _mm256_and_si256(c, nibble), c1 = high_of(c), d0 = _mm256_and_si256(d, nibble),
                                  d1 = high_of(d);
                    for (int q = 0; q < Queries; ++q) {
                        const uint8_t* at = s->tables[q] + table;
                        const __m256i sums = _mm256_add_epi8(look_up(at, c0, c1), look_up(at + 2 * kEntries, d0, d1));
                        all[q] = _mm256_add_epi16(all[q], sums);
                        odd[q] = _mm256_add_epi16(odd[q], _mm256_srli_epi16(sums, 8));
                    }
                }
                if (j == bytes) continue;
                const __m256i c = load256(codes), c0 = _mm256_and_si256(c, nibble), c1 = high_of(c);
                for (int q = 0; q < Queries; ++q) {
                    const __m256i sums = look_up(s->tables[q] + table, c0, c1);
                    all[q] = _mm256_add_epi16(all[q], sums);
                    odd[q] = _mm256_add_epi16(odd[q], _mm256_srli_epi16(sums, 8));
                }
                table += 2 * kEntries;
            }
            const __m256i norms = s->norms ? load256(s->norms + b * kScanBlock + half) : zero; // times 256:
            const __m256i first = _mm256_slli_epi16(norms, 8), second = _mm256_and_si256(norms, upper);
            for (int q = 0; q < Queries; ++q) {
                const __m256i weight = _mm256_set1_epi16(int16_t(s->weights[q])),
                              limit = _mm256_set1_epi16(int16_t(s->limits[q]));
                const __m256i even = _mm256_sub_epi16(all[q], _mm256_slli_epi16(odd[q], 8));
                const __m256i x = _mm256_adds_epu16(even, _mm256_mulhi_epu16(first, weight)),
                              y = _mm256_adds_epu16(odd[q], _mm256_mulhi_epu16(second, weight));
                uint16_t* sums = s->sums + (b * Queries + size_t(q)) * kScanBlock + half / 2;
                store256(sums, x), store256(sums + kScanBlock / 2, y);
                const auto reached = [&](__m256i a) { return _mm256_cmpeq_epi16(_mm256_subs_epu16(limit, a), zero); };
                const __m256i mask = _mm256_permute4x64_epi64(_mm256_packs_epi16(reached(x), reached(y)), 0xD8);
                const uint32_t bits = ~uint32_t(_mm256_movemask_epi8(mask)); // of x, then of y
                s->below[b * Queries + size_t(q)] |= (uint64_t(bits >> 16) << 32 | (bits & 0xFFFF)) << half / 2;
            }
        }
    }
}

inline void scan_avx2(const bqq_scan* s) {
    switch (s->queries) {
    case 1:
        return scan_256<1>(s);
    case 2:
        return scan_256<2>(s);
    case 3:
        return scan_256<3>(s);
    default:
        return scan_256<4>(s);
    }
}

} // namespace
