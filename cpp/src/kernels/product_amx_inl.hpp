// The product for many vectors on tiles. A tile holds 16 vectors (rows) times 64 bytes of their
// elements, the other operand 16 rows of the bit matrix expanded to numbers: a sum is then [vector][row], as the result
// wants it. In a word of the bit matrix four (two) neighbouring bits are an index into a register of all 16 (4) groups
// of bytes (bfloat16) they can mean: a shift and a permute expand 64 (32) bits.
//   float32 class   x = high + low in bfloat16, 16 significant bits; bits are +-1/2, both exact
//   fast class      x in 8 bits with one scale for a vector's blocks of one call; bits are +-1, their sums exact
#pragma once

#include "kernels/table.hpp"
#include "kernels/tiles_amx_inl.hpp"
#include "kernels/x86.hpp"

#include <string.h>

namespace {

inline size_t groups_of(size_t columns) { return (columns + kSide - 1) / kSide; }

struct TileFloat32 {
    static constexpr size_t kBlocks = 1, kDepth = 16; // blocks of a tile; tiles expanded at a time
    static constexpr size_t kHead = 0, kTile = 2048;  // bytes of 16 vectors, in tiles: high, low

    static void pack(size_t blocks, size_t columns, const float* x, size_t ldx, uint8_t* out) {
        for (size_t g = 0; g < groups_of(columns); ++g)
            for (size_t b = 0; b < blocks; ++b, out += kTile)
                for (size_t c = 0; c < kSide; ++c) {
                    __m512i high = _mm512_setzero_si512(), low = high;
                    if (g * kSide + c < columns) {
                        const float* in = x + (g * kSide + c) * ldx + kUnitColumns * b;
                        const __m512 first = _mm512_loadu_ps(in), second = _mm512_loadu_ps(in + 16);
                        high = (__m512i)_mm512_cvtne2ps_pbh(second, first);
                        low = (__m512i)_mm512_cvtne2ps_pbh(rest(second, high, 1), rest(first, high, 0));
                    }
                    _mm512_store_si512(out + 64 * c, high);
                    _mm512_store_si512(out + 1024 + 64 * c, low);
                }
    }

    static __m512 rest(__m512 x, __m512i rounded, int half) {
        const __m256i part = half ? _mm512_extracti64x4_epi64(rounded, 1) : _mm512_castsi512_si256(rounded);
        return _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(part), 16)));
    }

    // 16 rows x 32 bits of one block to a tile.
    static void expand(const uint8_t* bits, size_t, size_t, uint8_t* tile) {
        const __m512i word = _mm512_loadu_si512(bits);
        const __m512i pairs =
            _mm512_broadcast_i32x4(_mm_setr_epi32(int(0xBF00BF00), int(0xBF003F00), 0x3F00BF00, 0x3F003F00));
        for (unsigned k = 0; k < 16; ++k)
            _mm512_store_si512(tile + 64 * k, _mm512_permutexvar_epi32(_mm512_srli_epi32(word, 2 * k), pairs));
    }

    template <bool two_groups, bool two_panels> static void multiply() { multiply_bf16<two_groups, two_panels>(); }

    static __m512 add(__m512 y, const float* sums, const uint8_t*, size_t) {
        return _mm512_add_ps(y, _mm512_load_ps(sums));
    }
};

struct TileInt8 {
    static constexpr size_t kBlocks = 2, kDepth = 16;
    static constexpr size_t kHead = kTileVectors * sizeof(float), kTile = 1024; // the head: a scale for each vector

    static void pack(size_t blocks, size_t columns, const float* x, size_t ldx, uint8_t* out) {
        const size_t tiles = (blocks + 1) / 2;
        float* scale = reinterpret_cast<float*>(out);
        uint8_t* bytes = out + kHead;
        for (size_t c = 0; c < groups_of(columns) * kSide; ++c) {
            uint8_t* row = bytes + c / kSide * tiles * kTile + c % kSide * 64;
            const float* in = x + c * ldx;
            const float size = c < columns ? largest(2 * blocks, in) : 0;
            const bool usable = size > 1e-34f && size - size == 0;
            if (c < columns) scale[c] = usable ? 0.5f * size / 127 : 0.0f * size;
            const __m512 factor = _mm512_set1_ps(usable ? 127 / size : 0);
            for (size_t v = 0; v < 4 * tiles; ++v)
                _mm_store_si128((__m128i*)(row + v / 4 * kTile + 16 * (v % 4)),
                                usable && v < 2 * blocks ? rounded(_mm512_loadu_ps(in + 16 * v), factor)
                                                         : _mm_setzero_si128());
        }
    }

