// A vector of 32-bit words, each two 16-bit numbers or one sum of theirs, and of as many floats: what the
// solver's products on short operands are written over (gemm_rounded_avx2_inl.hpp).
#pragma once

#include "kernels/x86.hpp"

#include <stddef.h>
#include <stdint.h>

namespace {

struct Words256 {
    typedef __m256i Word;
    static constexpr int kLanes = 8, kRows = 4, kVectors = 2;

    static Word load(const uint32_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
    static void store(uint32_t* p, Word a) { _mm256_storeu_si256((__m256i*)p, a); }
    static Word set(uint32_t a) { return _mm256_set1_epi32(int(a)); }

    typedef __m256 Float;
    static Float load(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, Float a) { _mm256_storeu_ps(p, a); }
    static Float set(float a) { return _mm256_set1_ps(a); }
    static Float to_float(Word a) { return _mm256_cvtepi32_ps(a); }
    static Word rounded(Float a) { return _mm256_cvtps_epi32(a); }
    static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
    static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
    static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
    static Float largest(Float most, Float a) {
        return _mm256_max_ps(most, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a));
    }
    static double sum(Float a) {
        const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(a)),
                      high = _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1));
        const __m256d both = _mm256_add_pd(low, high);
        const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(both), _mm256_extractf128_pd(both, 1));
        return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
    }

    // Sums of 32 bits of the products of 16-bit neighbours.
    static Word add_pairs(Word sum, Word a, Word b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
    // Words with 16 bits of a below 16 of b.
    static Word pairs(Word a, Word b) { return _mm256_blend_epi16(a, _mm256_slli_epi32(b, 16), 0xAA); }
    // 16 floats, scaled, as 8 words of 16-bit neighbours.
    static void store_shorts(uint32_t* p, const float* x, float scale) {
        const __m256 s = _mm256_set1_ps(scale);
        const Word low = rounded(_mm256_mul_ps(s, _mm256_loadu_ps(x)));
        const Word high = rounded(_mm256_mul_ps(s, _mm256_loadu_ps(x + 8)));
        store(p, _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8)); // the packs work within 128 bits
    }
};

} // namespace
