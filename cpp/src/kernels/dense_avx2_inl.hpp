// A tile of W_hat by tables in memory: the sums of Y_a0 z_0 + ... + Y_a3 z_3 for the sixteen values of four inner
// elements, in bytes, 64 rows at once. A column of Z then adds an entry every four bits.
#pragma once

#include "kernels/units_avx2_inl.hpp"
#include "kernels/x86.hpp"

namespace {

constexpr int kDensePanels = 4;
constexpr size_t kDenseWords = 4; // a run: 64 rows and 128 inner elements, 32 KB of tables

struct alignas(32) DenseTables {
    uint8_t at[8 * kDenseWords][16][16 * kDensePanels];
};

// Tables of the eight groups of a word, for rows 32 half to 32 half + 31, from the four bytes of these rows.
inline void dense_tables(const __m256i* bytes, size_t half, uint8_t (*tables)[16][16 * kDensePanels]) {
    const __m256i ones = _mm256_set1_epi8(1);
    for (int group = 0; group < 8; ++group) {
        const __m256i byte = group % 2 ? _mm256_srli_epi16(bytes[group / 2], 4) : bytes[group / 2];
        __m256i entry[16];
        entry[0] = _mm256_setzero_si256();
        for (int bit = 0; bit < 4; ++bit) {
            const __m256i plane = _mm256_and_si256(_mm256_srli_epi16(byte, bit), ones);
            for (int e = 0; e < 1 << bit; ++e) entry[(1 << bit) + e] = _mm256_add_epi8(entry[e], plane);
        }
        for (int e = 0; e < 16; ++e)
            _mm256_store_si256(reinterpret_cast<__m256i*>(tables[group][e] + 32 * half), entry[e]);
    }
}

// P panels of the tile from panel q on, all columns: plus r times the counts of segments [g, g + words).
template <class Unit, int P>
inline void dense_run(const bqq_dense& t, size_t q, size_t g, size_t words, float r, bool first) {
    constexpr int H = (P + 1) / 2; // halves of 32 rows
    DenseTables tables;
    for (size_t w = 0; w < words; ++w) {
        const uint8_t* units = t.bits + t.block[g + w] * t.stride + kUnitBytes * q;
        for (size_t half = 0; half < size_t(H); ++half) {
            __m128i of[2][4] = {};
            for (size_t unit = 0; unit < 2 && 2 * half + unit < P; ++unit)
                Unit::bytes(units + (2 * half + unit) * kUnitBytes, of[unit]);
            __m256i bytes[4];
            for (int k = 0; k < 4; ++k) bytes[k] = _mm256_set_m128i(of[1][k], of[0][k]);
            dense_tables(bytes, half, tables.at + 8 * w);
        }
    }
    const __m256 factor = _mm256_set1_ps(r);
    const float zeros[16 * kDensePanels] = {};
    const float* row = t.row ? t.row + kPanelRows * q : zeros;
    for (size_t b = 0; b < t.columns; ++b) {
        __m256i count[H];
        for (int half = 0; half < H; ++half) count[half] = _mm256_setzero_si256();
        for (size_t w = 0; w < words; ++w) {
            const uint32_t z = t.z[(g + w) * t.ldz + b];
            const auto add = [&](size_t group, uint32_t entry) { // entry: 64 times four bits of z
                const __m256i* at = reinterpret_cast<const __m256i*>(tables.at[8 * w + group][0] + (entry & 0x3C0));
                for (int half = 0; half < H; ++half)
                    count[half] = _mm256_add_epi8(count[half], _mm256_load_si256(at + half));
            };
            add(0, z << 6), add(1, z << 2), add(2, z >> 2), add(3, z >> 6);
            add(4, z >> 10), add(5, z >> 14), add(6, z >> 18), add(7, z >> 22);
        }
        alignas(32) uint8_t counts[32 * H];
        for (int half = 0; half < H; ++half)
            _mm256_store_si256(reinterpret_cast<__m256i*>(counts + 32 * half), count[half]);
        float* out = t.out + b * t.ldo + kPanelRows * q;
        const float* before = first ? row : out;
        const __m256 column = _mm256_set1_ps(first ? t.column[b] : 0.0f);
        for (int v = 0; v < kPanelRows * P; v += 8) {
            const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(counts + v));
            const __m256 sum = _mm256_add_ps(column, _mm256_loadu_ps(before + v));
            _mm256_storeu_ps(out + v, _mm256_fmadd_ps(factor, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight)), sum));
        }
    }
}

template <class Unit, int P> void dense_panels(const bqq_dense& t, size_t q) {
    for (; q + P <= t.panels; q += P)
        for (size_t i = 0; i < t.stacks; ++i)
            for (size_t g = t.first[i], end = t.first[i + 1]; g < end; g += kDenseWords)
                dense_run<Unit, P>(t, q, g, end - g < kDenseWords ? end - g : kDenseWords, t.r[i], g == t.first[0]);
    if constexpr (P > 1) {
        if (q < t.panels) dense_panels<Unit, P / 2>(t, q);
    }
}

template <class Unit> void dense(const bqq_dense* tile) { dense_panels<Unit, kDensePanels>(*tile, 0); }

template <class Unit> void unit_columns(const uint8_t* unit, uint16_t* columns) {
    __m128i bytes[4];
    Unit::bytes(unit, bytes);
    for (int k = 0; k < 4; ++k)
        for (int bit = 7; bit >= 0; --bit, bytes[k] = _mm_add_epi8(bytes[k], bytes[k]))
            columns[8 * k + bit] = uint16_t(_mm_movemask_epi8(bytes[k])); // the highest bit of every byte
}

} // namespace
