// isa: vnni
// level: 30
// arch: x86_64
// over: avx512
// cpu: avx512vbmi,avx512vnni,avx512vpopcntdq
// msvc: /arch:AVX512
//
// AVX-512 with byte permutes and byte dot products (Ice Lake, Zen 4): the product in fixed point.
//   vpermb zmm      16 rows x 4 bytes look into four tables of 16 bytes: 256 bits of the matrix
//   vpdpbusd zmm    with ones: adds the four bytes of a row to its 32-bit sum
// The float32 class splits a table entry of 24 bits into three bytes: 6 operations for 256 bits and full accuracy,
// where tables of floats take 8 for 256. Integer sums are exact, so the only error is that of the entries, 2^-23 of the
// largest.
#include "kernels/dense_vnni_inl.hpp"
#include "kernels/gemm_rounded_avx2_inl.hpp"
#include "kernels/records_inl.hpp"
#include "kernels/tuning.hpp"
#include "kernels/words_avx512_inl.hpp"
#include "kernels/x86.hpp"

#include <math.h>
#include <string.h>

namespace {

// The largest sum |x_q| / 2 of a group of four inputs; NaN or infinite if an input is (positive floats order as their
// bits do, NaN last).
inline float chunk_size(size_t blocks, const float* x) {
    __m512i most = _mm512_setzero_si512();
    for (size_t v = 0; v < 2 * blocks; ++v) {
        const __m512 a = _mm512_abs_ps(_mm512_loadu_ps(x + 16 * v));
        const __m512 pairs = _mm512_add_ps(a, _mm512_permute_ps(a, 0xB1));
        const __m512 sums = _mm512_add_ps(pairs, _mm512_permute_ps(pairs, 0x4E));
        most = _mm512_max_epi32(most, _mm512_castps_si512(sums));
    }
    const int bits = _mm512_reduce_max_epi32(most);
    float size;
    memcpy(&size, &bits, sizeof size);
    return 0.5f * size;
}

// The records of one chunk of several vectors, `column` bytes apart. Each has, for each block, the tables of groups
// 0 2 4 6 (low halves of the bytes of a word), then of groups 1 3 5 7 (high halves).
struct Records {
    const uint8_t* at;
    size_t column;
};

inline bool is_finite(float x) { return x - x == 0; }

struct Head { // of a record
    float scale, factor;
};

// Scales and factors of all records, before their tables: one at a time they are a chain of latencies. head(size): the
// head of a chunk of that size.
template <class F>
inline void make_heads(size_t blocks, size_t columns, const float* x, size_t ldx, void* tables, F&& head) {
    for_records(blocks, columns, x, ldx, tables, [&](uint8_t* record, size_t count, const float* in) {
        *reinterpret_cast<Head*>(record) = head(chunk_size(count, in));
    });
}

// Constant index vectors, made by the compiler.
struct alignas(64) Bytes {
    uint8_t at[64];
    __m512i load() const { return _mm512_load_si512(at); }
};
struct alignas(64) Words {
    uint16_t at[32];
    __m512i load() const { return _mm512_load_si512(at); }
};

// ---- float32 class: entries of 23 bits in three bytes ----

// 1.5 * 2^23: to it, floats add integers up to 2^22 in size, and the low 23 bits of the sum are 2^22 + the integer.
constexpr float kMagic = 12582912.0f;
constexpr int kBias = 1 << 22;
constexpr float kMostFactor = 8.5e37f; // 2^126: its inverse is still normal

// Of two vectors of 16 words: the bytes `first` of all, then the bytes first + 1.
constexpr Bytes digit_index(int first) {
    Bytes index{};
    for (int i = 0; i < 64; ++i) index.at[i] = uint8_t(64 * (i / 16 % 2) + 4 * (i % 16) + first + i / 32);
    return index;
}
constexpr Bytes kLowDigits = digit_index(0), kHighDigit = digit_index(2);

void tables_f32(size_t blocks, size_t columns, const float* x, size_t ldx, void* tables) {
    const __m512 half = _mm512_set1_ps(0.5f), minus = _mm512_set1_ps(-0.5f);
    const __m512 sign[4] = {_mm512_mask_mov_ps(minus, 0xAAAA, half), _mm512_mask_mov_ps(minus, 0xCCCC, half),
                            _mm512_mask_mov_ps(minus, 0xF0F0, half), _mm512_mask_mov_ps(minus, 0xFF00, half)};
    const __m512i low_digits = kLowDigits.load(), high_digit = kHighDigit.load();
    const __m512 magic = _mm512_set1_ps(kMagic);
    make_heads(blocks, columns, x, ldx, tables, [](float size) {
        // Entries just below 2^22; inputs below 1e-31 stay small and lose digits.
        const float wanted = (kBias - 16) / size, factor = wanted < kMostFactor ? wanted : kMostFactor;
        return Head{is_finite(size) ? 1 / factor : NAN, is_finite(size) ? factor : 0};
    });
    for_records(blocks, columns, x, ldx, tables, [&](uint8_t* record, size_t count, const float* in) {
        const __m512 factor = _mm512_set1_ps(reinterpret_cast<const Head*>(record)->factor);
        const __m512 s0 = _mm512_mul_ps(sign[0], factor), s1 = _mm512_mul_ps(sign[1], factor);
        const __m512 s2 = _mm512_mul_ps(sign[2], factor), s3 = _mm512_mul_ps(sign[3], factor);
        uint8_t* t = record + 64;
        for (size_t k = 0; k < count; ++k, in += kUnitColumns) {
            for (int side = 0; side < 2; ++side, t += 192) {
                __m512i entry[4];
                for (int g = 0; g < 4; ++g) {
                    const float* f = in + 4 * (2 * g + side);
                    __m512 sum = _mm512_mul_ps(s0, _mm512_set1_ps(f[0]));
                    sum = _mm512_fmadd_ps(s1, _mm512_set1_ps(f[1]), sum);
                    sum = _mm512_fmadd_ps(s2, _mm512_set1_ps(f[2]), sum);
                    sum = _mm512_fmadd_ps(s3, _mm512_set1_ps(f[3]), sum);
                    entry[g] = _mm512_castps_si512(_mm512_add_ps(sum, magic));
                }
                const __m512i low = _mm512_permutex2var_epi8(entry[0], low_digits, entry[1]);
                const __m512i low2 = _mm512_permutex2var_epi8(entry[2], low_digits, entry[3]);
                const __m512i high = _mm512_permutex2var_epi8(entry[0], high_digit, entry[1]);
                const __m512i high2 = _mm512_permutex2var_epi8(entry[2], high_digit, entry[3]);
                _mm512_store_si512(t, _mm512_shuffle_i64x2(low, low2, 0x44));
                _mm512_store_si512(t + 64, _mm512_shuffle_i64x2(low, low2, 0xEE));
                _mm512_store_si512(t + 128, _mm512_shuffle_i64x2(high, high2, 0x44));
            }
        }
    });
}

// Four indices of six bits a row: half bytes of `word`, plus the table each byte looks into.
inline __m512i table_index(__m512i word) {
    return _mm512_ternarylogic_epi32(word, _mm512_set1_epi8(15), _mm512_set1_epi32(0x30201000), 0xEA); // (a & b) | c
}

// y (+)= scale * sum
inline void add_scaled(float* y, __m512i sum, float scale, bool accumulate) {
    const __m512 before = accumulate ? _mm512_loadu_ps(y) : _mm512_setzero_ps();
    _mm512_storeu_ps(y, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(scale), before));
}

