// Words of 512 bits for the products of counts_avx2_inl.hpp.
#pragma once

#include "kernels/counts_avx2_inl.hpp"

namespace {

struct Words512 {
    typedef __m512i Word;
    static constexpr int kLanes = 16, kRows = 12, kVectors = 2;

    static Word load(const uint32_t* p) { return _mm512_loadu_si512(p); }
    static void store(uint32_t* p, Word a) { _mm512_storeu_si512(p, a); }
    static Word set(uint32_t a) { return _mm512_set1_epi32(int(a)); }
    static Word whole(const float* p) { return _mm512_cvtps_epi32(_mm512_loadu_ps(p)); }
    static Word bits_and(Word a, Word b) { return _mm512_and_si512(a, b); }
    static Word bits_or(Word a, Word b) { return _mm512_or_si512(a, b); }
    static Word left(Word a, int bits) { return _mm512_slli_epi32(a, unsigned(bits)); }
    static Word right(Word a, int bits) { return _mm512_srli_epi32(a, unsigned(bits)); }
    static Word add_halves(Word a) { return _mm512_madd_epi16(a, _mm512_set1_epi16(1)); }
    static bool any(Word a) { return _mm512_test_epi32_mask(a, a) != 0; }
    static Word add_products(Word sum, Word counts, Word bits) {
        return _mm512_add_epi16(sum, _mm512_maddubs_epi16(counts, bits));
    }
    static void put(float* c, Word a) { _mm512_storeu_ps(c, _mm512_cvtepi32_ps(a)); }
    static void add(float* c, Word a, float factor) {
        _mm512_storeu_ps(c, _mm512_fmadd_ps(_mm512_set1_ps(factor), _mm512_cvtepi32_ps(a), _mm512_loadu_ps(c)));
    }
};

} // namespace
