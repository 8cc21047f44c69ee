// The parts of a pass of the refinement: what the rows see, their sweep, what follows their flips, the scales. What the
// compiler knows to be in shared memory: near = 0: nothing; 1: bits, C, counts; 2: atoms and X too.
#pragma once

#include "block.cuh"
#include "refine.cuh"
#include "solve4.cuh"

namespace bqq::cuda {

/// x -> a x + c, modulo 2^64.
struct Jump {
    unsigned long long a, c;
    __device__ __forceinline__ unsigned long long operator()(unsigned long long x) const { return a * x + c; }
};

/// `count` steps of the generator that places the rows' windows in the pool.
__device__ inline Jump steps_of_generator(int count) {
    Jump all{1, 0}, power{6364136223846793005ull, 1442695040888963407ull};
    for (; count; count >>= 1) {
        if (count & 1) all = {all.a * power.a, power(all.c)};
        power = {power.a * power.a, power(power.c)};
    }
    return all;
}

/// One side of the factorisation: `count` rows of bits (Y, or Z transposed), and what the other side makes of X.
struct RefineSide {
    int count, words, ld;          // rows; words of a row; floats of a row of atoms
    int i_step, j_step;            // X of row i and the other side's row j: X[i * i_step + j * j_step]
    std::uint32_t *bits, *columns; // count x words; l x bit_rows, the transpose
    const float *X, *X_sum;
    std::uint32_t* counts; // <column k, column q>: RefineView
    float *nu, *atoms;     // l: <column k, 1>; l x ld: sum_j other_jk X_ij
    int *ones, *next_ones; // l: <column k, row sums>; 0: where the next ones are added up
};

/// A patch at work. Counts are pairs of bfloat16: those of bit j % 32 < 16 and, above it, j + 16, sixteen pairs for a
/// word of bits, so that four neighbouring words are a fragment of the tensor cores: rows k and k + 8 beside each
/// other, pairs t and t + 4, then t of the next four. The halves of a word are exchanged in odd rows, for the banks'
/// sake. Behind the `tall` rows are the counts of each column with itself, the same as nu. Counts beyond 256 lie in two
/// planes, of eight bits each.
struct RefineShape {
    int l, words, bit_rows, tall, ld_c, planes;

