// isa: generic
// level: 0
// arch: any
// cpu:
// flags: -ffp-contract=off
// msvc:
//
// Portable C++: right everywhere, the layer all others stand on. Vectors of four floats that any compiler maps to what
// it has.
#include "kernels/table.hpp"

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

#include "kernels/anneal.inl"
#include "kernels/product.inl"
#include "kernels/product_portable.inl"
#include "kernels/solver.inl"

} // namespace

extern "C" void bqq_kernels_generic(bqq_kernels* table) {
    fill_solver(table);
    fill_anneal(table);
    fill_product(table);
}
