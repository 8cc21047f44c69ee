// isa: avx2
// level: 10
// arch: x86_64
// cpu: avx2,fma,bmi2,f16c
// msvc: /arch:AVX2
//
// AVX2 and FMA: 16 registers of 8 floats. 6 x 2 accumulators keep both FMA ports busy.
//   vfmadd231ps ymm     latency 4, 2 per cycle
//   vbroadcastss m32    2 per cycle
#include "kernels/table.hpp"
#include "kernels/x86.hpp"

#define BQQ_VECTOR
namespace {

typedef __m256 vf;
constexpr int kWidth = 8, kTileRows = 6, kTileVectors = 2;

inline vf vload(const float* p) { return _mm256_loadu_ps(p); }
inline void vstore(float* p, vf a) { _mm256_storeu_ps(p, a); }
inline vf vset(float a) { return _mm256_set1_ps(a); }
inline vf vadd(vf a, vf b) { return _mm256_add_ps(a, b); }
inline vf vsub(vf a, vf b) { return _mm256_sub_ps(a, b); }
inline vf vmul(vf a, vf b) { return _mm256_mul_ps(a, b); }
inline vf vfma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
inline vf vmin(vf a, vf b) { return _mm256_min_ps(a, b); }
inline vf vmax(vf a, vf b) { return _mm256_max_ps(a, b); }
inline vf vabs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline vf vhead(vf a, size_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(int(n)), lane)));
}
inline unsigned vgreater(vf a, vf b) { return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ))); }
inline float vsum(vf a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float vmaxof(vf a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
inline void vtranspose(const float* A, size_t lda, float* B, size_t ldb) {
    vf a[8], b[8];
    for (int i = 0; i < 4; ++i) // rows i and i + 4, by halves
        for (int h = 0; h < 2; ++h)
            a[i + 4 * h] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(A + size_t(i) * lda + 4 * h)),
                                                _mm_loadu_ps(A + size_t(i + 4) * lda + 4 * h), 1);
    for (int h = 0; h < 8; h += 4) { // 4 x 4 within each 128-bit half
        b[h] = _mm256_unpacklo_ps(a[h], a[h + 1]), b[h + 1] = _mm256_unpackhi_ps(a[h], a[h + 1]);
        b[h + 2] = _mm256_unpacklo_ps(a[h + 2], a[h + 3]), b[h + 3] = _mm256_unpackhi_ps(a[h + 2], a[h + 3]);
        vstore(B + size_t(h) * ldb, _mm256_shuffle_ps(b[h], b[h + 2], 0x44));
        vstore(B + size_t(h + 1) * ldb, _mm256_shuffle_ps(b[h], b[h + 2], 0xEE));
        vstore(B + size_t(h + 2) * ldb, _mm256_shuffle_ps(b[h + 1], b[h + 3], 0x44));
        vstore(B + size_t(h + 3) * ldb, _mm256_shuffle_ps(b[h + 1], b[h + 3], 0xEE));
    }
}

#define BQQ_SHORTS
typedef __m256i vs;

inline vs szero() { return _mm256_setzero_si256(); }
inline vs sload(const int16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void sstore(int16_t* p, vs a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
inline vs sadd(vs a, vs b) { return _mm256_add_epi16(a, b); }
inline vs ssub(vs a, vs b) { return _mm256_sub_epi16(a, b); }
inline vs sround(vf a, vf b) {
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b)), 0xD8);
}
inline void sfloats(vs a, vf* out) {
    out[0] = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm256_castsi256_si128(a)));
    out[1] = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm256_extracti128_si256(a, 1)));
}

} // namespace

#define BQQ_UNITS
#include "kernels/units_avx2_inl.hpp"
namespace {
using PanelWords = BytePanelWords;
}

#include "kernels/codes_avx2_inl.hpp"
#include "kernels/dense_avx2_inl.hpp"
#include "kernels/gemm_rounded_avx2_inl.hpp"
#include "kernels/lanes_inl.hpp"
#include "kernels/loops_inl.hpp"
#include "kernels/planes_avx2_inl.hpp"
#include "kernels/product_avx2_inl.hpp"

extern "C" void bqq_kernels_avx2(bqq_kernels* table) {
    fill_loops(table);
    fill_lanes(table);
    fill_shorts<Words256>(table);
    table->unit_order = kBytes;
    table->product[0] = bqq_product{tables_planes, lookup_bytes<ByteUnits, 3>};
    table->product[1] = bqq_product{tables_i8, lookup_bytes<ByteUnits, 1>};
    table->dense = dense<ByteUnits, Rows256>;
    table->unit_columns = unit_columns<ByteUnits>;
    table->search_code = search_code<Scores256>;
    table->scan = scan_wide_any<Codes256>;
    table->costs = kCostsAvx2;
}
