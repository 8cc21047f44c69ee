// Tables of the float32 class for product_avx2_inl.hpp: three planes of seven bits.
#pragma once

#include "kernels/product_avx2_inl.hpp"

namespace {

// The planes of the tables of eight inputs, one group of four in each lane: entries sum_q +- x_q + 2^20.
inline void planes_of(__m256i x, __m256i* out) {
    const __m256i s0 = _mm256_setr_epi32(-1, 1, -1, 1, -1, 1, -1, 1);
    const __m256i s1 = _mm256_setr_epi32(-1, -1, 1, 1, -1, -1, 1, 1);
    const auto pair = [&](__m256i a, __m256i b) {
        return _mm256_add_epi32(_mm256_sign_epi32(a, s0), _mm256_sign_epi32(b, s1));
    };
    const __m256i low = _mm256_add_epi32(_mm256_set1_epi32(kEntryBias<3>),
                                         pair(_mm256_shuffle_epi32(x, 0x00), _mm256_shuffle_epi32(x, 0x55)));
    const __m256i high = pair(_mm256_shuffle_epi32(x, 0xAA), _mm256_shuffle_epi32(x, 0xFF));
    const __m256i entry[4] = {_mm256_add_epi32(low, _mm256_shuffle_epi32(high, 0x00)),
                              _mm256_add_epi32(low, _mm256_shuffle_epi32(high, 0x55)),
                              _mm256_add_epi32(low, _mm256_shuffle_epi32(high, 0xAA)),
                              _mm256_add_epi32(low, _mm256_shuffle_epi32(high, 0xFF))};
    const __m256i seven = _mm256_set1_epi32(127);
    BQQ_UNROLL
    for (int p = 0; p < 3; ++p) {
        __m256i bits[4];
        BQQ_UNROLL
        for (int k = 0; k < 4; ++k) bits[k] = _mm256_and_si256(_mm256_srli_epi32(entry[k], 7 * p), seven);
        out[p] = _mm256_packus_epi16(_mm256_packs_epi32(bits[0], bits[1]), _mm256_packs_epi32(bits[2], bits[3]));
    }
}

// Inputs are rounded to steps of the largest entry / (2^20 - 3): so no entry leaves 21 bits.
void tables_planes(size_t blocks, size_t columns, const float* x, size_t ldx, void* tables) {
    for_records(blocks, columns, x, ldx, tables, [](uint8_t* record, size_t count, const float* in) {
        constexpr float top = kEntryBias<3> - 3, most = 1e37f; // inputs below 1e-31 stay small and lose digits
        const float size = chunk_size(count, in), wanted = size > 0 ? 0.5f * top / size : 0;
        const float factor = wanted < most ? wanted : most;
        const bool usable = size - size == 0 && size > 0;
        *reinterpret_cast<float*>(record) = usable ? (0.5f / factor) * kEntryBias<3> : 0.0f * size;
        const __m256 factors = _mm256_set1_ps(factor);
        __m256i* t = reinterpret_cast<__m256i*>(record + 64);
        for (size_t i = 0; i < kUnitColumns * count; i += 16, t += 6) {
            __m256i one[3], two[3];
            planes_of(_mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(in + i), factors)), one);
            planes_of(_mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(in + i + 8), factors)), two);
            for (int p = 0; p < 3; ++p) {
                _mm256_store_si256(t + 2 * p, _mm256_permute2x128_si256(one[p], two[p], 0x20));
                _mm256_store_si256(t + 2 * p + 1, _mm256_permute2x128_si256(one[p], two[p], 0x31));
            }
        }
    });
}

} // namespace
