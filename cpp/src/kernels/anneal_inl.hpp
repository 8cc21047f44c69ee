// The kernels of the refinement in terms of a vector of floats.
#pragma once

#include "kernels/vector_inl.hpp"

namespace {

void correlate(size_t rows, size_t ld, const float* bits, const float* nu, const float* held, const float* X,
               const float* x, float r, float s, float size, float* c) {
    const vf vr = vset(r), rr = vset(-r * r), rs = vset(-r * s);
    for (size_t a = 0; a < rows; ++a, bits += ld, c += ld) {
        vf ones = vset(0), weighted = vset(0);
        for (size_t q = 0; q < ld; q += kWidth) {
            const vf b = vload(bits + q);
            ones = vadd(ones, b);
            weighted = vfma(b, vload(nu + q), weighted);
        }
        const float rho = vsum(ones);
        const vf slope = vset(-r * s * rho),
                 constant = vfma(rs, vset(vsum(weighted)), vset((X ? s * x[a] : 0.0f) - size * s * s * rho));
        for (size_t q = 0; q < ld; q += kWidth) {
            vf sum = vsub(vfma(slope, vload(nu + q), constant), vload(held + q));
            if (X) sum = vfma(vr, vload(X + a * ld + q), sum);
            vstore(c + q, vfma(rr, vload(c + q), sum));
        }
    }
}

// y += d x over a row; d is 1 or -1.
inline void add_row(size_t ld, vf d, const float* x, float* y) {
    for (size_t q = 0; q < ld; q += kWidth) vstore(y + q, vfma(d, vload(x + q), vload(y + q)));
}

inline unsigned lowest_bit(unsigned mask) {
#if defined(__GNUC__)
    return unsigned(__builtin_ctz(mask));
#else
    unsigned lane = 0;
    while (!(mask >> lane & 1)) ++lane;
    return lane;
#endif
}

size_t anneal(const bqq_anneal* problem) {
    const bqq_anneal& p = *problem;
    const size_t ld = p.ld;
    const vf one = vset(1), half = vset(0.5f), minus2 = vset(-2), two = vset(2), cold = vset(-p.T);
    constexpr unsigned kLanes = (1u << (kWidth - 1)) * 2u - 1u;
    uint64_t state = *p.state;
    size_t total = 0;
    for (size_t a = 0; a < p.rows; ++a) {
        float *bits = p.bits + a * ld, *c = p.c + a * ld;
        state = state * 6364136223846793005u + 1442695040888963407u;
        const float* e = p.pool + size_t(state >> 40) % p.pool_size;
        size_t flips = 0;
        for (size_t g = 0; g < ld; g += kWidth) {
            unsigned pending = kLanes; // lanes of this group not yet visited
            do {
                // Most groups have no flip: one test for all lanes, and only a flip forces another look at the lanes
                // behind it.
                const vf d = vfma(minus2, vload(bits + g), one);
                const vf gain = vsub(vmul(vmul(two, d), vload(c + g)), vload(p.diagonal + g));
                const unsigned wins = vgreater(gain, vmul(cold, vload(e + g))) & pending;
                if (!wins) break;
                const unsigned lane = lowest_bit(wins);
                const size_t k = g + lane;
                if (!flips && p.pairs)
                    for (size_t q = 0; q < ld; q += kWidth) vstore(p.before + q, vload(bits + q));
                add_row(ld, vset(1 - 2 * bits[k]), p.M + k * ld, c);
                bits[k] = 1 - bits[k];
                p.flipped[flips++] = uint32_t(k);
                pending = (~1u << lane) & kLanes;
            } while (pending);
        }
        if (flips && p.pairs)
            for (size_t q = 0; q < ld; q += kWidth)
                vstore(p.before + q, vmul(half, vadd(vload(p.before + q), vload(bits + q))));
        for (size_t i = 0; i < flips; ++i) {
            const size_t k = p.flipped[i];
            const vf d = vset(2 * bits[k] - 1);
            add_row(p.ldx, d, p.X + a * p.ldx, p.atoms + k * p.ldx);
            if (p.pairs) add_row(ld, d, p.before, p.pairs + k * ld);
        }
        total += flips;
    }
    *p.state = state;
    return total;
}

void fill_anneal(bqq_kernels* table) {
    table->correlate = correlate;
    table->anneal = anneal;
}

} // namespace
