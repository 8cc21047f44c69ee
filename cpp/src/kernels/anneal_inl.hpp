// The kernels of the refinement in terms of a vector of floats.
#pragma once

#include "kernels/vector_inl.hpp"

namespace {

constexpr size_t kRows = 32; // whose sums are kept at a time

// c of `rows` <= kRows rows. Their sums first: one row's would be waited for.
inline void correlate_rows(const bqq_atoms& p, size_t rows, size_t ld, const float* bits, const float* X,
                           const float* x, float* c) {
    const float *all_nu = p.nu, *all_held = p.held;
    alignas(64) float slope[kRows], constant[kRows], own[kRows];
    for (size_t a = rows; a % kWidth; ++a) slope[a] = constant[a] = own[a] = 0;
    for (size_t a = 0; a < rows; ++a, bits += ld) {
        vf ones = vset(0), weighted = vset(0);
        for (size_t q = 0; q < ld; q += kPad)
            for (size_t v = q; v < q + kPad; v += kWidth) {
                const vf b = vload(bits + v);
                ones = vadd(ones, b);
                weighted = vfma(b, vload(all_nu + v), weighted);
            }
        slope[a] = vsum(ones), constant[a] = vsum(weighted), own[a] = X ? p.s * x[a] : 0;
    }
    const vf vr = vset(p.r), rr = vset(-p.r * p.r), rs = vset(-p.r * p.s), ss = vset(-p.size * p.s * p.s);
    for (size_t a = 0; a < rows; a += kWidth) {
        const vf rho = vload(slope + a);
        vstore(constant + a, vfma(rs, vload(constant + a), vfma(ss, rho, vload(own + a))));
        vstore(slope + a, vmul(rs, rho));
    }
    for (size_t a = 0; a < rows; ++a, c += ld) {
        const vf m = vset(slope[a]), first = vset(constant[a]);
        for (size_t q = 0; q < ld; q += kPad)
            for (size_t v = q; v < q + kPad; v += kWidth) {
                vf sum = vsub(vfma(m, vload(all_nu + v), first), vload(all_held + v));
                if (X) sum = vfma(vr, vload(X + a * ld + v), sum);
                vstore(c + v, vfma(rr, vload(c + v), sum));
            }
    }
}

void correlate(const bqq_atoms* atoms, size_t rows, size_t ld, const float* bits, const float* X, const float* x,
               float* c) {
    for (size_t a = 0; a < rows; a += kRows)
        correlate_rows(*atoms, rows - a < kRows ? rows - a : kRows, ld, bits + a * ld, X ? X + a * ld : nullptr,
                       X ? x + a : nullptr, c + a * ld);
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
    for (size_t q = 0; q < ld; q += kPad)
        for (size_t v = q; v < q + kPad; v += kWidth) vstore(y + v, vfma(d, vload(x + v), vload(y + v)));
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
inline void move_sums(const bqq_anneal& p, size_t ld, size_t a, size_t flips) {
    const float* bits = p.bits + a * ld;
    if (p.pairs)
        for (size_t q = 0; q < ld; q += kWidth)
            vstore(p.before + q, vmul(vset(0.5f), vadd(vload(p.before + q), vload(bits + q))));
    for (size_t i = 0; i < flips; ++i) {
        const size_t k = p.flipped[i];
        const vf d = vset(2 * bits[k] - 1);
        add_row(p.ldx, d, p.X + a * p.ldx, p.atoms + k * p.ldx);
        if (p.pairs) add_row(ld, d, p.before, p.pairs + k * ld);
    }
}

// Visits `count` bits of row a from bit g on, `flips` having flipped before. Most do not flip: one look at all of them,
// and another at those behind a flip while its step is added. Returns the flips of the row so far.
template <int count>
inline size_t visit(const bqq_anneal& p, size_t ld, size_t a, size_t g, const float* e, size_t flips) {
    float *bits = p.bits + a * ld, *c = p.c + a * ld;
    const Look look{bits + g, p.diagonal + g, e + g, c + g, vset(-p.T)};
    uint64_t wins = look.winners<count>(vset(0), nullptr);
    while (wins) {
        const unsigned lane = lowest_bit(wins);
        const size_t k = g + lane;
        if (!flips && p.pairs)
            for (size_t q = 0; q < ld; q += kWidth) vstore(p.before + q, vload(bits + q));
        const float* step = p.M + k * ld;
        const vf d = vset(1 - 2 * bits[k]);
        p.packed[(a * ld + k) / 16] ^= uint16_t(1u << k % 16);
        p.flipped[flips++] = uint32_t(k);
        wins = look.winners<count>(d, step + g) & ~uint64_t(1) << lane;
        bits[k] = 1 - bits[k]; // after the look, which would wait for a part of a vector to be stored
        if (ld == size_t(count)) continue;
        add_row(g, d, step, c);
        add_row(ld - g - count, d, step + g + count, c + g + count);
    }
    return flips;
}

// ld is `width`, or any if that is 0.
template <int width> size_t anneal_rows(const bqq_anneal& p) {
    const size_t ld = width ? width : p.ld;
    const uint32_t pool_size = uint32_t(p.pool_size);
    uint64_t state = *p.state;
    size_t total = 0;
    for (size_t a = 0; a < p.rows; ++a) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const float* e = p.pool + uint32_t(state >> 40) % pool_size;
        size_t flips = 0, g = 0;
        if (width) {
            flips = visit<width ? width : kPad>(p, ld, a, 0, e, 0);
        } else {
            for (; g + kLook <= ld; g += kLook) flips = visit<kLook>(p, ld, a, g, e, flips);
            for (; g < ld; g += kPad) flips = visit<kPad>(p, ld, a, g, e, flips);
        }
        if (flips) move_sums(p, ld, a, flips);
        total += flips;
    }
    *p.state = state;
    return total;
}

size_t anneal(const bqq_anneal* problem) {
    switch (problem->ld) {
    case 16:
        return anneal_rows<16>(*problem);
    case 32:
        return anneal_rows<32>(*problem);
    case 48:
        return anneal_rows<48>(*problem);
    case 64:
        return anneal_rows<64>(*problem);
    default:
        return anneal_rows<0>(*problem);
    }
}

void fill_anneal(bqq_kernels* table) {
    table->correlate = correlate;
    table->project = project;
    table->add_pairs = add_pairs;
    table->anneal = anneal;
}

} // namespace
