// Codes of vectors with AVX2: sixteen scores are one vector.
#pragma once

#include "kernels/codes_inl.hpp"
#include "kernels/x86.hpp"

namespace {

inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store256(void* p, __m256i a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }

struct Scores256 {
    static bool from(size_t count, const float* cost, float scale, uint16_t* scores) {
        const __m256 s = _mm256_set1_ps(scale), sign = _mm256_set1_ps(-0.0f), most = _mm256_set1_ps(kMostScore);
        __m256 beyond = _mm256_setzero_ps();
        for (size_t k = 0; k < count; k += 16) {
            const __m256 a = _mm256_mul_ps(s, _mm256_loadu_ps(cost + k)),
                         b = _mm256_mul_ps(s, _mm256_loadu_ps(cost + k + 8));
            beyond = _mm256_or_ps(beyond, _mm256_cmp_ps(_mm256_andnot_ps(sign, a), most, _CMP_NLE_UQ));
            beyond = _mm256_or_ps(beyond, _mm256_cmp_ps(_mm256_andnot_ps(sign, b), most, _CMP_NLE_UQ));
            const __m256i packed = _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b));
            store256(scores + k,
                     _mm256_xor_si256(_mm256_permute4x64_epi64(packed, 0xD8), _mm256_set1_epi16(int16_t(0x8000))));
        }
        return !_mm256_movemask_ps(beyond);
    }
    // phminposuw finds value and place of the least of eight.
    static int least(const uint16_t* scores, const uint16_t* noise) {
        const __m256i sums = _mm256_adds_epu16(load256(scores), load256(noise));
        const auto low = unsigned(_mm_cvtsi128_si32(_mm_minpos_epu16(_mm256_castsi256_si128(sums)))),
                   high = unsigned(_mm_cvtsi128_si32(_mm_minpos_epu16(_mm256_extracti128_si256(sums, 1))));
        return int((high & 0xFFFF) < (low & 0xFFFF) ? (high >> 16) + 8 : low >> 16);
    }
    static void add(size_t count, const int16_t* row, uint16_t* scores) {
        for (size_t k = 0; k < count; k += 16)
            store256(scores + k, _mm256_add_epi16(load256(scores + k), load256(row + k)));
    }
    static void move(size_t count, const int16_t* from, const int16_t* to, uint16_t* scores) {
        for (size_t k = 0; k < count; k += 16)
            store256(scores + k,
                     _mm256_add_epi16(load256(scores + k), _mm256_sub_epi16(load256(to + k), load256(from + k))));
    }
};

// The scan over vectors V of V::kCodes codes: load, low and high nibbles, look_up of two tables of bytes, sums and what
// is made of them. Four look-ups fit a byte. Bytes are added as 16-bit numbers, once as they are and once their upper
// half alone, so that upper and lower byte come apart at the end.
template <class V, int Queries> void scan_wide(const bqq_scan* s) {
    using Bytes = typename V::Bytes;
    for (size_t b = 0; b < s->blocks; ++b)
        for (size_t part = 0; part < kScanBlock; part += V::kCodes) {
            Bytes all[Queries], odd[Queries];
            for (int q = 0; q < Queries; ++q) all[q] = odd[q] = V::zero();
            const auto add = [&](int q, Bytes sums) {
                all[q] = V::add16(all[q], sums);
                odd[q] = V::add16(odd[q], V::upper(sums));
            };
            size_t table = 0;
            for (size_t i = 0; i < s->parts; ++i) {
                const size_t bytes = s->bytes[i];
                const uint8_t* codes = s->codes[i] + b * kScanBlock * bytes + part;
                size_t j = 0;
                for (; j + 2 <= bytes; j += 2, codes += 2 * kScanBlock, table += 4 * kEntries) {
                    const Bytes c = V::load(codes), d = V::load(codes + kScanBlock);
                    const Bytes c0 = V::low(c), c1 = V::high(c), d0 = V::low(d), d1 = V::high(d);
                    for (int q = 0; q < Queries; ++q) {
                        const uint8_t* at = s->tables[q] + table;
                        add(q, V::add8(V::look_up(at, c0, c1), V::look_up(at + 2 * kEntries, d0, d1)));
                    }
                }
                if (j == bytes) continue;
                const Bytes c = V::load(codes), c0 = V::low(c), c1 = V::high(c);
                for (int q = 0; q < Queries; ++q) add(q, V::look_up(s->tables[q] + table, c0, c1));
                table += 2 * kEntries;
            }
            const Bytes norms = s->norms ? V::load(s->norms + b * kScanBlock + part) : V::zero();
            for (int q = 0; q < Queries; ++q) {
                const Bytes first =
                                V::with_norm(V::sub16(all[q], V::shifted(odd[q])), V::shifted(norms), s->weights[q]),
                            second = V::with_norm(odd[q], V::upper_kept(norms), s->weights[q]);
                uint16_t* sums = s->sums + (b * Queries + size_t(q)) * kScanBlock + part / 2;
                V::store(sums, first), V::store(sums + kScanBlock / 2, second);
                uint64_t& below = s->below[b * Queries + size_t(q)];
                below = (part ? below : 0) | V::below(first, second, s->limits[q]) << part / 2;
            }
        }
}

