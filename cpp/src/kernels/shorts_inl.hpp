// A vector of 16-bit integers, twice as many as vf has floats: vs, with szero sload sstore sadd ssub (they wrap),
// sround(a, b) = the floats of a, then those of b, rounded (what does not fit becomes anything), sfloats(s, out) back.
// An instruction-set file with one of its own defines BQQ_SHORTS; otherwise it is this one.
#pragma once

#include "kernels/vector_inl.hpp"

#if !defined(BQQ_SHORTS)
#define BQQ_SHORTS

namespace {

#if defined(__GNUC__)
typedef int16_t vs __attribute__((vector_size(4 * kWidth)));
typedef uint16_t vu __attribute__((vector_size(4 * kWidth)));

inline vs sadd(vs a, vs b) { return vs(vu(a) + vu(b)); }
inline vs ssub(vs a, vs b) { return vs(vu(a) - vu(b)); }
#else
struct vs {
    int16_t s[2 * kWidth];
    int16_t& operator[](int k) { return s[k]; }
    int16_t operator[](int k) const { return s[k]; }
};

inline vs sadd(vs a, vs b) {
    for (int k = 0; k < 2 * kWidth; ++k) a[k] = int16_t(uint16_t(a[k]) + uint16_t(b[k]));
    return a;
}
inline vs ssub(vs a, vs b) {
    for (int k = 0; k < 2 * kWidth; ++k) a[k] = int16_t(uint16_t(a[k]) - uint16_t(b[k]));
    return a;
}
#endif

inline vs szero() { return vs{}; }
inline vs sload(const int16_t* p) {
    vs r;
    memcpy(&r, p, sizeof r);
    return r;
}
inline void sstore(int16_t* p, vs a) { memcpy(p, &a, sizeof a); }
inline vs sround(vf a, vf b) {
    float x[2 * kWidth];
    vstore(x, a), vstore(x + kWidth, b);
    vs r;
    for (int k = 0; k < 2 * kWidth; ++k) {
        const float v = x[k] < 0 ? x[k] - 0.5f : x[k] + 0.5f;
        r[k] = int16_t(v > -32768 && v < 32768 ? int(v) : 0); // false for NaN
    }
    return r;
}
inline void sfloats(vs a, vf* out) {
    float x[2 * kWidth];
    for (int k = 0; k < 2 * kWidth; ++k) x[k] = float(a[k]);
    out[0] = vload(x), out[1] = vload(x + kWidth);
}

} // namespace

#endif
