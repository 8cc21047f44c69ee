// isa: avx512
// level: 20
// arch: x86_64
// over: avx2
// cpu: avx512f,avx512bw,avx512dq,avx512vl
// msvc: /arch:AVX512
//
// AVX-512: 32 registers of 16 floats. 12 x 2 accumulators; the broadcast of A rides inside the FMA.
//   vfmadd231ps zmm, m32{1to16}    latency 4, 1 to 2 per cycle
#include "kernels/table.hpp"
#include "kernels/x86.hpp"

#define BQQ_VECTOR
namespace {

typedef __m512 vf;
constexpr int kWidth = 16, kTileRows = 12, kTileVectors = 2;

inline vf vload(const float* p) { return _mm512_loadu_ps(p); }
inline void vstore(float* p, vf a) { _mm512_storeu_ps(p, a); }
inline vf vset(float a) { return _mm512_set1_ps(a); }
inline vf vadd(vf a, vf b) { return _mm512_add_ps(a, b); }
inline vf vsub(vf a, vf b) { return _mm512_sub_ps(a, b); }
inline vf vmul(vf a, vf b) { return _mm512_mul_ps(a, b); }
inline vf vfma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
inline vf vmin(vf a, vf b) { return _mm512_min_ps(a, b); }
inline vf vmax(vf a, vf b) { return _mm512_max_ps(a, b); }
inline vf vabs(vf a) { return _mm512_abs_ps(a); }
inline vf vhead(vf a, size_t n) { return _mm512_maskz_mov_ps(__mmask16((1u << n) - 1u), a); }
inline unsigned vgreater(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline float vsum(vf a) { return _mm512_reduce_add_ps(a); }
inline float vmaxof(vf a) { return _mm512_reduce_max_ps(a); }
inline void vtranspose(const float* A, size_t lda, float* B, size_t ldb) {
    __m512 a[16], b[16];
    for (int i = 0; i < 4; ++i) // quarter q of rows i, i + 4, i + 8, i + 12
        for (int q = 0; q < 4; ++q) {
            const float* from = A + size_t(i) * lda + 4 * q;
            __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(from));
            v = _mm512_insertf32x4(v, _mm_loadu_ps(from + 4 * lda), 1);
            v = _mm512_insertf32x4(v, _mm_loadu_ps(from + 8 * lda), 2);
            a[i + 4 * q] = _mm512_insertf32x4(v, _mm_loadu_ps(from + 12 * lda), 3);
        }
    for (int q = 0; q < 16; q += 4) { // 4 x 4 within each quarter
        b[q] = _mm512_unpacklo_ps(a[q], a[q + 1]), b[q + 1] = _mm512_unpackhi_ps(a[q], a[q + 1]);
        b[q + 2] = _mm512_unpacklo_ps(a[q + 2], a[q + 3]), b[q + 3] = _mm512_unpackhi_ps(a[q + 2], a[q + 3]);
        vstore(B + size_t(q) * ldb, _mm512_shuffle_ps(b[q], b[q + 2], 0x44));
        vstore(B + size_t(q + 1) * ldb, _mm512_shuffle_ps(b[q], b[q + 2], 0xEE));
        vstore(B + size_t(q + 2) * ldb, _mm512_shuffle_ps(b[q + 1], b[q + 3], 0x44));
        vstore(B + size_t(q + 3) * ldb, _mm512_shuffle_ps(b[q + 1], b[q + 3], 0xEE));
    }
}

#define BQQ_SHORTS
typedef __m512i vs;

inline vs szero() { return _mm512_setzero_si512(); }
inline vs sload(const int16_t* p) { return _mm512_loadu_si512(p); }
inline void sstore(int16_t* p, vs a) { _mm512_storeu_si512(p, a); }
inline vs sadd(vs a, vs b) { return _mm512_add_epi16(a, b); }
inline vs ssub(vs a, vs b) { return _mm512_sub_epi16(a, b); }
inline vs sround(vf a, vf b) {
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    return _mm512_permutexvar_epi64(order, _mm512_packs_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b)));
}
inline void sfloats(vs a, vf* out) {
    out[0] = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_castsi512_si256(a)));
    out[1] = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(a, 1)));
}

} // namespace

#include "kernels/codes_avx512_inl.hpp"
#include "kernels/dense_avx512_inl.hpp"
#include "kernels/lanes_inl.hpp"
#include "kernels/product_avx2_inl.hpp"
#include "kernels/product_avx512_inl.hpp"
#include "kernels/words_avx512_inl.hpp"

#include "kernels/loops_inl.hpp"

extern "C" void bqq_kernels_avx512(bqq_kernels* table) {
    fill_loops(table);
    fill_lanes(table);
    table->largest = nullptr; // products of 16-bit numbers take two instructions: as long as those of floats
    table->unit_order = kWords;
    table->product[0] = bqq_product{tables_f32, lookup_f32};
    table->product[1] = bqq_product{tables_i8, lookup_bytes<WordUnits, 1>};
    table->dense = dense<WordUnits, Rows512>;
    table->unit_columns = unit_columns<WordUnits>;
    table->search_code = search_code<Scores512>;
    table->scan = scan_wide_any<Codes512>;
    table->costs = kCostsAvx512;
}
