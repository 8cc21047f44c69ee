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

#include <string.h>

#if !defined(BQQ_VECTOR)
#define BQQ_VECTOR

namespace {

constexpr int kWidth = 4, kTileRows = 4, kTileVectors = 2;

#if defined(__GNUC__)
typedef float vf __attribute__((vector_size(4 * kWidth))); // a struct of floats comes to lie in memory too often

inline vf vset(float a) { return vf{a, a, a, a}; }
inline vf vadd(vf a, vf b) { return a + b; }
inline vf vsub(vf a, vf b) { return a - b; }
inline vf vmul(vf a, vf b) { return a * b; }
inline vf vfma(vf a, vf b, vf c) { return a * b + c; }
inline vf vmin(vf a, vf b) { return a < b ? a : b; }
inline vf vmax(vf a, vf b) { return a > b ? a : b; }
inline vf vabs(vf a) { return a < vset(0) ? -a : a; }
#else
struct vf {
    float f[kWidth];
    float& operator[](int k) { return f[k]; }
    float operator[](int k) const { return f[k]; }
};

#define BQQ_LANES(expression)                                                                                          \
    vf r;                                                                                                              \
    for (int k = 0; k < kWidth; ++k) r[k] = (expression);                                                              \
    return r

inline vf vset(float a) { BQQ_LANES(a); }
inline vf vadd(vf a, vf b) { BQQ_LANES(a[k] + b[k]); }
inline vf vsub(vf a, vf b) { BQQ_LANES(a[k] - b[k]); }
inline vf vmul(vf a, vf b) { BQQ_LANES(a[k] * b[k]); }
inline vf vfma(vf a, vf b, vf c) { BQQ_LANES(a[k] * b[k] + c[k]); }
inline vf vmin(vf a, vf b) { BQQ_LANES(a[k] < b[k] ? a[k] : b[k]); }
inline vf vmax(vf a, vf b) { BQQ_LANES(a[k] > b[k] ? a[k] : b[k]); }
inline vf vabs(vf a) { BQQ_LANES(a[k] < 0 ? -a[k] : a[k]); }

#undef BQQ_LANES
#endif

inline vf vload(const float* p) {
    vf r;
    memcpy(&r, p, sizeof r);
    return r;
}
inline void vstore(float* p, vf a) { memcpy(p, &a, sizeof a); }
inline vf vhead(vf a, size_t n) {
    for (int k = 0; k < kWidth; ++k) a[k] = size_t(k) < n ? a[k] : 0.0f;
    return a;
}
inline unsigned vgreater(vf a, vf b) {
    unsigned mask = 0;
    for (int k = 0; k < kWidth; ++k) mask |= unsigned(a[k] > b[k]) << k;
    return mask;
}
inline float vsum(vf a) { return (a[0] + a[2]) + (a[1] + a[3]); }
inline float vmaxof(vf a) {
    const vf b = vmax(a, vf{a[2], a[3], a[0], a[1]});
    return b[0] > b[1] ? b[0] : b[1];
}
inline void vtranspose(const float* A, size_t lda, float* B, size_t ldb) {
    for (int i = 0; i < kWidth; ++i)
        for (int j = 0; j < kWidth; ++j) B[size_t(j) * ldb + size_t(i)] = A[size_t(i) * lda + size_t(j)];
}

} // namespace

#endif