struct Float32Class {
    static constexpr int kColumns = 2;
    static constexpr int rows_of(int columns) { return columns == 1 ? 4 : 2; }

    template <int P, int N> static void chunk(size_t blocks, const uint8_t* bits, size_t stride, Records records,
                                              float* out, size_t ldo, bool accumulate) {
        const __m512i one = _mm512_set1_epi8(1);
        __m512i s[3][P][N];
        for (int d = 0; d < 3; ++d)
            for (int q = 0; q < P; ++q)
                for (int c = 0; c < N; ++c) s[d][q][c] = _mm512_setzero_si512();
        const uint8_t* t = records.at + 64;
        for (size_t b = 0; b < blocks; ++b, bits += stride, t += 384) {
            __m512i low[P], high[P];
            for (int q = 0; q < P; ++q) {
                const __m512i word = _mm512_loadu_si512(bits + kUnitBytes * q);
                _mm_prefetch(reinterpret_cast<const char*>(bits + kPrefetchBlocks * stride + kUnitBytes * q),
                             _MM_HINT_T1);
                low[q] = table_index(word), high[q] = table_index(_mm512_srli_epi32(word, 4));
            }
            const auto look = [&](int c, int digit, __m512i index, int side) {
                return _mm512_permutexvar_epi8(index,
                                               _mm512_load_si512(t + c * records.column + 192 * side + 64 * digit));
            };
            for (int c = 0; c < N; ++c)
                for (int q = 0; q < P; ++q) {
                    for (int d = 0; d < 2; ++d) {
                        s[d][q][c] = _mm512_dpbusd_epi32(s[d][q][c], look(c, d, low[q], 0), one);
                        s[d][q][c] = _mm512_dpbusd_epi32(s[d][q][c], look(c, d, high[q], 1), one);
                    }
                    // The last digit has seven bits: two of them fit a byte.
                    const __m512i both = _mm512_add_epi8(look(c, 2, low[q], 0), look(c, 2, high[q], 1));
                    s[2][q][c] = _mm512_dpbusd_epi32(s[2][q][c], both, one);
                }
        }
        const __m512i bias = _mm512_set1_epi32(-kBias * int(8 * blocks));
        for (int c = 0; c < N; ++c) {
            const float scale = *reinterpret_cast<const float*>(records.at + c * records.column);
            for (int q = 0; q < P; ++q) {
                const __m512i high = _mm512_add_epi32(_mm512_slli_epi32(s[2][q][c], 8), s[1][q][c]);
                const __m512i low = _mm512_add_epi32(s[0][q][c], bias);
                add_scaled(out + c * ldo + kPanelRows * q, _mm512_add_epi32(_mm512_slli_epi32(high, 8), low), scale,
                           accumulate);
            }
        }
    }
};

