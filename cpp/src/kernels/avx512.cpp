// isa: avx512
// level: 20
// arch: x86_64
// cpu: avx2,fma,bmi2,f16c,avx512f,avx512bw,avx512dq,avx512vl
// flags: -mavx2 -mfma -mbmi2 -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl
// msvc: /arch:AVX512
//
// AVX-512: 32 registers of 16 floats. 12 x 2 accumulators; the broadcast of A rides inside the FMA.
//   vfmadd231ps zmm, m32{1to16}    latency 4, 1 to 2 per cycle
#include "kernels/table.h"

#if defined(__GNUC__) && !defined(__clang__)
// gcc bug 105593: the "undefined" operands inside its own intrinsics
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

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

#include "kernels/product.inl"
#include "kernels/product_avx512.inl"
#include "kernels/solver.inl"

} // namespace

extern "C" void bqq_kernels_avx512(bqq_kernels* table) {
    fill_solver(table);
    fill_product(table);
}