    __device__ __forceinline__ int group(int k, int w) const { // where word w of row k of counts begins
        return ((k / 16 * 8 + k % 8) * words + w) * 32 + k / 8 % 2;
    }
    __device__ __forceinline__ int nu_group(int w) const { return (tall * words + w) * 16; }
    __device__ __forceinline__ int plane() const { return (tall + 1) * words * 16; }
};
struct RefineView : RefineShape {
    RefineSide y, z;
    std::uint32_t* changed;                 // l x bit_rows: of the columns of the side that is swept
    float *C, *held, *slope, *shift, *diag; // C: rows x ld_c; l each
    const float* pool;
};

/// Where the pair of bit j is in its word of row k; of nu.
__device__ __forceinline__ int place_of(int k, int j) { return (j / 8 ^ k) % 2 * 16 + j % 4 * 4 + j / 4 % 2 * 2; }
__device__ __forceinline__ int nu_place_of(int j) { return j / 8 % 2 * 8 + j % 4 * 2 + j / 4 % 2; }
__device__ __forceinline__ float low_of(std::uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_of(std::uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); }

__device__ __forceinline__ int bits_in(const std::uint32_t* words, int count) {
    int sum = 0;
#pragma unroll 1
    for (int w = 0; w < count; ++w) sum += __popc(words[w]);
    return sum;
}

// ---- columns, atoms, counts; a warp has columns of its own ----

/// The columns of a side's bits.
__device__ inline void make_columns(const RefineView& p, const RefineSide& side) {
    const int lane = lane_of_thread();
    for (int k = warp_of_thread(); k < p.l; k += warps_of_block())
        for (int first = 0; first < side.count; first += 32) {
            const int at = (first + lane) * p.words + k / 32;
            const unsigned column =
                __ballot_sync(full_warp, int(first + lane < side.count ? side.bits[at] >> (k % 32) & 1u : 0u));
            if (lane == 0) side.columns[k * p.bit_rows + first / 32] = column;
        }
}

/// What the changed bits of a side add to the other side's atoms, in the order of its rows; no change is left.
template <int near>
__device__ inline void move_atoms(const RefineView& p, const RefineSide& side, const RefineSide& other) {
    const RefineShape a = p;
    const int lane = lane_of_thread(), words = words_of(side.count), count = other.count, i_step = side.i_step,
              j_step = side.j_step, ld = other.ld;
    const std::uint32_t* columns = known<(near > 0)>(side.columns);
    std::uint32_t* changed = known<(near > 0)>(p.changed);
    const float* X = known<(near > 1)>(side.X);
    float* all_atoms = known<(near > 1)>(other.atoms);
    for (int k = warp_of_thread(); k < a.l; k += warps_of_block()) {
        const int column = k * a.bit_rows;
        float* atoms = all_atoms + k * ld;
        for (int from = 0; from < words; from += 32) {
            const bool inside = from + lane < words;
            const std::uint32_t mine = inside ? changed[column + from + lane] : 0u,
                                set = inside ? columns[column + from + lane] : 0u;
            const unsigned some = __ballot_sync(full_warp, mine != 0);
            if (!some) continue;
            if (mine) changed[column + from + lane] = 0;
            for (int base = 0; base < count; base += 128) {
                const int j0 = base + lane;
                float sum[4];
#pragma unroll
                for (int u = 0; u < 4; ++u) sum[u] = j0 + 32 * u < count ? atoms[j0 + 32 * u] : 0.0f;
                for (unsigned rest = some; rest; rest &= rest - 1) {
                    const int w = __ffs(int(rest)) - 1;
                    const unsigned column_word = __shfl_sync(full_warp, set, w);
                    for (unsigned bits = __shfl_sync(full_warp, mine, w); bits; bits &= bits - 1) {
                        const int i = __ffs(int(bits)) - 1;
                        const float d = column_word >> i & 1u ? 1.0f : -1.0f;
                        const float* x = X + (32 * (from + w) + i) * i_step + j0 * j_step;
#pragma unroll
                        for (int u = 0; u < 4; ++u)
                            if (j0 + 32 * u < count) sum[u] = fmaf(d, x[32 * u * j_step], sum[u]);
                    }
                }
#pragma unroll
                for (int u = 0; u < 4; ++u)
                    if (j0 + 32 * u < count) atoms[j0 + 32 * u] = sum[u];
            }
        }
    }
}

/// The atoms that a side's bits make, anew.
template <int near>
__device__ inline void make_atoms(const RefineView& p, const RefineSide& side, const RefineSide& other) {
    for (int k = warp_of_thread(); k < p.l; k += warps_of_block()) {
        for (int j = lane_of_thread(); j < other.count; j += 32) other.atoms[k * other.ld + j] = 0;
        for (int w = lane_of_thread(); w < words_of(side.count); w += 32)
            p.changed[k * p.bit_rows + w] = side.columns[k * p.bit_rows + w];
    }
    __syncwarp();
    move_atoms<near>(p, side, other);
    __syncwarp();
}

/// The pair counts of a side, nu and ones (added to next_ones). Returns this thread's part of <counts, the other's>,
/// exact.
template <int near>
__device__ inline unsigned long long count_pairs(const RefineView& p, const RefineSide& side, const RefineSide& other) {
    const RefineShape s = p;
    const int lane = lane_of_thread(), g = lane / 4, t = lane % 4, words = words_of(side.count), plane = s.plane();
    const bool two = s.planes > 1, small = double(side.count) * double(other.count) <= double(1 << 21);
    const std::uint32_t *columns = known<(near > 0)>(side.columns), *others = known<(near > 0)>(other.counts);
    std::uint32_t* counts = known<(near > 0)>(side.counts);
    float* nu = known<(near > 0)>(side.nu);
    int* ones = known<(near > 0)>(side.next_ones);
    unsigned long long all = 0;
    // 16 rows k; columns q from 8 half on of a word, and those 16 further on
    int first = 0, part = warp_of_thread();
    for (;; part += warps_of_block()) {
        for (; part >= 2 * s.words; part -= 2 * s.words) first += 16;
        if (first >= s.tall) break;
        const int half = part % 2, w = part / 2, k = first + g, q = 32 * w + 8 * half + g;
        int low[4] = {}, high[4] = {};
#pragma unroll 1
        for (int from = 0; from < words; from += 4) {
            const int i = from + t;
            const auto word = [&](int of) { return of < s.l && i < words ? columns[of * s.bit_rows + i] : 0u; };
            const std::uint32_t a[2] = {word(k), word(k + 8)};
            mma_bits(low, a, word(q)), mma_bits(high, a, word(q + 16));
        }
        float product = 0;
        double large = 0;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int row = k + e / 2 * 8, j = 8 * half + 2 * t + e % 2, at = s.group(row, w) + place_of(row, j);
            std::uint32_t there = others[at];
            float of_low = low_of(there), of_high = high_of(there);
            if (two) {
                there = others[plane + at];
                of_low = fmaf(256.0f, low_of(there), of_low), of_high = fmaf(256.0f, high_of(there), of_high);
                counts[at] = pack_bf16(float(low[e] & 255), float(high[e] & 255));
                counts[plane + at] = pack_bf16(float(low[e] >> 8), float(high[e] >> 8));
            } else {
                counts[at] = pack_bf16(float(low[e]), float(high[e]));
            }
            if (small)
                product = fmaf(float(low[e]), of_low, fmaf(float(high[e]), of_high, product));
            else
                large += double(low[e]) * double(of_low) + double(high[e]) * double(of_high);
            const bool is_low = row == 32 * w + j, is_high = row == 32 * w + j + 16;
            if ((is_low || is_high) && row < s.l) {
                const int own = is_low ? low[e] : high[e];
                nu[row] = float(own);
                std::uint16_t* diagonal =
                    reinterpret_cast<std::uint16_t*>(counts + s.nu_group(w) + nu_place_of(j)) + is_high;
                *diagonal = float_to_bf16(float(two ? own & 255 : own));
                if (two) diagonal[2 * plane] = float_to_bf16(float(own >> 8));
            }
        }
        all += small ? (unsigned long long)(unsigned(product)) : (unsigned long long)(large);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            int sum = low[2 * e] + low[2 * e + 1] + high[2 * e] + high[2 * e + 1];
            sum += __shfl_xor_sync(full_warp, sum, 1);
            sum += __shfl_xor_sync(full_warp, sum, 2);
            if (t == 0 && k + 8 * e < s.l) atomicAdd(&ones[k + 8 * e], sum);
        }
    }
    return all;
}

