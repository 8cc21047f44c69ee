// Codes of vectors with AVX-512: a byte of all codes of a block is one register.
#pragma once

#include "kernels/codes_avx2_inl.hpp"

namespace {

struct Scores512 : Scores256 {
    static void add(size_t count, const int16_t* row, uint16_t* scores) {
        size_t k = 0;
        for (; k + 32 <= count; k += 32)
            _mm512_storeu_si512(scores + k,
                                _mm512_add_epi16(_mm512_loadu_si512(scores + k), _mm512_loadu_si512(row + k)));
        if (k < count) Scores256::add(16, row + k, scores + k);
    }
    static void move(size_t count, const int16_t* from, const int16_t* to, uint16_t* scores) {
        size_t k = 0;
        for (; k + 32 <= count; k += 32) {
            const __m512i change = _mm512_sub_epi16(_mm512_loadu_si512(to + k), _mm512_loadu_si512(from + k));
            _mm512_storeu_si512(scores + k, _mm512_add_epi16(_mm512_loadu_si512(scores + k), change));
        }
        if (k < count) Scores256::move(16, from + k, to + k, scores + k);
    }
};

// As scan_256, a whole block at a time.
template <int Queries> void scan_512(const bqq_scan* s) {
    const __m512i nibble = _mm512_set1_epi8(15), upper = _mm512_set1_epi16(int16_t(0xFF00));
    const auto high_of = [&](__m512i c) { return _mm512_and_si512(_mm512_srli_epi16(c, 4), nibble); };
    const auto look_up = [](const uint8_t* table, __m512i low, __m512i high) {
        const auto* at = reinterpret_cast<const __m128i*>(table);
        return _mm512_add_epi8(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(at)), low),
                               _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(at + 1)), high));
    };
    for (size_t b = 0; b < s->blocks; ++b) {
        __m512i all[Queries], odd[Queries];
        for (int q = 0; q < Queries; ++q) all[q] = odd[q] = _mm512_setzero_si512();
        size_t table = 0;
        for (size_t i = 0; i < s->parts; ++i) {
            const size_t bytes = s->bytes[i];
            const uint8_t* codes = s->codes[i] + b * kScanBlock * bytes;
            size_t j = 0;
            for (; j + 2 <= bytes; j += 2, codes += 2 * kScanBlock, table += 4 * kEntries) {
                const __m512i c = _mm512_loadu_si512(codes), d = _mm512_loadu_si512(codes + kScanBlock);
                const __m512i c0 = _mm512_and_si512(c, nibble), c1 = high_of(c), d0 = _mm512_and_si512(d, nibble),
                              d1 = high_of(d);
                for (int q = 0; q < Queries; ++q) {
                    const uint8_t* at = s->tables[q] + table;
                    const __m512i sums = _mm512_add_epi8(look_up(at, c0, c1), look_up(at + 2 * kEntries, d0, d1));
                    all[q] = _mm512_add_epi16(all[q], sums);
                    odd[q] = _mm512_add_epi16(odd[q], _mm512_srli_epi16(sums, 8));
                }
            }
            if (j == bytes) continue;
            const __m512i c = _mm512_loadu_si512(codes), c0 = _mm512_and_si512(c, nibble), c1 = high_of(c);
            for (int q = 0; q < Queries; ++q) {
                const __m512i sums = look_up(s->tables[q] + table, c0, c1);
                all[q] = _mm512_add_epi16(all[q], sums);
                odd[q] = _mm512_add_epi16(odd[q], _mm512_srli_epi16(sums, 8));
            }
            table += 2 * kEntries;
        }
        const __m512i norms = s->norms ? _mm512_loadu_si512(s->norms + b * kScanBlock) : _mm512_setzero_si512();
        const __m512i first = _mm512_slli_epi16(norms, 8), second = _mm512_and_si512(norms, upper); // times 256
        for (int q = 0; q < Queries; ++q) {
            const __m512i weight = _mm512_set1_epi16(int16_t(s->weights[q])),
                          limit = _mm512_set1_epi16(int16_t(s->limits[q]));
            const __m512i even = _mm512_sub_epi16(all[q], _mm512_slli_epi16(odd[q], 8));
            const __m512i x = _mm512_adds_epu16(even, _mm512_mulhi_epu16(first, weight)),
                          y = _mm512_adds_epu16(odd[q], _mm512_mulhi_epu16(second, weight));
            uint16_t* sums = s->sums + (b * Queries + size_t(q)) * kScanBlock;
            _mm512_storeu_si512(sums, x), _mm512_storeu_si512(sums + kScanBlock / 2, y);
            s->below[b * Queries + size_t(q)] =
                uint64_t(_mm512_cmplt_epu16_mask(y, limit)) << 32 | _mm512_cmplt_epu16_mask(x, limit);
        }
    }
}

inline void scan_avx512(const bqq_scan* s) {
    switch (s->queries) {
    case 1:
        return scan_512<1>(s);
    case 2:
        return scan_512<2>(s);
    case 3:
        return scan_512<3>(s);
    default:
        return scan_512<4>(s);
    }
}

} // namespace
