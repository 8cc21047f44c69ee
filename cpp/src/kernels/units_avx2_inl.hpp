// Units by their bytes, for look-ups by vpshufb: a vector has two bytes of sixteen rows, one in each lane.
#pragma once

#include "kernels/table.hpp"
#include "kernels/x86.hpp"

namespace {

// Of the order kBytes: as they lie.
struct ByteUnits {
    // parts[h]: bytes 2h and 2h + 1.
    static void split(const uint8_t* unit, __m256i* parts) {
        const __m256i* at = reinterpret_cast<const __m256i*>(unit);
        parts[0] = _mm256_loadu_si256(at), parts[1] = _mm256_loadu_si256(at + 1);
    }
    // A number a row, eight in a vector, in the order that split left the rows in, to the order of the matrix.
    static void sort(__m256i*) {}
    // Byte k of all rows.
    static void bytes(const uint8_t* unit, __m128i* out) {
        for (int k = 0; k < 4; ++k) out[k] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(unit) + k);
    }
};

// PanelWords of units_inl.hpp for the order kBytes: the words are put together once for all that read them.
struct BytePanelWords {
    alignas(32) uint32_t words[kChunkBlocks][kPanelRows];
    BytePanelWords(size_t blocks, const uint8_t* units, size_t stride) {
        for (size_t b = 0; b < blocks; ++b, units += stride) {
            __m128i byte[4];
            ByteUnits::bytes(units, byte);
            __m128i* to = reinterpret_cast<__m128i*>(words[b]);
            const __m128i low[2] = {_mm_unpacklo_epi8(byte[0], byte[1]), _mm_unpackhi_epi8(byte[0], byte[1])};
            const __m128i high[2] = {_mm_unpacklo_epi8(byte[2], byte[3]), _mm_unpackhi_epi8(byte[2], byte[3])};
            for (int h = 0; h < 2; ++h) {
                _mm_store_si128(to + 2 * h, _mm_unpacklo_epi16(low[h], high[h]));
                _mm_store_si128(to + 2 * h + 1, _mm_unpackhi_epi16(low[h], high[h]));
            }
        }
    }
    uint32_t at(size_t block, size_t row) const { return words[block][row]; }
};

// Of the order kWords.
struct WordUnits {
    static __m256i by_byte(const uint8_t* rows) {
        const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8, 12, 1, 5,
                                               9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        return _mm256_shuffle_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows)), order);
    }
    static void split(const uint8_t* unit, __m256i* parts) { // rows 0-3 8-11 4-7 12-15
        const __m256i u = by_byte(unit), v = by_byte(unit + 32);
        parts[0] = _mm256_permute4x64_epi64(_mm256_unpacklo_epi32(u, v), 0xD8);
        parts[1] = _mm256_permute4x64_epi64(_mm256_unpackhi_epi32(u, v), 0xD8);
    }
    static void sort(__m256i* rows) {
        const __m256i low = rows[0], high = rows[1];
        rows[0] = _mm256_permute2x128_si256(low, high, 0x20), rows[1] = _mm256_permute2x128_si256(low, high, 0x31);
    }
    static void bytes(const uint8_t* unit, __m128i* out) {
        __m256i parts[2];
        split(unit, parts);
        for (int k = 0; k < 4; ++k)
            out[k] = _mm_shuffle_epi32(
                k % 2 ? _mm256_extracti128_si256(parts[k / 2], 1) : _mm256_castsi256_si128(parts[k / 2]), 0xD8);
    }
};

} // namespace