// ---- the rows ----

template <int near, bool two>
__device__ __forceinline__ void multiply_planes(const RefineView& p, const RefineSide& side, const RefineSide& other) {
    const RefineShape s = p;
    const int lane = lane_of_thread(), g = lane / 4, t = lane % 4, words = s.words, plane = s.plane(),
              count = side.count, half = g % 2 * 16;
    constexpr int tiles = two ? 3 : 5; // of 16 columns, beside each other; five are all for l <= 64
    const std::uint32_t *bits = known<(near > 0)>(side.bits), *counts = known<(near > 0)>(other.counts),
                        *own = counts + g * words * 32 + 4 * t;
    float* C = known<(near > 0)>(p.C);
    const auto multiply = [](float (&sum)[4], const uint4& x, std::uint32_t b0, std::uint32_t b1) {
        const std::uint32_t a[4] = {x.x, x.y, x.z, x.w}, b[2] = {b0, b1};
        mma_bf16(sum, a, b);
    };
    for (int first = 8 * warp_of_thread(); first < count; first += 8 * warps_of_block()) {
        for (int tile = 0; tile <= s.tall; tile += 16 * tiles) { // the last one is nu
            float sum[1 + two][tiles][4] = {};
#pragma unroll 1
            for (int w = 0; w < words; ++w) {
                const std::uint32_t word = first + g < count ? bits[(first + g) * words + w] >> t : 0u;
                const std::uint32_t b0 = (word & 0x10001u) * 0x3F80u, b1 = (word & 0x100010u) * 0x3F8u,
                                    b2 = (word >> 8 & 0x10001u) * 0x3F80u, b3 = (word >> 8 & 0x100010u) * 0x3F8u;
#pragma unroll
                for (int v = 0; v < tiles; ++v) {
                    const int k = tile + 16 * v;
                    if (k > s.tall) break;
#pragma unroll
                    for (int of = 0; of < 1 + two; ++of)
                        if (k < s.tall) {
                            const std::uint32_t* at = own + of * plane + s.group(k, w);
                            multiply(sum[of][v], *reinterpret_cast<const uint4*>(at + half), b0, b1);
                            multiply(sum[of][v], *reinterpret_cast<const uint4*>(at + 16 - half), b2, b3);
                        } else { // in the first row alone
                            const std::uint32_t* at = counts + of * plane + s.nu_group(w) + 2 * t;
                            const uint2 x = *reinterpret_cast<const uint2*>(at),
                                        y = *reinterpret_cast<const uint2*>(at + 8);
                            multiply(sum[of][v], {g ? 0u : x.x, 0, g ? 0u : x.y, 0}, b0, b1);
                            multiply(sum[of][v], {g ? 0u : y.x, 0, g ? 0u : y.y, 0}, b2, b3);
                        }
                }
            }
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int row = first + 2 * t + e;
                if (row >= count) break;
                float* to = C + row * s.ld_c + tile + g;
#pragma unroll
                for (int v = 0; v < tiles; ++v) {
                    const int k = tile + 16 * v;
                    const auto value = [&](int i) {
                        return two ? fmaf(256.0f, sum[two][v][i], sum[0][v][i]) : sum[0][v][i];
                    };
                    if (k < s.tall)
                        to[16 * v] = value(e), to[16 * v + 8] = value(e + 2);
                    else if (k == s.tall && g == 0)
                        to[16 * v] = value(e);
                }
            }
        }
    }
}