// ---- fast class: entries of 8 bits, sums of two rounded sums of pairs, at most 126 + 1 in size ----

// Inputs 0 .. 31, packed from two vectors lane by lane (0-3 16-19 4-7 ...), in words, and behind them their negatives.
constexpr unsigned packed_word(unsigned input) { return input % 16 / 4 * 8 + input / 16 * 4 + input % 4; }
// Sums of pairs: word 4p + e is +-x_2p (term 0) +-x_2p+1 (term 1), for the pairs 8 half to 8 half + 7.
constexpr Words pair_index(unsigned half, unsigned term) {
    Words index{};
    for (unsigned i = 0; i < 32; ++i)
        index.at[i] = uint16_t((i >> term & 1 ? 0 : 32) + packed_word(16 * half + 2 * (i / 4) + term));
    return index;
}
// Tables of the groups side, side + 2, side + 4, side + 6 from the sums of pairs 4p + e in bytes: entry e of a table is
// pair sum e % 4 of its first pair plus pair sum e / 4 of its second.
constexpr Bytes group_index(unsigned side, unsigned term) {
    Bytes index{};
    for (unsigned i = 0; i < 64; ++i)
        index.at[i] = uint8_t(4 * (2 * (side + 2 * (i / 16)) + term) + (term ? i % 16 / 4 : i % 4));
    return index;
}
constexpr Bytes high_bytes() {
    Bytes index{};
    for (int i = 0; i < 64; ++i) index.at[i] = uint8_t(2 * i + 1);
    return index;
}
constexpr Words kPair[2][2] = {{pair_index(0, 0), pair_index(0, 1)}, {pair_index(1, 0), pair_index(1, 1)}};
constexpr Bytes kGroup[2][2] = {{group_index(0, 0), group_index(0, 1)}, {group_index(1, 0), group_index(1, 1)}};
constexpr Bytes kHighBytes = high_bytes();

void tables_i8(size_t blocks, size_t columns, const float* x, size_t ldx, void* tables) {
    const __m512i pair[2][2] = {{kPair[0][0].load(), kPair[0][1].load()}, {kPair[1][0].load(), kPair[1][1].load()}};
    const __m512i group[2][2] = {{kGroup[0][0].load(), kGroup[0][1].load()},
                                 {kGroup[1][0].load(), kGroup[1][1].load()}};
    const __m512i high = kHighBytes.load(), rounding = _mm512_set1_epi16(128);
    make_heads(blocks, columns, x, ldx, tables, [](float size) {
        const bool usable = size > 1e-34f && is_finite(size);
        return Head{usable ? size / 126.0f : 0.0f * size, usable ? 0.5f * 32256.0f / size : 0.0f};
    });
    for_records(blocks, columns, x, ldx, tables, [&](uint8_t* record, size_t count, const float* in) {
        const __m512 factor = _mm512_set1_ps(reinterpret_cast<const Head*>(record)->factor);
        uint8_t* t = record + 64;
        for (size_t k = 0; k < count; ++k, in += kUnitColumns, t += 128) {
            const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(in), factor));
            const __m512i b2 = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(in + 16), factor));
            const __m512i plus = _mm512_packs_epi32(a, b2), minus = _mm512_sub_epi16(_mm512_setzero_si512(), plus);
            __m512i sums[2];
            for (int h = 0; h < 2; ++h)
                sums[h] =
                    _mm512_add_epi16(rounding, _mm512_add_epi16(_mm512_permutex2var_epi16(plus, pair[h][0], minus),
                                                                _mm512_permutex2var_epi16(plus, pair[h][1], minus)));
            const __m512i bytes = _mm512_permutex2var_epi8(sums[0], high, sums[1]);
            for (int side = 0; side < 2; ++side)
                _mm512_store_si512(t + 64 * side, _mm512_add_epi8(_mm512_permutexvar_epi8(group[side][0], bytes),
                                                                  _mm512_permutexvar_epi8(group[side][1], bytes)));
        }
    });
}