    static __m128i rounded(__m512 x, __m512 factor) {
        return _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(x, factor)));
    }
    // NaN or infinite if an element is: as integers, NaN is the largest.
    static float largest(size_t vectors, const float* x) {
        __m512i most = _mm512_setzero_si512();
        for (size_t v = 0; v < vectors; ++v)
            most = _mm512_max_epi32(most, _mm512_castps_si512(_mm512_abs_ps(_mm512_loadu_ps(x + 16 * v))));
        const int bits = _mm512_reduce_max_epi32(most);
        float size;
        memcpy(&size, &bits, sizeof size);
        return size;
    }

    // 16 rows x 32 bits of two blocks, `stride` apart, to a tile; a missing second one meets zeros, so any bits will
    // do.
    static void expand(const uint8_t* bits, size_t stride, size_t blocks, uint8_t* tile) {
        const __m512i one = _mm512_set1_epi8(1);
        __m512i fours = _mm512_set1_epi8(-1);
        for (unsigned k = 0; k < 4; ++k) {
            // Byte k of entry e is 1 where bit k of e is set.
            const __m512i entries = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
            const __mmask16 set = _mm512_test_epi32_mask(entries, _mm512_set1_epi32(1 << k));
            fours = _mm512_mask_blend_epi8(
                _mm512_test_epi8_mask(_mm512_maskz_set1_epi32(set, int(0xFFu << 8 * k)), _mm512_set1_epi8(-1)), fours,
                one);
        }
        for (size_t h = 0; h < 2; ++h) {
            const __m512i word = _mm512_loadu_si512(bits + (h < blocks ? h : 0) * stride);
            for (unsigned k = 0; k < 8; ++k)
                _mm512_store_si512(tile + 512 * h + 64 * k,
                                   _mm512_permutexvar_epi32(_mm512_srli_epi32(word, 4 * k), fours));
        }
    }

    template <bool two_groups, bool two_panels> static void multiply() {
        _tile_dpbssd(0, 4, 6);
        if (two_panels) _tile_dpbssd(1, 4, 7);
        if (two_groups) _tile_dpbssd(2, 5, 6);
        if (two_groups && two_panels) _tile_dpbssd(3, 5, 7);
    }

    static __m512 add(__m512 y, const float* sums, const uint8_t* tables, size_t column) {
        const __m512 scale = _mm512_set1_ps(reinterpret_cast<const float*>(tables)[column]);
        return _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums)), scale, y);
    }
};

template <class Class> void tile_tables(size_t blocks, size_t columns, const float* x, size_t ldx, void* tables) {
    Class::pack(blocks, columns, x, ldx, static_cast<uint8_t*>(tables));
}

template <class Class, bool two_groups, bool two_panels>
void tile_sums(size_t tiles, const uint8_t* a, size_t group, const uint8_t* b, size_t panel, float* sums) {
    zero_sums<two_groups, two_panels>();
    for (size_t k = 0; k < tiles; ++k, b += 1024) {
        _tile_loadd(6, b, 64);
        if (two_panels) _tile_loadd(7, b + panel, 64);
        for (size_t part = 0; part < Class::kTile; part += 1024, a += 1024) {
            _tile_loadd(4, a, 64);
            if (two_groups) _tile_loadd(5, a + group, 64);
            Class::template multiply<two_groups, two_panels>();
        }
    }
    store_sums<two_groups, two_panels>(sums);
}

template <class Class> void tile_lookup(size_t panels, size_t blocks, const uint8_t* bits, size_t stride,
                                        size_t columns, const void* tables, float* out, size_t ldo, int accumulate) {
    constexpr size_t kPanel = Class::kDepth * 1024; // bytes of an expanded panel
    alignas(64) uint8_t expanded[2 * kPanel];
    alignas(64) float sums[4 * kSide * kSide];
    const uint8_t* packed = static_cast<const uint8_t*>(tables) + Class::kHead;
    const size_t all = (blocks + Class::kBlocks - 1) / Class::kBlocks, group = all * Class::kTile;
    const Tiles configured;
    for (size_t q = 0; q < panels; q += 2)
        for (size_t first = 0; first < all; first += Class::kDepth) {
            const size_t tiles = all - first < Class::kDepth ? all - first : Class::kDepth;
            const bool two_panels = q + 1 < panels, add = accumulate || first > 0;
            for (size_t h = 0; h < (two_panels ? 2u : 1u); ++h)
                for (size_t k = 0; k < tiles; ++k) {
                    const size_t b = (first + k) * Class::kBlocks;
                    Class::expand(bits + b * stride + kUnitBytes * (q + h), stride, blocks - b,
                                  expanded + h * kPanel + 1024 * k);
                }
            for (size_t g = 0; g < groups_of(columns); g += 2) {
                const bool two_groups = g + 1 < groups_of(columns);
                const uint8_t* a = packed + g * group + first * Class::kTile;
                if (two_groups && two_panels)
                    tile_sums<Class, true, true>(tiles, a, group, expanded, kPanel, sums);
                else if (two_groups)
                    tile_sums<Class, true, false>(tiles, a, group, expanded, kPanel, sums);
                else if (two_panels)
                    tile_sums<Class, false, true>(tiles, a, group, expanded, kPanel, sums);
                else
                    tile_sums<Class, false, false>(tiles, a, group, expanded, kPanel, sums);
                for (size_t c = 0; c < 2 * kSide && g * kSide + c < columns; ++c)
                    for (size_t h = 0; h < (two_panels ? 2u : 1u); ++h) {
                        const size_t column = g * kSide + c;
                        float* y = out + column * ldo + kPanelRows * (q + h);
                        const __m512 before = add ? _mm512_loadu_ps(y) : _mm512_setzero_ps();
                        const float* tile = sums + (2 * (c / kSide) + h) * kSide * kSide + c % kSide * kSide;
                        _mm512_storeu_ps(y, Class::add(before, tile, static_cast<const uint8_t*>(tables), column));
                    }
            }
        }
}

} // namespace