/// C = bits N, and behind its last column bits nu, on tensor cores, exactly. A warp makes the rows that it sweeps.
template <int near>
__device__ inline void multiply_counts(const RefineView& p, const RefineSide& side, const RefineSide& other) {
    if (p.planes > 1)
        multiply_planes<near, true>(p, side, other);
    else
        multiply_planes<near, false>(p, side, other);
}

/// What all rows of a sweep meet: scales, temperature; a, b: -r r, -r s, rounded once.
struct SweepScales {
    float r, s, T, a, b;
};
struct Sweep : SweepScales {
    unsigned long long random; // before a lane's first row
    Jump stride;               // to its next one
};

/// The count of bits k and 32 u + lane.
__device__ __forceinline__ float count_of(const RefineShape& s, const std::uint32_t* counts, int k, int u) {
    const std::uint32_t* pair = counts + s.group(k, u) + place_of(k, lane_of_thread());
    const std::uint32_t half = lane_of_thread() < 16 ? 0x1044u : 0x3244u; // as a float
    const float low = __uint_as_float(__byte_perm(pair[0], 0, half));
    return s.planes > 1 ? fmaf(256.0f, __uint_as_float(__byte_perm(pair[s.plane()], 0, half)), low) : low;
}

/// What a lane has of the row at work: the correlations of bits lane, lane + 32, ... in registers; W words at most.
template <int W, int near> struct SweptRow {
    RefineShape shape;
    const std::uint32_t* counts;
    std::uint32_t *bits, *columns, *changed;
    const float *nu, *pool, *C[W], *atoms[W]; // C, atoms: of its bits
    unsigned q[W];
    float r, rr, a, b, T, slope[W], held[W], shift[W], diag[W], c[W], e[W], bar[W];
    std::uint32_t word[W], mine;

    __device__ __forceinline__ SweptRow(const RefineView& p, const RefineSide& side, const RefineSide& other,
                                        const Sweep& o)
        : shape(p), counts(known<(near > 0)>(other.counts)), bits(known<(near > 0)>(side.bits)),
          columns(known<(near > 0)>(side.columns)), changed(known<(near > 0)>(p.changed)),
          nu(known<(near > 0)>(other.nu)), pool(p.pool), r(o.r), rr(-o.r * o.r), a(o.a), b(o.b), T(o.T),
          mine(1u << lane_of_thread()) {
#pragma unroll
        for (int v = 0; v < W; ++v) {
            const int bit = 32 * v + lane_of_thread(), at = min(bit, shape.l - 1);
            slope[v] = known<(near > 0)>(p.slope)[at], held[v] = known<(near > 0)>(p.held)[at];
            shift[v] = known<(near > 0)>(p.shift)[at];
            diag[v] = bit == at ? known<(near > 0)>(p.diag)[at] : __uint_as_float(0x7F800000u); // never wins
            C[v] = known<(near > 0)>(p.C + at), atoms[v] = known<(near > 1)>(side.atoms + at * side.ld);
            q[v] = unsigned(at);
        }
    }
    __device__ __forceinline__ int words() const { return W == 1 ? 1 : shape.words; }
    /// The exponential numbers of the row that is loaded next.
    __device__ __forceinline__ void fetch(unsigned window) {
#pragma unroll
        for (int v = 0; v < W; ++v) e[v] = pool[window + q[v]];
    }
    /// False: no bit wins.
    __device__ __forceinline__ bool load(int row, float rho, float constant) {
        bool some = false;
#pragma unroll
        for (int v = 0; v < W; ++v) {
            word[v] = v == 0 || v < shape.words ? bits[row * words() + v] : 0u;
            const float sum = fmaf(slope[v], rho, constant) - held[v];
            c[v] = fmaf(rr, C[v][row * shape.ld_c], fmaf(r, atoms[v][row], sum));
            bar[v] = -T * e[v];
            some |= wins(v);
        }
        return __any_sync(full_warp, some);
    }
    __device__ __forceinline__ bool wins(int v) const {
        const float d = word[v] & mine ? -1.0f : 1.0f;
        return 2 * d * c[v] - diag[v] > bar[v];
    }
    __device__ __forceinline__ void flip(int v, int at) {
        const float step = word[v] >> at & 1u ? -1.0f : 1.0f, of_nu = nu[32 * v + at];
#pragma unroll
        for (int u = 0; u < W; ++u)
            if (W == 1 || u < shape.words) {
                const float m = fmaf(a, count_of(shape, counts, 32 * v + at, u), fmaf(b, of_nu, shift[u]));
                c[u] = fmaf(step, m, c[u]);
            }
        word[v] ^= 1u << at;
    }
};

