// A tile of W_hat by tables in memory: the sums of Y_a0 z_0 + ... + Y_a3 z_3 for the sixteen values of four inner
// elements, in bytes, 64 rows at once. A column of Z then adds an entry every four bits. What is counted stays in bytes
// until all stacks are: only then does it become floats, so that the tile is written once.
#pragma once

#include "kernels/units_avx2_inl.hpp"
#include "kernels/unroll.hpp"
#include "kernels/x86.hpp"

namespace {

constexpr int kDensePanels = 4, kDenseRows = kPanelRows * kDensePanels;
constexpr size_t kDenseRun = 2;    // words whose tables are held at a time: 16 KB
constexpr size_t kDenseWords = 7;  // of one count: 224 elements fit a byte
constexpr size_t kDenseCounts = 4; // held at a time: 32 KB

// Bytes of 32 rows.
struct Rows256 {
    typedef __m256i Bytes;
    static constexpr int kRows = 32;
    static Bytes zero() { return _mm256_setzero_si256(); }
    static Bytes load(const uint8_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
    static void store(uint8_t* p, Bytes a) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), a); }
    static Bytes add(Bytes a, Bytes b) { return _mm256_add_epi8(a, b); }
    static Bytes bit(Bytes a, int k) { return _mm256_and_si256(_mm256_srli_epi16(a, k), _mm256_set1_epi8(1)); }

    typedef __m256 Floats;
    static constexpr int kFloats = 8;
    static Floats set(float a) { return _mm256_set1_ps(a); }
    static Floats floats(const float* p) { return _mm256_loadu_ps(p); }
    static void put(float* p, Floats a) { _mm256_storeu_ps(p, a); }
    static Floats sum(Floats a, Floats b) { return _mm256_add_ps(a, b); }
    static Floats fma(Floats a, const uint8_t* counts, Floats b) {
        const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(counts));
        return _mm256_fmadd_ps(a, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight)), b);
    }
};

struct alignas(64) DenseScratch {
    uint8_t tables[8 * kDenseRun][16][kDenseRows];
    uint8_t counts[kDenseCounts][kTileColumns][kDenseRows];
};

// Tables of the eight groups of `words` words, for the P panels from `units` on.
template <class Unit, class Rows, int P>
inline void dense_tables(const bqq_dense& t, size_t q, size_t g, size_t words, uint8_t (*tables)[16][kDenseRows]) {
    typedef typename Rows::Bytes Bytes;
    for (size_t w = 0; w < words; ++w, tables += 8) {
        const uint8_t* units = t.bits + t.block[g + w] * t.stride + kUnitBytes * q;
        alignas(64) uint8_t bytes[4][kDenseRows] = {};
        for (int unit = 0; unit < P; ++unit) {
            __m128i of[4];
            Unit::bytes(units + unit * kUnitBytes, of);
            for (int k = 0; k < 4; ++k)
                _mm_store_si128(reinterpret_cast<__m128i*>(bytes[k] + kPanelRows * unit), of[k]);
        }
        for (int part = 0; part < kPanelRows * P; part += Rows::kRows)
            for (int group = 0; group < 8; ++group) {
                const Bytes byte = Rows::load(bytes[group / 2] + part);
                Bytes entry[16];
                entry[0] = Rows::zero();
                BQQ_UNROLL
                for (int bit = 0; bit < 4; ++bit) {
                    const Bytes plane = Rows::bit(byte, group % 2 * 4 + bit);
                    BQQ_UNROLL
                    for (int e = 0; e < 1 << bit; ++e) entry[(1 << bit) + e] = Rows::add(entry[e], plane);
                }
                BQQ_UNROLL
                for (int e = 0; e < 16; ++e) Rows::store(tables[group][e] + part, entry[e]);
            }
    }
}