struct FastClass {
    static constexpr int kColumns = 4;
    static constexpr int rows_of(int columns) { return columns == 1 ? 8 : 4; }

    template <int P, int N> static void chunk(size_t blocks, const uint8_t* bits, size_t stride, Records records,
                                              float* out, size_t ldo, bool accumulate) {
        __m512i s[P][N];
        for (int q = 0; q < P; ++q)
            for (int c = 0; c < N; ++c) s[q][c] = _mm512_setzero_si512();
        const __m512i one = _mm512_set1_epi8(1);
        const uint8_t* t = records.at + 64;
        for (size_t b = 0; b < blocks; ++b, bits += stride)
            for (int side = 0; side < 2; ++side, t += 64) {
                __m512i index[P];
                for (int q = 0; q < P; ++q) {
                    const __m512i word = _mm512_loadu_si512(bits + kUnitBytes * q);
                    if (side == 0)
                        _mm_prefetch(reinterpret_cast<const char*>(bits + kPrefetchBlocks * stride + kUnitBytes * q),
                                     _MM_HINT_T1);
                    index[q] = table_index(side ? _mm512_srli_epi32(word, 4) : word);
                }
                for (int c = 0; c < N; ++c) {
                    const __m512i table = _mm512_load_si512(t + c * records.column);
                    for (int q = 0; q < P; ++q)
                        s[q][c] = _mm512_dpbusd_epi32(s[q][c], one, _mm512_permutexvar_epi8(index[q], table));
                }
            }
        for (int c = 0; c < N; ++c)
            for (int q = 0; q < P; ++q)
                add_scaled(out + c * ldo + kPanelRows * q, s[q][c],
                           *reinterpret_cast<const float*>(records.at + c * records.column), accumulate);
    }
};

// ---- both ----

template <class Class, int N, int P = Class::rows_of(N)>
inline void lookup_panels(size_t panels, size_t blocks, const uint8_t* bits, size_t stride, Records records, float* out,
                          size_t ldo, bool accumulate) {
    for (; panels >= size_t(P); panels -= P, bits += kUnitBytes * P, out += kPanelRows * P)
        Class::template chunk<P, N>(blocks, bits, stride, records, out, ldo, accumulate);
    if constexpr (P > 1) {
        if (panels) lookup_panels<Class, N, P / 2>(panels, blocks, bits, stride, records, out, ldo, accumulate);
    }
}

template <class Class> void lookup(size_t panels, size_t blocks, const uint8_t* bits, size_t stride, size_t columns,
                                   const void* tables, float* out, size_t ldo, int accumulate) {
    const size_t column = record_stride(blocks);
    const uint8_t* record = static_cast<const uint8_t*>(tables);
    for (size_t b = 0; b < blocks; b += kChunkBlocks, bits += kChunkBlocks * stride, record += kRecord) {
        const size_t count = chunk_blocks(blocks - b);
        const bool add = accumulate || b > 0;
        size_t c = 0;
        for (; Class::kColumns == 4 && c + 4 <= columns; c += 4)
            lookup_panels<Class, Class::kColumns>(panels, count, bits, stride, {record + c * column, column},
                                                  out + c * ldo, ldo, add);
        for (; c + 2 <= columns; c += 2)
            lookup_panels<Class, 2>(panels, count, bits, stride, {record + c * column, column}, out + c * ldo, ldo,
                                    add);
        if (columns & 1)
            lookup_panels<Class, 1>(panels, count, bits, stride, {record + c * column, column}, out + c * ldo, ldo,
                                    add);
    }
}

struct WordsVnni : Words512 {
    static Word add_pairs(Word sum, Word a, Word b) { return _mm512_dpwssd_epi32(sum, a, b); }
};

} // namespace

extern "C" void bqq_kernels_vnni(bqq_kernels* table) {
    fill_shorts<WordsVnni>(table);
    table->dense = dense;
    table->costs = kCostsVnni;
    table->unit_columns = unit_columns;
    table->product[0] = bqq_product{tables_f32, lookup<Float32Class>};
    table->product[1] = bqq_product{tables_i8, lookup<FastClass>};
}