/// The first bit that wins and has not been visited, to be done with those up to it; -1: none.
__device__ __forceinline__ int next_to_flip(bool wins, unsigned& pending) {
    const unsigned winners = __ballot_sync(full_warp, wins) & pending;
    const int at = __ffs(int(winners)) - 1;
    pending = at == 31 ? 0u : full_warp << (at + 1);
    return at;
}

/// Writes a word of a row whose bits `flipped`, which all lanes have read.
__device__ __forceinline__ void put_word(const RefineShape& s, std::uint32_t* bits, std::uint32_t* columns,
                                         std::uint32_t* changed, int row, int v, std::uint32_t word,
                                         std::uint32_t flipped) {
    const int lane = lane_of_thread(), column = (32 * v + lane) * s.bit_rows + row / 32;
    if (flipped >> lane & 1u) atomicXor(columns + column, 1u << row % 32), atomicXor(changed + column, 1u << row % 32);
    __syncwarp();
    if (lane == 0) bits[row * s.words + v] = word;
}

/// A row of a sweep with its correlations in registers. Returns its flips.
template <int W, int near> __device__ __forceinline__ int anneal_row(SweptRow<W, near>& x, int row) {
    int flips = 0;
#pragma unroll
    for (int v = 0; v < W; ++v) {
        if (W > 1 && v >= x.shape.words) break;
        const std::uint32_t start = x.word[v];
        unsigned pending = full_warp;
#pragma unroll 1
        for (int at; pending && (at = next_to_flip(x.wins(v), pending)) >= 0;) x.flip(v, at);
        const std::uint32_t flipped = x.word[v] ^ start;
        if (!flipped) continue;
        flips += __popc(flipped);
        put_word(x.shape, x.bits, x.columns, x.changed, row, v, x.word[v], flipped);
    }
    return flips;
}

/// The same for any l, with its correlations where C was.
__device__ inline int anneal_wide_row(const RefineView& p, const RefineSide& side, const RefineSide& other, int row,
                                      const Sweep& o, float rho, float constant, const float* window) {
    const int lane = lane_of_thread();
    float* c = p.C + std::size_t(row) * p.ld_c;
    for (int q = lane; q < p.l; q += 32) {
        const float sum = fmaf(p.slope[q], rho, constant) - p.held[q];
        c[q] = fmaf(-o.r * o.r, c[q], fmaf(o.r, side.atoms[std::size_t(q) * side.ld + row], sum));
    }
    int flips = 0;
    for (int v = 0; v < p.words; ++v) {
        const int q = 32 * v + lane;
        const std::uint32_t start = side.bits[row * p.words + v];
        std::uint32_t word = start;
        unsigned pending = full_warp;
        while (pending) {
            const float d = word >> lane & 1u ? -1.0f : 1.0f;
            const int at = next_to_flip(q < p.l && 2 * d * c[q] - p.diag[q] > -o.T * window[q], pending);
            if (at < 0) break;
            const float step = word >> at & 1u ? -1.0f : 1.0f, nu = other.nu[32 * v + at];
            for (int u = 0; u < p.words; ++u) {
                const int to = 32 * u + lane;
                if (to >= p.l) break;
                const float m = fmaf(o.a, count_of(p, other.counts, 32 * v + at, u), fmaf(o.b, nu, p.shift[to]));
                c[to] = fmaf(step, m, c[to]);
            }
            word ^= 1u << at;
        }
        if (word == start) continue;
        flips += __popc(word ^ start);
        put_word(p, side.bits, side.columns, p.changed, row, v, word, word ^ start);
    }
    return flips;
}