// counts (+)= those of segments [g, g + words), all columns.
template <class Rows, int P> inline void dense_count(const bqq_dense& t, size_t g, size_t words,
                                                     const uint8_t (*tables)[16][kDenseRows],
                                                     uint8_t (*counts)[kDenseRows], bool more) {
    typedef typename Rows::Bytes Bytes;
    constexpr int H = (kPanelRows * P + Rows::kRows - 1) / Rows::kRows;
    for (size_t b = 0; b < t.columns; ++b, ++counts) {
        Bytes count[H];
        for (int h = 0; h < H; ++h) count[h] = more ? Rows::load(*counts + Rows::kRows * h) : Rows::zero();
        const uint8_t* table = tables[0][0];
        for (size_t w = 0; w < words; ++w, table += sizeof *tables * 8) {
            const uint32_t z = t.z[(g + w) * t.ldz + b];
            const auto add = [&](int group, uint32_t bits) { // bits: kDenseRows times four bits of z
                size_t entry = bits & 15 * kDenseRows;
                BQQ_HIDE(entry);
                for (int h = 0; h < H; ++h)
                    count[h] = Rows::add(count[h],
                                         Rows::load(table + sizeof *tables * size_t(group) + entry + Rows::kRows * h));
            };
            add(0, z << 6), add(1, z << 2), add(2, z >> 2), add(3, z >> 6);
            add(4, z >> 10), add(5, z >> 14), add(6, z >> 18), add(7, z >> 22);
        }
        for (int h = 0; h < H; ++h) Rows::store(*counts + Rows::kRows * h, count[h]);
    }
}

// P panels of the tile: S counts, times their r, plus what was there or, first, what all columns and rows have.
template <class Rows, int P, int S> inline void dense_floats(const bqq_dense& t, size_t q,
                                                             const uint8_t (*counts)[kTileColumns][kDenseRows],
                                                             const float* r, bool first) {
    typedef typename Rows::Floats Floats;
    const float zeros[kDenseRows] = {};
    const float* row = t.row ? t.row + kPanelRows * q : zeros;
    Floats factor[S];
    for (int s = 0; s < S; ++s) factor[s] = Rows::set(r[s]);
    for (size_t b = 0; b < t.columns; ++b) {
        float* out = t.out + b * t.ldo + kPanelRows * q;
        const float* before = first ? row : out;
        const Floats column = Rows::set(first ? t.column[b] : 0.0f);
        for (int v = 0; v < kPanelRows * P; v += Rows::kFloats) {
            Floats sum = Rows::sum(column, Rows::floats(before + v));
            for (int s = 0; s < S; ++s) sum = Rows::fma(factor[s], counts[s][b] + v, sum);
            Rows::put(out + v, sum);
        }
    }
}

template <class Rows, int P, int S = kDenseCounts> inline void
dense_flush(const bqq_dense& t, size_t q, const DenseScratch& scratch, const float* r, size_t held, bool first) {
    if (held == S) return dense_floats<Rows, P, S>(t, q, scratch.counts, r, first);
    if constexpr (S > 1) dense_flush<Rows, P, S - 1>(t, q, scratch, r, held, first);
}

template <class Unit, class Rows, int P> void dense_panels(const bqq_dense& t, size_t q, DenseScratch& scratch) {
    for (; q + P <= t.panels; q += P) {
        float r[kDenseCounts];
        size_t held = 0;
        bool first = true;
        for (size_t i = 0; i < t.stacks; ++i) {
            const size_t words = t.first[i + 1] - t.first[i], share = (words + kDenseWords - 1) / kDenseWords;
            const size_t most = (words + share - 1) / share; // of a count
            for (size_t g = t.first[i]; g < t.first[i + 1]; g += most) {
                const size_t end = g + most < t.first[i + 1] ? g + most : t.first[i + 1];
                for (size_t run = g; run < end; run += kDenseRun) {
                    const size_t some = end - run < kDenseRun ? end - run : kDenseRun;
                    dense_tables<Unit, Rows, P>(t, q, run, some, scratch.tables);
                    dense_count<Rows, P>(t, run, some, scratch.tables, scratch.counts[held], run > g);
                }
                r[held++] = t.r[i];
                if (held < kDenseCounts && !(i + 1 == t.stacks && end == t.first[i + 1])) continue;
                dense_flush<Rows, P>(t, q, scratch, r, held, first);
                held = 0, first = false;
            }
        }
    }
    if constexpr (P > 1) {
        if (q < t.panels) dense_panels<Unit, Rows, P / 2>(t, q, scratch);
    }
}

template <class Unit, class Rows> void dense(const bqq_dense* tile) {
    DenseScratch scratch;
    dense_panels<Unit, Rows, kDensePanels>(*tile, 0, scratch);
}

template <class Unit> void unit_columns(const uint8_t* unit, uint16_t* columns) {
    __m128i bytes[4];
    Unit::bytes(unit, bytes);
    for (int k = 0; k < 4; ++k)
        for (int bit = 7; bit >= 0; --bit, bytes[k] = _mm_add_epi8(bytes[k], bytes[k]))
            columns[8 * k + bit] = uint16_t(_mm_movemask_epi8(bytes[k])); // the highest bit of every byte
}

} // namespace
