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

struct Codes512 {
    typedef __m512i Bytes;
    static constexpr size_t kCodes = 64;
    static Bytes zero() { return _mm512_setzero_si512(); }
    static Bytes load(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static void store(uint16_t* p, Bytes a) { _mm512_storeu_si512(p, a); }
    static Bytes low(Bytes c) { return _mm512_and_si512(c, _mm512_set1_epi8(15)); }
    static Bytes high(Bytes c) { return low(_mm512_srli_epi16(c, 4)); }
    static Bytes table(const uint8_t* p) {
        return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static Bytes look_up(const uint8_t* at, Bytes low, Bytes high) {
        return add8(_mm512_shuffle_epi8(table(at), low), _mm512_shuffle_epi8(table(at + kEntries), high));
    }
    static Bytes add8(Bytes a, Bytes b) { return _mm512_add_epi8(a, b); }
    static Bytes add16(Bytes a, Bytes b) { return _mm512_add_epi16(a, b); }
    static Bytes sub16(Bytes a, Bytes b) { return _mm512_sub_epi16(a, b); }
    static Bytes upper(Bytes a) { return _mm512_srli_epi16(a, 8); }
    static Bytes shifted(Bytes a) { return _mm512_slli_epi16(a, 8); }
    static Bytes upper_kept(Bytes a) { return _mm512_and_si512(a, _mm512_set1_epi16(int16_t(0xFF00))); }
    static Bytes with_norm(Bytes sums, Bytes norms, uint16_t weight) { // norms times 256
        return _mm512_adds_epu16(sums, _mm512_mulhi_epu16(norms, _mm512_set1_epi16(int16_t(weight))));
    }
    static uint64_t below(Bytes first, Bytes second, uint16_t limit) {
        const Bytes l = _mm512_set1_epi16(int16_t(limit));
        return uint64_t(_mm512_cmplt_epu16_mask(second, l)) << 32 | _mm512_cmplt_epu16_mask(first, l);
    }
};

} // namespace