/// A Metropolis sweep over the rows of a side, eight after each other by a warp. Bits are visited in order: lanes
/// behind one that flips look again. W: words in registers, 0: none. Returns the warp's flips.
template <int W, int near> __device__ inline int anneal_rows(const RefineView& p, const RefineSide& side,
                                                             const RefineSide& other, const Sweep& o) {
    const int lane = lane_of_thread(), count = side.count, tall = p.tall, ld_c = p.ld_c, words = p.words;
    const float size = float(other.count), rs = -o.r * o.s;
    const std::uint32_t* bits = known<(near > 0)>(side.bits);
    const float *C = known<(near > 0)>(p.C), *X_sum = known<(near > 0)>(side.X_sum);
    SweptRow<(W ? W : 1), near> x(p, side, other, o);
    unsigned long long random = o.random;
    int flips = 0;
    for (int first = 8 * warp_of_thread(); first < count; first += 8 * warps_of_block()) {
        const int own = min(first + lane % 8, count - 1), rows = min(8, count - first); // a lane has a row
        const float own_rho = float(bits_in(bits + own * words, words));
        const float own_constant =
            fmaf(rs, C[std::size_t(own) * ld_c + tall], o.s * X_sum[own] - size * o.s * o.s * own_rho);
        const unsigned own_window = unsigned(random >> 40) % unsigned(refine_pool_numbers);
        random = o.stride(random);
        if (W) x.fetch(__shfl_sync(full_warp, own_window, 0));
#pragma unroll 1
        for (int i = 0; i < rows; ++i) {
            const float rho = __shfl_sync(full_warp, own_rho, i), constant = __shfl_sync(full_warp, own_constant, i);
            const unsigned window = __shfl_sync(full_warp, own_window, W ? i + 1 : i);
            if (W) {
                const bool some = x.load(first + i, rho, constant);
                x.fetch(window); // of the next row
                if (some) flips += anneal_row(x, first + i);
            } else {
                flips += anneal_wide_row(p, side, other, first + i, o, rho, constant, p.pool + window);
            }
        }
    }
    return flips;
}

// ---- the scales ----

constexpr int refine_sums = 4; // <Gy, Gz>; b of r, s, t

/// Where what a launch changes stays.
struct RefineHome {
    RefineScalars* scalars;
    float *y_atoms, *z_atoms;
    std::uint32_t *Y, *Z;
};

/// Shared by the block.
struct RefineRoom {
    RefineHome home;
    double sums[16 * refine_sums], total[refine_sums];
    std::int64_t passes; // begun
    int flips, over;
    SweepScales meets;
    Solve4 solve;
};

/// Sum over the warp of numbers below 2^53.
__device__ __forceinline__ unsigned long long exact_sum(unsigned long long x) {
    const unsigned low = __reduce_add_sync(full_warp, unsigned(x) & ((1u << 27) - 1)),
                   high = __reduce_add_sync(full_warp, unsigned(x >> 27));
    return ((unsigned long long)(high) << 27) + low;
}

/// The warps' sums for the scales, of the bits as they are. `moved` is the side whose atoms fit both.
template <int near> __device__ inline void sum_for_scales(const RefineView& p, const RefineSide& moved, bool counted,
                                                          unsigned long long pairs, RefineRoom& room) {
    const RefineShape s = p;
    const int lane = lane_of_thread(), words = words_of(moved.count), ld = moved.ld;
    const std::uint32_t* columns = known<(near > 0)>(moved.columns);
    const float* atoms = known<(near > 1)>(moved.atoms);
    double* sums = room.sums + warp_of_thread() * refine_sums;
    double b_r[1] = {};
    for (int k = warp_of_thread(); k < s.l; k += warps_of_block()) {
        float sum = 0;
        for (int w = 0; w < words; ++w)
            if (columns[k * s.bit_rows + w] >> lane & 1u) sum += atoms[k * ld + 32 * w + lane];
        b_r[0] += double(sum);
    }
    warp_sums(b_r, room.sums + 1, refine_sums);
    const RefineSide* sides[2] = {&p.y, &p.z};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const RefineSide& side = *sides[i];
        const std::uint32_t* bits = known<(near > 0)>(side.bits);
        const float* X_sum = known<(near > 0)>(side.X_sum);
        double b[1] = {};
        for (int row = int(threadIdx.x); row < side.count; row += int(blockDim.x))
            b[0] += double(X_sum[row]) * bits_in(bits + row * s.words, s.words);
        if (32 * warp_of_thread() < side.count)
            warp_sums(b, room.sums + 2 + i, refine_sums);
        else if (lane == 0)
            sums[2 + i] = 0;
    }
    if (!counted) return;
    const double all = double(exact_sum(pairs));
    if (lane == 0) sums[0] = all;
}

