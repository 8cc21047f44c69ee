// words_avx2_inl.hpp with 512 bits.
#pragma once

#include "kernels/words_avx2_inl.hpp"

namespace {

struct Words512 {
    typedef __m512i Word;
    static constexpr int kLanes = 16, kRows = 12, kVectors = 2;

    static Word load(const uint32_t* p) { return _mm512_loadu_si512(p); }
    static void store(uint32_t* p, Word a) { _mm512_storeu_si512(p, a); }
    static Word set(uint32_t a) { return _mm512_set1_epi32(int(a)); }

    typedef __m512 Float;
    static Float load(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, Float a) { _mm512_storeu_ps(p, a); }
    static Float set(float a) { return _mm512_set1_ps(a); }
    static Float to_float(Word a) { return _mm512_cvtepi32_ps(a); }
    static Word rounded(Float a) { return _mm512_cvtps_epi32(a); }
    static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
    static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
    static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
    static Float largest(Float most, Float a) { return _mm512_max_ps(most, _mm512_abs_ps(a)); }
    static double sum(Float a) {
        const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(a));
        return _mm512_reduce_add_pd(_mm512_add_pd(low, _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1))));
    }

    static Word add_pairs(Word sum, Word a, Word b) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)); }
    static Word pairs(Word a, Word b) { return _mm512_mask_blend_epi16(0xAAAAAAAA, a, _mm512_slli_epi32(b, 16)); }
    static void store_shorts(uint32_t* p, const float* x, float scale) {
        const Word words = rounded(_mm512_mul_ps(_mm512_set1_ps(scale), _mm512_loadu_ps(x)));
        _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(words));
    }
};

} // namespace
