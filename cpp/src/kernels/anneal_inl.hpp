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

inline unsigned lowest_bit(uint64_t mask) {
#if defined(__GNUC__)
    return unsigned(__builtin_ctzll(mask));
#else
    unsigned lane = 0;
    while (!(mask >> lane & 1)) ++lane;
    return lane;
#endif
}

constexpr size_t kLook = 64; // bits that are looked at together

// Bit k set where flipping bit k of `count` bits would win.
inline uint64_t winners(size_t count, const float* bits, const float* c, const float* diagonal, const float* e,
                        vf cold) {
    const vf one = vset(1), minus2 = vset(-2), two = vset(2);
    uint64_t wins = 0;
    for (size_t q = 0; q < count; q += kWidth) {
        const vf d = vfma(minus2, vload(bits + q), one);
        const vf gain = vsub(vmul(vmul(two, d), vload(c + q)), vload(diagonal + q));
        wins |= uint64_t(vgreater(gain, vmul(cold, vload(e + q)))) << q;
    }
    return wins;
}

// Moves what depends on the bits of row a with its flips.
inline void move_sums(const bqq_anneal& p, size_t a, size_t flips) {
    const float* bits = p.bits + a * p.ld;
    if (p.pairs)
        for (size_t q = 0; q < p.ld; q += kWidth)
            vstore(p.before + q, vmul(vset(0.5f), vadd(vload(p.before + q), vload(bits + q))));
    for (size_t i = 0; i < flips; ++i) {
        const size_t k = p.flipped[i];
        const vf d = vset(2 * bits[k] - 1);
        add_row(p.ldx, d, p.X + a * p.ldx, p.atoms + k * p.ldx);
        if (p.pairs) add_row(p.ld, d, p.before, p.pairs + k * p.ld);
    }
}

size_t anneal(const bqq_anneal* problem) {
    const bqq_anneal& p = *problem;
    const size_t ld = p.ld;
    const vf cold = vset(-p.T);
    uint64_t state = *p.state;
    size_t total = 0;
    for (size_t a = 0; a < p.rows; ++a) {
        float *bits = p.bits + a * ld, *c = p.c + a * ld;
        state = state * 6364136223846793005u + 1442695040888963407u;
        const float* e = p.pool + uint32_t(state >> 40) % uint32_t(p.pool_size);
        size_t flips = 0;
        for (size_t g = 0; g < ld; g += kLook) {
            // Most bits do not flip: one look at many of them, and another only at those behind a flip.
            const size_t count = ld - g < kLook ? ld - g : kLook;
            uint64_t wins = winners(count, bits + g, c + g, p.diagonal + g, e + g, cold);
            while (wins) {
                const unsigned lane = lowest_bit(wins);
                const size_t k = g + lane;
                if (!flips && p.pairs)
                    for (size_t q = 0; q < ld; q += kWidth) vstore(p.before + q, vload(bits + q));
                add_row(ld, vset(1 - 2 * bits[k]), p.M + k * ld, c);
                bits[k] = 1 - bits[k];
                p.packed[a * (ld / 16) + k / 16] ^= uint16_t(1u << k % 16);
                p.flipped[flips++] = uint32_t(k);
                wins = winners(count, bits + g, c + g, p.diagonal + g, e + g, cold) & ~uint64_t(1) << lane;
            }
        }
        if (flips) move_sums(p, a, flips);
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
