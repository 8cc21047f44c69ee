// A vector of 16-bit integers, twice as many as vf has floats: vs, with szero sload sstore sadd ssub (they wrap),
// sround(a, b) = the floats of a, then those of b, rounded (what does not fit becomes anything), sfloats(s, out) back.
// An instruction-set file with one of its own defines BQQ_SHORTS; otherwise it is this one.
#pragma once

#include "kernels/vector_inl.hpp"

#if !defined(BQQ_SHORTS)
#define BQQ_SHORTS

namespace {

struct vs {
    int16_t s[2 * kWidth];
};

inline vs szero() { return vs{}; }
inline vs sload(const int16_t* p) {
    vs r;
    for (int k = 0; k < 2 * kWidth; ++k) r.s[k] = p[k];
    return r;
}
inline void sstore(int16_t* p, vs a) {
    for (int k = 0; k < 2 * kWidth; ++k) p[k] = a.s[k];
}
inline vs sadd(vs a, vs b) {
    vs r;
    for (int k = 0; k < 2 * kWidth; ++k) r.s[k] = int16_t(uint16_t(a.s[k]) + uint16_t(b.s[k]));
    return r;
}
inline vs ssub(vs a, vs b) {
    vs r;
    for (int k = 0; k < 2 * kWidth; ++k) r.s[k] = int16_t(uint16_t(a.s[k]) - uint16_t(b.s[k]));
    return r;
}
inline vs sround(vf a, vf b) {
    float x[2 * kWidth];
    vstore(x, a), vstore(x + kWidth, b);
    vs r;
    for (int k = 0; k < 2 * kWidth; ++k) {
        const float v = x[k] < 0 ? x[k] - 0.5f : x[k] + 0.5f;
        r.s[k] = int16_t(v > -32768 && v < 32768 ? int(v) : 0); // false for NaN
    }
    return r;
}
inline void sfloats(vs a, vf* out) {
    float x[2 * kWidth];
    for (int k = 0; k < 2 * kWidth; ++k) x[k] = float(a.s[k]);
    out[0] = vload(x), out[1] = vload(x + kWidth);
}

} // namespace

#endif
