// The vector of floats that the portable kernels are written over:
//   vf, kWidth                   the vector and its floats (a divisor of kPad)
//   kTileRows, kTileVectors      accumulators of the product tile
//   vload vstore vset vadd vsub vmul vfma(a,b,c)=ab+c vmin vmax vabs vsum vmaxof vhead(v,k)=first k lanes, rest 0
//   vgreater(a,b)                bit k set where lane k of a exceeds lane k of b
//   vtranspose(A,lda,B,ldb)      B[j,i] = A[i,j] for a block of kWidth x kWidth
// An instruction-set file that has one of its own defines BQQ_VECTOR before it includes a kernel. Otherwise, as when a
// header is read alone, it is this one: four floats that any compiler maps to what it has.
//
// Headers NAME_inl.hpp are the kernels' sources. They put all into the anonymous namespace, so that each file that
// includes them has its own, and include what they need. One whose name ends in an instruction set (NAME_avx2_inl.hpp)
// needs its flags; the others take any. tests/cpp compiles every one of them alone.
#pragma once

#include "kernels/table.hpp"

#if !defined(BQQ_VECTOR)
#define BQQ_VECTOR

namespace {

struct vf {
    float f[4];
};
constexpr int kWidth = 4, kTileRows = 4, kTileVectors = 2;

#define BQQ_LANES(expression)                                                                                          \
    vf r;                                                                                                              \
    for (int k = 0; k < 4; ++k) r.f[k] = (expression);                                                                 \
    return r

inline vf vload(const float* p) { BQQ_LANES(p[k]); }
inline void vstore(float* p, vf a) {
    for (int k = 0; k < 4; ++k) p[k] = a.f[k];
}
inline vf vset(float a) { BQQ_LANES(a); }
inline vf vadd(vf a, vf b) { BQQ_LANES(a.f[k] + b.f[k]); }
inline vf vsub(vf a, vf b) { BQQ_LANES(a.f[k] - b.f[k]); }
inline vf vmul(vf a, vf b) { BQQ_LANES(a.f[k] * b.f[k]); }
inline vf vfma(vf a, vf b, vf c) { BQQ_LANES(a.f[k] * b.f[k] + c.f[k]); }
inline vf vmin(vf a, vf b) { BQQ_LANES(a.f[k] < b.f[k] ? a.f[k] : b.f[k]); }
inline vf vmax(vf a, vf b) { BQQ_LANES(a.f[k] > b.f[k] ? a.f[k] : b.f[k]); }
inline vf vabs(vf a) { BQQ_LANES(a.f[k] < 0 ? -a.f[k] : a.f[k]); }
inline vf vhead(vf a, size_t n) { BQQ_LANES(size_t(k) < n ? a.f[k] : 0.0f); }
inline unsigned vgreater(vf a, vf b) {
    unsigned mask = 0;
    for (int k = 0; k < 4; ++k) mask |= unsigned(a.f[k] > b.f[k]) << k;
    return mask;
}
inline float vsum(vf a) { return (a.f[0] + a.f[2]) + (a.f[1] + a.f[3]); }
inline float vmaxof(vf a) {
    const vf b = vmax(a, vf{{a.f[2], a.f[3], a.f[0], a.f[1]}});
    return b.f[0] > b.f[1] ? b.f[0] : b.f[1];
}
inline void vtranspose(const float* A, size_t lda, float* B, size_t ldb) {
    for (int i = 0; i < kWidth; ++i)
        for (int j = 0; j < kWidth; ++j) B[size_t(j) * ldb + size_t(i)] = A[size_t(i) * lda + size_t(j)];
}

#undef BQQ_LANES

} // namespace

#endif
