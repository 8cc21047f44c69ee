// The kernels of the refinement in terms of a vector of floats.
#pragma once

#include "kernels/vector_inl.hpp"

namespace {

// R rows, for which what they share is loaded once.
template <int R> inline void correlate_rows(const bqq_atoms& p, size_t ld, const float* bits, const float* X,
                                            const float* x, float* c) {
    const vf vr = vset(p.r), rr = vset(-p.r * p.r), rs = vset(-p.r * p.s);
    vf ones[R], weighted[R], slope[R], constant[R];
    for (int i = 0; i < R; ++i) ones[i] = weighted[i] = vset(0);
    for (size_t q = 0; q < ld; q += kWidth) {
        const vf nu = vload(p.nu + q);
        for (int i = 0; i < R; ++i) {
            const vf b = vload(bits + size_t(i) * ld + q);
            ones[i] = vadd(ones[i], b);
            weighted[i] = vfma(b, nu, weighted[i]);
        }
    }
    for (int i = 0; i < R; ++i) {
        const float rho = vsum(ones[i]);
        slope[i] = vset(-p.r * p.s * rho);
        const vf own = vfma(vset(-p.size * p.s * p.s), vset(rho), vset(X ? p.s * x[i] : 0));
        constant[i] = vfma(rs, vset(vsum(weighted[i])), own);
    }
    for (size_t q = 0; q < ld; q += kWidth) {
        const vf nu = vload(p.nu + q), held = vload(p.held + q);
        for (int i = 0; i < R; ++i) {
            vf sum = vsub(vfma(slope[i], nu, constant[i]), held);
            if (X) sum = vfma(vr, vload(X + size_t(i) * ld + q), sum);
            float* at = c + size_t(i) * ld + q;
            vstore(at, vfma(rr, vload(at), sum));
        }
    }
}

void correlate(const bqq_atoms* atoms, size_t rows, size_t ld, const float* bits, const float* X, const float* x,
               float* c) {
    constexpr int R = 4;
    size_t a = 0;
    for (; a + R <= rows; a += R)
        correlate_rows<R>(*atoms, ld, bits + a * ld, X ? X + a * ld : nullptr, X ? x + a : nullptr, c + a * ld);
    for (; a < rows; ++a)
        correlate_rows<1>(*atoms, ld, bits + a * ld, X ? X + a * ld : nullptr, X ? x + a : nullptr, c + a * ld);
}

template <int V> inline void project_of(size_t rows, size_t ld, const float* bits, const float* X, const float* x,
                                        float* sums, float* dots) {
    vf sum[V], dot[V];
    for (int v = 0; v < V; ++v) sum[v] = vload(sums + v * kWidth), dot[v] = vload(dots + v * kWidth);
    for (size_t a = 0; a < rows; ++a, bits += ld, X += ld) {
        const vf xa = vset(x[a]);
        for (int v = 0; v < V; ++v) {
            const vf b = vload(bits + v * kWidth);
            sum[v] = vfma(xa, b, sum[v]);
            dot[v] = vfma(b, vload(X + v * kWidth), dot[v]);
        }
    }
    for (int v = 0; v < V; ++v) vstore(sums + v * kWidth, sum[v]), vstore(dots + v * kWidth, dot[v]);
}

void project(size_t rows, size_t ld, const float* bits, const float* X, const float* x, float* sums, float* dots) {
    constexpr int kVectors = kPad / kWidth, kTwo = kVectors < 4 ? 2 * kVectors : kVectors;
    size_t q = 0;
    for (; q + kTwo * kWidth <= ld; q += kTwo * kWidth)
        project_of<kTwo>(rows, ld, bits + q, X + q, x, sums + q, dots + q);
    if (q < ld) project_of<kVectors>(rows, ld, bits + q, X + q, x, sums + q, dots + q);
}

void add_pairs(size_t ld, float* pairs, float* gram, const float* other, float* sums, float* dots) {
    float turned[kWidth * kWidth];
    for (size_t j = 0; j < ld; j += kWidth) {
        vf sum = vset(0), dot = sum;
        for (size_t i = 0; i < ld; i += kWidth) {
            vtranspose(pairs + j * ld + i, ld, turned, kWidth);
            for (size_t k = 0; k < size_t(kWidth); ++k) {
                const size_t at = (i + k) * ld + j;
                const vf now = vadd(vload(gram + at), vadd(vload(pairs + at), vload(turned + k * kWidth)));
                vstore(gram + at, now);
                sum = vadd(sum, now);
                dot = vfma(vset(1), vmul(now, vload(other + at)), dot);
            }
        }
        vstore(sums + j, sum), vstore(dots + j, dot);
    }
    for (size_t i = 0; i < ld * ld; i += kWidth) vstore(pairs + i, vset(0));
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

// Bits of a row that are looked at together.
constexpr int kLook = 64;

// A row's correlations and the bits whose flips would win, of `count` <= kLook bits from p.
struct Look {
    const float *bits, *diagonal, *e;
    float* c;
    vf cold;

    // Bit k set where a flip would win after c += d x.
    template <int count> inline uint64_t winners(vf d, const float* x) const {
        const vf one = vset(1), minus2 = vset(-2), two = vset(2);
        uint64_t wins = 0;
        for (int q = 0; q < count; q += kWidth) {
            vf now = vload(c + q);
            if (x) {
                now = vfma(d, vload(x + q), now);
                vstore(c + q, now);
            }
            const vf gain = vsub(vmul(vmul(two, vfma(minus2, vload(bits + q), one)), now), vload(diagonal + q));
            wins |= uint64_t(vgreater(gain, vmul(cold, vload(e + q)))) << q;
        }
        return wins;
    }
};

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

// Visits `count` bits of row a from bit g on, `flips` having flipped before. Most do not flip: one look at all of them,
// and another at those behind a flip while its step is added. Returns the flips of the row so far.
template <int count> size_t visit(const bqq_anneal& p, size_t a, size_t g, const float* e, size_t flips) {
    float *bits = p.bits + a * p.ld, *c = p.c + a * p.ld;
    const Look look{bits + g, p.diagonal + g, e + g, c + g, vset(-p.T)};
    uint64_t wins = look.winners<count>(vset(0), nullptr);
    while (wins) {
        const unsigned lane = lowest_bit(wins);
        const size_t k = g + lane;
        if (!flips && p.pairs)
            for (size_t q = 0; q < p.ld; q += kWidth) vstore(p.before + q, vload(bits + q));
        const float* step = p.M + k * p.ld;
        const vf d = vset(1 - 2 * bits[k]);
        p.packed[(a * p.ld + k) / 16] ^= uint16_t(1u << k % 16);
        p.flipped[flips++] = uint32_t(k);
        wins = look.winners<count>(d, step + g) & ~uint64_t(1) << lane;
        bits[k] = 1 - bits[k]; // after the look, which would wait for a part of a vector to be stored
        add_row(g, d, step, c);
        add_row(p.ld - g - count, d, step + g + count, c + g + count);
    }
    return flips;
}

size_t anneal(const bqq_anneal* problem) {
    const bqq_anneal& p = *problem;
    uint64_t state = *p.state;
    size_t total = 0;
    for (size_t a = 0; a < p.rows; ++a) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const float* e = p.pool + uint32_t(state >> 40) % uint32_t(p.pool_size);
        size_t flips = 0;
        for (size_t g = 0; g < p.ld; g += kLook) switch (p.ld - g) {
            case 16: flips = visit<16>(p, a, g, e, flips); break;
            case 32: flips = visit<32>(p, a, g, e, flips); break;
            case 48: flips = visit<48>(p, a, g, e, flips); break;
            default: flips = visit<64>(p, a, g, e, flips);
            }
        if (flips) move_sums(p, a, flips);
        total += flips;
    }
    *p.state = state;
    return total;
}

void fill_anneal(bqq_kernels* table) {
    table->correlate = correlate;
    table->project = project;
    table->add_pairs = add_pairs;
    table->anneal = anneal;
}

} // namespace