/// The scales from those sums, after a barrier; by warp 0.
__device__ inline void solve_scales(const RefineView& p, RefineScalars& out, RefineRoom& room) {
    const int lane = lane_of_thread();
    const RefineSide &y = p.y, &z = p.z;
    unsigned long long nu_y = 0, nu_z = 0, both = 0, ones_y = 0, ones_z = 0, y_ones = 0, z_ones = 0;
    for (int k = lane; k < p.l; k += 32) {
        const unsigned long long a = (unsigned long long)(y.nu[k]), b = (unsigned long long)(z.nu[k]),
                                 c = unsigned(y.ones[k]), d = unsigned(z.ones[k]);
        nu_y += a, nu_z += b, both += a * b, ones_y += c, ones_z += d, y_ones += c * b, z_ones += d * a;
    }
    if (lane < refine_sums) room.total[lane] = sum_of_warps(room.sums, refine_sums, lane);
    const double all_y = double(exact_sum(nu_y)), all_z = double(exact_sum(nu_z)), nu_nu = double(exact_sum(both)),
                 G_y = double(exact_sum(ones_y)), G_z = double(exact_sum(ones_z)), y_z = double(exact_sum(y_ones)),
                 z_y = double(exact_sum(z_ones));
    const double m = double(y.count), n = double(z.count);
    __syncwarp();
    const double* s = room.total;
    if (lane == 0)
        room.solve.system = {{{s[0], y_z, z_y, nu_nu},
                              {y_z, n * G_y, all_y * all_z, n * all_y},
                              {z_y, all_y * all_z, m * G_z, m * all_z},
                              {nu_nu, n * all_y, m * all_z, m * n}},
                             {s[1], s[2], s[3], 0}};
    __syncwarp();
    solve4(room.solve, out.scales);
    const int row = lane % 4;
    double Ax = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) Ax += room.solve.system.A[row][j] * out.scales[j];
    const double change = out.scales[row] * (Ax - 2 * room.solve.system.b[row]);
    double error = out.XX;
#pragma unroll
    for (int i = 0; i < 4; ++i) error += __shfl_sync(full_warp, change, i);
    if (lane == 0) out.error = error;
    __syncwarp();
}

/// What a sweep meets. With atoms Phi_k = r O_k + s 1 of the other side's bits O: M = -Gram, made of counts where it is
/// needed, and what no bit of the side moves. By warp 0; reads nothing that the sweep writes.
__device__ inline void make_problem(const RefineView& p, const RefineSide& other, const RefineScalars& now, bool of_z,
                                    SweepScales& meets) {
    const double r = now.scales[0], s = now.scales[of_z ? 2 : 1], t = now.scales[of_z ? 1 : 2], u = now.scales[3];
    unsigned long long all_nu = 0;
    for (int k = lane_of_thread(); k < p.l; k += 32) all_nu += (unsigned long long)(other.nu[k]);
    const double size = double(other.count), all = s * (t * double(exact_sum(all_nu)) + u * size);
    const float a = float(-r * r), b = float(-r * s);
    if (lane_of_thread() == 0) meets = {float(r), float(s), float(now.anneal.temperature()), a, b};
    for (int k = lane_of_thread(); k < p.l; k += 32) {
        const float nu = other.nu[k], c = float(-r * s * double(nu) - s * s * size);
        p.held[k] = float(r * (t * double(other.ones[k]) + u * double(nu)) + all);
        p.slope[k] = b * nu; // of rho in the correlations
        p.shift[k] = c, p.diag[k] = -fmaf(a, nu, fmaf(b, nu, c));
    }
}

} // namespace bqq::cuda
