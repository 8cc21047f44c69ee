// isa: neon
// level: 10
// arch: aarch64
// cpu: neon
//
// Advanced SIMD of ARMv8.0: 32 registers of 4 floats, part of every aarch64 baseline.
//   fmla v.4s    latency 4, 2 per cycle
#include "kernels/table.hpp"

#include <arm_neon.h>

#define BQQ_VECTOR
namespace {

typedef float32x4_t vf;
constexpr int kWidth = 4, kTileRows = 6, kTileVectors = 4;

inline vf vload(const float* p) { return vld1q_f32(p); }
inline void vstore(float* p, vf a) { vst1q_f32(p, a); }
inline vf vset(float a) { return vdupq_n_f32(a); }
inline vf vadd(vf a, vf b) { return vaddq_f32(a, b); }
inline vf vsub(vf a, vf b) { return vsubq_f32(a, b); }
inline vf vmul(vf a, vf b) { return vmulq_f32(a, b); }
inline vf vfma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
inline vf vmin(vf a, vf b) { return vminq_f32(a, b); }
inline vf vmax(vf a, vf b) { return vmaxq_f32(a, b); }
inline vf vabs(vf a) { return vabsq_f32(a); }
inline vf vhead(vf a, size_t n) {
    const uint32_t lanes[4] = {0, 1, 2, 3};
    const uint32x4_t keep = vcltq_u32(vld1q_u32(lanes), vdupq_n_u32(uint32_t(n)));
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a), keep));
}
inline unsigned vgreater(vf a, vf b) {
    const uint32_t weights[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vcgtq_f32(a, b), vld1q_u32(weights)));
}
inline float vsum(vf a) { return vaddvq_f32(a); }
inline float vmaxof(vf a) { return vmaxvq_f32(a); }
inline void vtranspose(const float* A, size_t lda, float* B, size_t ldb) {
    const float32x4x2_t low = vtrnq_f32(vload(A), vload(A + lda)),
                        high = vtrnq_f32(vload(A + 2 * lda), vload(A + 3 * lda));
    vstore(B, vcombine_f32(vget_low_f32(low.val[0]), vget_low_f32(high.val[0])));
    vstore(B + ldb, vcombine_f32(vget_low_f32(low.val[1]), vget_low_f32(high.val[1])));
    vstore(B + 2 * ldb, vcombine_f32(vget_high_f32(low.val[0]), vget_high_f32(high.val[0])));
    vstore(B + 3 * ldb, vcombine_f32(vget_high_f32(low.val[1]), vget_high_f32(high.val[1])));
}

#define BQQ_SHORTS
typedef int16x8_t vs;

inline vs szero() { return vdupq_n_s16(0); }
inline vs sload(const int16_t* p) { return vld1q_s16(p); }
inline void sstore(int16_t* p, vs a) { vst1q_s16(p, a); }
inline vs sadd(vs a, vs b) { return vaddq_s16(a, b); }
inline vs ssub(vs a, vs b) { return vsubq_s16(a, b); }
inline vs sround(vf a, vf b) { return vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(a)), vqmovn_s32(vcvtnq_s32_f32(b))); }
inline void sfloats(vs a, vf* out) {
    out[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(a)));
    out[1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(a)));
}

} // namespace

#include "kernels/codes_inl.hpp"
#include "kernels/lanes_inl.hpp"
#include "kernels/loops_inl.hpp"
#include "kernels/product_portable_inl.hpp"

extern "C" void bqq_kernels_neon(bqq_kernels* table) {
    fill_loops(table);
    fill_lanes(table);
    fill_product(table);
    table->search_code = search_code<PlainScores>;
    table->scan = scan_plain;
    table->costs = kCostsGeneric;
}