template <class V> void scan_wide_any(const bqq_scan* s) {
    switch (s->queries) {
    case 1:
        return scan_wide<V, 1>(s);
    case 2:
        return scan_wide<V, 2>(s);
    case 3:
        return scan_wide<V, 3>(s);
    default:
        return scan_wide<V, 4>(s);
    }
}

struct Codes256 {
    typedef __m256i Bytes;
    static constexpr size_t kCodes = 32;
    static Bytes zero() { return _mm256_setzero_si256(); }
    static Bytes load(const uint8_t* p) { return load256(p); }
    static void store(uint16_t* p, Bytes a) { store256(p, a); }
    static Bytes low(Bytes c) { return _mm256_and_si256(c, _mm256_set1_epi8(15)); }
    static Bytes high(Bytes c) { return low(_mm256_srli_epi16(c, 4)); }
    static Bytes table(const uint8_t* p) {
        return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static Bytes look_up(const uint8_t* at, Bytes low, Bytes high) {
        return add8(_mm256_shuffle_epi8(table(at), low), _mm256_shuffle_epi8(table(at + kEntries), high));
    }
    static Bytes add8(Bytes a, Bytes b) { return _mm256_add_epi8(a, b); }
    static Bytes add16(Bytes a, Bytes b) { return _mm256_add_epi16(a, b); }
    static Bytes sub16(Bytes a, Bytes b) { return _mm256_sub_epi16(a, b); }
    static Bytes upper(Bytes a) { return _mm256_srli_epi16(a, 8); }
    static Bytes shifted(Bytes a) { return _mm256_slli_epi16(a, 8); }
    static Bytes upper_kept(Bytes a) { return _mm256_and_si256(a, _mm256_set1_epi16(int16_t(0xFF00))); }
    static Bytes with_norm(Bytes sums, Bytes norms, uint16_t weight) { // norms times 256
        return _mm256_adds_epu16(sums, _mm256_mulhi_epu16(norms, _mm256_set1_epi16(int16_t(weight))));
    }
    // Bits of the first 16 from bit 0, of the second from bit 32.
    static uint64_t below(Bytes first, Bytes second, uint16_t limit) {
        const auto reached = [&](Bytes a) {
            return _mm256_cmpeq_epi16(_mm256_subs_epu16(_mm256_set1_epi16(int16_t(limit)), a), zero());
        };
        const Bytes mask = _mm256_permute4x64_epi64(_mm256_packs_epi16(reached(first), reached(second)), 0xD8);
        const uint32_t bits = ~uint32_t(_mm256_movemask_epi8(mask));
        return uint64_t(bits >> 16) << 32 | (bits & 0xFFFF);
    }
};

} // namespace
