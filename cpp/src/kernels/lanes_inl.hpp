// The product for many vectors: they lie side by side in the lanes, tables in memory hold the 16 signed half-sums of
// four inputs for all of them, and four bits of a row are an address. The inner loop is a load and an addition.
//   float32   sums as they are
//   fast      sums of 16 bits: a chunk of 256 inputs has a scale a vector, chosen so that no sum can overflow
#pragma once

#include "kernels/shorts_inl.hpp"
#include "kernels/tuning.hpp"
#include "kernels/units_inl.hpp"

namespace {

// The two kinds of sums, over vf and vs.
struct Floats {
    using V = vf;
    static constexpr size_t kLanes = kWidth;
    static V zero() { return vset(0); }
    static V load(const void* p) { return vload(static_cast<const float*>(p)); }
    static void store(void* p, V a) { vstore(static_cast<float*>(p), a); }
    static V add(V a, V b) { return vadd(a, b); }
    static V sub(V a, V b) { return vsub(a, b); }
};
struct Shorts {
    using V = vs;
    static constexpr size_t kLanes = 2 * kWidth;
    static V zero() { return szero(); }
    static V load(const void* p) { return sload(static_cast<const int16_t*>(p)); }
    static void store(void* p, V a) { sstore(static_cast<int16_t*>(p), a); }
    static V add(V a, V b) { return sadd(a, b); }
    static V sub(V a, V b) { return ssub(a, b); }
};

// Tables of `groups` groups of four: [group][16 entries][vectors]. input(i, v) is vector v of lanes of input i; the
// entry of bits e is sum_q (bit q of e ? + : -) input q.
template <class L, int N, class Input> inline void build_lanes(size_t groups, uint8_t* t, Input&& input) {
    using V = typename L::V;
    constexpr size_t kEntry = N * sizeof(V);
    for (size_t g = 0; g < groups; ++g, t += 16 * kEntry)
        for (int v = 0; v < N; ++v) {
            const V x0 = input(4 * g, v), x1 = input(4 * g + 1, v), x2 = input(4 * g + 2, v), x3 = input(4 * g + 3, v);
            const V a = L::add(x0, x1), b = L::sub(x0, x1), c = L::add(x2, x3), d = L::sub(x2, x3), z = L::zero();
            const V low[4] = {L::sub(z, a), b, L::sub(z, b), a}, high[4] = {L::sub(z, c), d, L::sub(z, d), c};
            for (size_t e = 0; e < 16; ++e)
                L::store(t + e * kEntry + size_t(v) * sizeof(V), L::add(low[e & 3], high[e >> 2]));
        }
}

constexpr int log2_of(size_t x) { return x > 1 ? 1 + log2_of(x / 2) : 0; }

// Adds the entries of nibbles g to `last` of a word. The index is rotated to where it counts in bytes.
template <class L, int N, int g = 0, int last = 7>
inline void add_nibbles(uint32_t word, const uint8_t* t, typename L::V* s) {
    using V = typename L::V;
    constexpr size_t kEntry = N * sizeof(V);
    constexpr int shift = (4 * g - log2_of(kEntry) + 32) % 32;
    size_t index = (word >> shift | word << (32 - shift) % 32) & (15u * kEntry);
#if defined(__GNUC__)
    __asm__("" : "+r"(index)); // else the compiler adds up an address for each load: a third slower
#endif
    for (int v = 0; v < N; ++v)
        s[v] = L::add(s[v], L::load(t + index + size_t(g) * 16 * kEntry + size_t(v) * sizeof(V)));
    if constexpr (g < last) add_nibbles<L, N, g + 1, last>(word, t, s);
}

template <class L, int N> void lookup_lanes(size_t rows, size_t blocks, const uint8_t* bits, size_t stride,
                                            const uint8_t* tables, uint8_t* sums, int first) {
    using V = typename L::V;
    constexpr size_t kEntry = N * sizeof(V);
    constexpr int R = N < 4 ? 2 : 1;
    for (size_t row = 0; row < rows; row += R, bits += 4 * R, sums += R * kEntry) {
        V s[R][N];
        for (int i = 0; i < R; ++i)
            for (int v = 0; v < N; ++v)
                s[i][v] = first ? L::zero() : L::load(sums + size_t(i) * kEntry + size_t(v) * sizeof(V));
        for (size_t b = 0; b < blocks; ++b)
            for (int i = 0; i < R; ++i)
                add_nibbles<L, N>(load_word(bits + b * stride + 4 * i), tables + b * 128 * kEntry, s[i]);
        for (int i = 0; i < R; ++i)
            for (int v = 0; v < N; ++v) L::store(sums + size_t(i) * kEntry + size_t(v) * sizeof(V), s[i][v]);
    }
}

// Calls f(n) with n = width / lanes, 1, 2 or 4, as a constant.
template <int n> struct Number {
    static constexpr int value = n;
};
template <class L, class F> inline void with_vectors(size_t width, F&& f) {
    if (width == L::kLanes)
        f(Number<1>());
    else if (width == 2 * L::kLanes)
        f(Number<2>());
    else
        f(Number<4>());
}

// Calls f(c, n) for all c < width, n vectors of floats at a time: 4, or 1 where there are fewer.
template <class F> inline void in_parts(size_t width, F&& f) {
    size_t c = 0;
    for (; c + 4 * kWidth <= width; c += 4 * kWidth) f(c, Number<4>());
    for (; c < width; c += kWidth) f(c, Number<1>());
}

template <class L> void lanes_lookup(size_t panels, size_t blocks, const uint8_t* bits, size_t stride, size_t width,
                                     const void* tables, void* sums, int first) {
    with_vectors<L>(width, [&](auto n) {
        lookup_lanes<L, decltype(n)::value>(kPanelRows * panels, blocks, bits, stride,
                                            static_cast<const uint8_t*>(tables), static_cast<uint8_t*>(sums), first);
    });
}

// ---- float32 ----

void lanes_begin_f32(size_t, size_t, const float*, float*) {} // nothing is scaled

void lanes_tables_f32(size_t blocks, size_t width, const float* x, const float*, void* tables) {
    const vf half = vset(0.5f);
    with_vectors<Floats>(width, [&](auto n) {
        build_lanes<Floats, decltype(n)::value>(8 * blocks, static_cast<uint8_t*>(tables), [&](size_t i, int v) {
            return vmul(half, vload(x + (i * decltype(n)::value + size_t(v)) * kWidth));
        });
    });
}

void lanes_end_f32(size_t rows, size_t width, const void* sums, const float*, float* out, int accumulate) {
    const float* s = static_cast<const float*>(sums);
    for (size_t i = 0; i < rows * width; i += kWidth)
        vstore(out + i, accumulate ? vadd(vload(out + i), vload(s + i)) : vload(s + i));
}

// ---- 16 bits ----

// What the inputs of a chunk are scaled to, all sizes together: each is rounded after, and the sums have to fit.
constexpr float kShortSum = 32763 - kChunkBlocks * kUnitColumns / 2;

// scale[c] undoes the scaling of vector c and halves; scale[width + c] is the factor of its inputs. A vector that is
// not finite gets a scale that is not; one of zeros, zeros.
void lanes_begin_i16(size_t blocks, size_t width, const float* x, float* scale) {
    const vf part = vset(1.0f / 256); // no sum of floats overflows
    in_parts(width, [&](size_t c, auto n) {
        constexpr int N = decltype(n)::value;
        vf size[N];
        for (int v = 0; v < N; ++v) size[v] = vset(0);
        for (size_t i = 0; i < kUnitColumns * blocks; ++i)
            for (int v = 0; v < N; ++v)
                size[v] = vfma(vabs(vload(x + i * width + c + size_t(v) * kWidth)), part, size[v]);
        for (int v = 0; v < N; ++v) vstore(scale + c + size_t(v) * kWidth, size[v]);
    });
    for (size_t c = 0; c < width; ++c) {
        const float size = scale[c];
        const bool usable = size - size == 0 && size > 1e-34f;
        scale[c] = usable ? size * (128 / kShortSum) : 0.0f * size;
        scale[width + c] = usable ? kShortSum / 256 / size : 0.0f;
    }
}

void lanes_tables_i16(size_t blocks, size_t width, const float* x, const float* scale, void* tables) {
    with_vectors<Shorts>(width, [&](auto n) {
        build_lanes<Shorts, decltype(n)::value>(8 * blocks, static_cast<uint8_t*>(tables), [&](size_t i, int v) {
            const size_t c = size_t(v) * Shorts::kLanes;
            const float* at = x + i * decltype(n)::value * Shorts::kLanes + c;
            return sround(vmul(vload(at), vload(scale + width + c)),
                          vmul(vload(at + kWidth), vload(scale + width + c + kWidth)));
        });
    });
}

void lanes_end_i16(size_t rows, size_t width, const void* sums, const float* scale, float* out, int accumulate) {
    const int16_t* s = static_cast<const int16_t*>(sums);
    for (size_t row = 0; row < rows; ++row, s += width, out += width)
        for (size_t c = 0; c < width; c += Shorts::kLanes) {
            vf half[2];
            sfloats(sload(s + c), half);
            for (size_t h = 0; h < 2; ++h) {
                float* to = out + c + h * kWidth;
                vstore(to, vfma(half[h], vload(scale + c + h * kWidth), accumulate ? vload(to) : vset(0)));
            }
        }
}

// As apply_scales, for all vectors: v and w [stacks * l][width].
void lanes_scales(size_t stacks, size_t l, const bqq_stack* scales, size_t width, const float* sigma, const float* v,
                  float* w, double* total) {
    for (size_t i = 0; i < stacks; ++i, v += l * width, w += l * width)
        in_parts(width, [&](size_t c, auto n) {
            constexpr int N = decltype(n)::value;
            const vf r = vset(scales[i].r), shift = vset(scales[i].shift);
            vf all[N], sum[N];
            for (int k = 0; k < N; ++k) all[k] = vmul(shift, vload(sigma + c + size_t(k) * kWidth)), sum[k] = vset(0);
            for (size_t e = 0; e < l; ++e)
                for (int k = 0; k < N; ++k) {
                    const size_t at = e * width + c + size_t(k) * kWidth;
                    const vf x = vload(v + at);
                    sum[k] = vadd(sum[k], x);
                    vstore(w + at, vfma(r, x, all[k]));
                }
            for (int k = 0; k < N; ++k) {
                float sums[kWidth];
                vstore(sums, sum[k]);
                double* to = total + c + size_t(k) * kWidth;
                for (size_t q = 0; q < size_t(kWidth); ++q) to[q] += double(scales[i].total) * double(sums[q]);
            }
        });
}

// From how many vectors on the two classes are faster this way than in registers.
void fill_lanes(bqq_kernels* table, const size_t (&from)[kPrecisions]) {
    constexpr size_t fit = kLaneTableBlock / kLaneEntries; // bytes
    bqq_lanes& exact = table->lanes[0];
    exact.lanes = kWidth, exact.element = 4, exact.chunk = 4 * kChunkBlocks;
    exact.begin = lanes_begin_f32, exact.tables = lanes_tables_f32;
    exact.lookup = lanes_lookup<Floats>, exact.end = lanes_end_f32;
    bqq_lanes& fast = table->lanes[1];
    fast.lanes = Shorts::kLanes, fast.element = 2, fast.chunk = kChunkBlocks;
    fast.begin = lanes_begin_i16, fast.tables = lanes_tables_i16;
    fast.lookup = lanes_lookup<Shorts>, fast.end = lanes_end_i16;
    for (int precision = 0; precision < kPrecisions; ++precision) {
        bqq_lanes& k = table->lanes[precision];
        k.most = 4 * k.lanes < fit / k.element ? 4 * k.lanes : fit / k.element;
        k.from = from[precision];
    }
    table->lanes_scales = lanes_scales;
}

} // namespace
