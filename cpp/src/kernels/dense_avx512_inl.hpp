// dense_avx2_inl.hpp with 512 bits.
#pragma once

#include "kernels/dense_avx2_inl.hpp"

namespace {

struct Rows512 {
    typedef __m512i Bytes;
    static constexpr int kRows = 64;
    static Bytes zero() { return _mm512_setzero_si512(); }
    static Bytes load(const uint8_t* p) { return _mm512_load_si512(p); }
    static void store(uint8_t* p, Bytes a) { _mm512_store_si512(p, a); }
    static Bytes add(Bytes a, Bytes b) { return _mm512_add_epi8(a, b); }
    static Bytes bit(Bytes a, int k) {
        return _mm512_and_si512(_mm512_srli_epi16(a, unsigned(k)), _mm512_set1_epi8(1));
    }

    typedef __m512 Floats;
    static constexpr int kFloats = 16;
    static Floats set(float a) { return _mm512_set1_ps(a); }
    static Floats floats(const float* p) { return _mm512_loadu_ps(p); }
    static void put(float* p, Floats a) { _mm512_storeu_ps(p, a); }
    static Floats sum(Floats a, Floats b) { return _mm512_add_ps(a, b); }
    static Floats fma(Floats a, const uint8_t* counts, Floats b) {
        const __m128i sixteen = _mm_load_si128(reinterpret_cast<const __m128i*>(counts));
        return _mm512_fmadd_ps(a, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(sixteen)), b);
    }
};

} // namespace
