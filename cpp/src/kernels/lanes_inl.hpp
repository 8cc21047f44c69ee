// The product for many vectors: they lie side by side in the lanes, tables in memory hold the signed half-sums of some
// inputs for all of them, and as many bits of a row are an address. The inner loop is a load and an addition.
//   float32   sums as they are
//   fast      sums of 16 bits: a chunk of 256 inputs has a scale a vector, chosen so that no sum can overflow
#pragma once

#include "kernels/shorts_inl.hpp"
#include "kernels/tuning.hpp"
#include "kernels/units_inl.hpp"
#include "kernels/unroll.hpp"

#include <type_traits>

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

// How the 32 bits of a row of a unit go together: `bits` of group g from bit `at` on, its 2^bits entries from `entry`
// on.
struct Fours {
    static constexpr int kGroups = 8, kEntries = 128;
    static constexpr int bits(int) { return 4; }
    static constexpr int at(int g) { return 4 * g; }
};
struct Sixes { // 5 5 5 5 6 6: a quarter fewer look-ups, twice the tables: at the most 16 KB
    static constexpr int kGroups = 6, kEntries = 256;
    static constexpr int bits(int g) { return g < 4 ? 5 : 6; }
    static constexpr int at(int g) { return g < 4 ? 5 * g : 6 * g - 4; }
};
template <class L> using Groups = std::conditional_t<sizeof(typename L::V) <= 32, Sixes, Fours>;
template <class G> constexpr int first_entry(int g) { return g ? first_entry<G>(g - 1) + (1 << G::bits(g - 1)) : 0; }

// The 2^B signed sums of input(0) to input(B - 1), B = 1 or more: entry e is sum_q (bit q of e ? + : -) input(q).
template <class L, int B, class Input> inline void signed_sums(Input&& input, typename L::V* out) {
    const typename L::V x = input(B - 1);
    if constexpr (B == 1) {
        out[0] = L::sub(L::zero(), x), out[1] = x;
    } else {
        signed_sums<L, B - 1>(input, out);
        BQQ_UNROLL
        for (int e = 0; e < 1 << (B - 1); ++e) out[(1 << (B - 1)) + e] = L::add(out[e], x), out[e] = L::sub(out[e], x);
    }
}

// Tables of one block: [group][2^bits entries][N]. input(i, v) is vector v of lanes of input i.
template <class L, int N, int g = 0, class Input> inline void build_lanes(uint8_t* t, Input&& input) {
    using V = typename L::V;
    using G = Groups<L>;
    constexpr int kLow = G::bits(g) / 2, kHigh = G::bits(g) - kLow;
    for (int v = 0; v < N; ++v) {
        V low[1 << kLow], high[1 << kHigh];
        signed_sums<L, kLow>([&](int q) { return input(size_t(G::at(g) + q), v); }, low);
        signed_sums<L, kHigh>([&](int q) { return input(size_t(G::at(g) + kLow + q), v); }, high);
        uint8_t* to = t + size_t(v) * sizeof(V);
        BQQ_UNROLL
        for (int h = 0; h < 1 << kHigh; ++h) {
            BQQ_UNROLL
            for (int e = 0; e < 1 << kLow; ++e, to += N * sizeof(V)) L::store(to, L::add(low[e], high[h]));
        }
    }
    if constexpr (g + 1 < G::kGroups) build_lanes<L, N, g + 1>(t + (size_t(1) << G::bits(g)) * N * sizeof(V), input);
}

constexpr int log2_of(size_t x) { return x > 1 ? 1 + log2_of(x / 2) : 0; }

// Adds the entries of groups g to end - 1 of a word. The index is rotated to where it counts in bytes.
template <class L, int N, class G = Groups<L>, int g = 0, int end = G::kGroups>
inline void add_entries(uint32_t word, const uint8_t* t, typename L::V* s) {
    using V = typename L::V;
    constexpr size_t kEntry = N * sizeof(V);
    constexpr int shift = (G::at(g) - log2_of(kEntry) + 32) % 32;
    size_t index = (word >> shift | word << (32 - shift) % 32) & ((1u << G::bits(g)) - 1) * kEntry;
    BQQ_HIDE(index);
    for (int v = 0; v < N; ++v)
        s[v] = L::add(s[v], L::load(t + index + size_t(first_entry<G>(g)) * kEntry + size_t(v) * sizeof(V)));
    if constexpr (g + 1 < end) add_entries<L, N, G, g + 1, end>(word, t, s);
}

// One panel and at most kChunkBlocks blocks.
template <class L, int N, bool first>
BQQ_NOINLINE void lookup_rows(size_t blocks, const PanelWords& words, const uint8_t* tables, uint8_t* sums) {
    using V = typename L::V;
    constexpr size_t kEntry = N * sizeof(V);
    constexpr int R = 2;
    for (size_t row = 0; row < kPanelRows; row += R, sums += R * kEntry) {
        V s[R][N];

        for (int i = 0; i < R; ++i)
            for (int v = 0; v < N; ++v)
                s[i][v] = first ? L::zero() : L::load(sums + size_t(i) * kEntry + size_t(v) * sizeof(V));
        const uint8_t* t = tables;
        for (size_t b = 0; b < blocks; ++b, t += Groups<L>::kEntries * kEntry)
            for (int i = 0; i < R; ++i) add_entries<L, N>(words.at(b, row + size_t(i)), t, s[i]);

        for (int i = 0; i < R; ++i)
            for (int v = 0; v < N; ++v) L::store(sums + size_t(i) * kEntry + size_t(v) * sizeof(V), s[i][v]);
    }
}

template <class L, int N> void lookup_lanes(size_t panels, size_t blocks, const uint8_t* bits, size_t stride,
                                            const uint8_t* tables, uint8_t* sums, int first) {
    constexpr size_t kEntry = N * sizeof(typename L::V);
    for (size_t b = 0; b < blocks; b += kChunkBlocks) {
        const size_t count = blocks - b < kChunkBlocks ? blocks - b : size_t(kChunkBlocks);
        for (size_t q = 0; q < panels; ++q) {
            const PanelWords words(count, bits + b * stride + q * kUnitBytes, stride);
            const uint8_t* t = tables + b * Groups<L>::kEntries * kEntry;
            uint8_t* to = sums + q * kPanelRows * kEntry;
            if (first && b == 0)
                lookup_rows<L, N, true>(count, words, t, to);
            else
                lookup_rows<L, N, false>(count, words, t, to);
        }
    }
}

// Calls f(n) with n = width / lanes, 1 or 2, as a constant.
template <int n> struct Number {
    static constexpr int value = n;
};
template <class L, class F> inline void with_vectors(size_t width, F&& f) {
    if (width == L::kLanes)
        f(Number<1>());
    else
        f(Number<2>());
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
        lookup_lanes<L, decltype(n)::value>(panels, blocks, bits, stride, static_cast<const uint8_t*>(tables),
                                            static_cast<uint8_t*>(sums), first);
    });
}

// ---- float32 ----

void lanes_begin_f32(size_t, size_t, const float*, float*) {} // nothing is scaled

void lanes_tables_f32(size_t blocks, size_t width, const float* x, const float*, void* tables) {
    const vf half = vset(0.5f);
    uint8_t* t = static_cast<uint8_t*>(tables);
    with_vectors<Floats>(width, [&](auto n) {
        for (size_t b = 0; b < blocks; ++b, x += kUnitColumns * width, t += Groups<Floats>::kEntries * width * 4)
            build_lanes<Floats, decltype(n)::value>(
                t, [&](size_t i, int v) { return vmul(half, vload(x + i * width + size_t(v) * kWidth)); });
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
    uint8_t* t = static_cast<uint8_t*>(tables);
    with_vectors<Shorts>(width, [&](auto n) {
        for (size_t b = 0; b < blocks; ++b, x += kUnitColumns * width, t += Groups<Shorts>::kEntries * width * 2)
            build_lanes<Shorts, decltype(n)::value>(t, [&](size_t i, int v) {
                const size_t c = size_t(v) * Shorts::kLanes;
                const float *at = x + i * width + c, *factor = scale + width + c;
                return sround(vmul(vload(at), vload(factor)), vmul(vload(at + kWidth), vload(factor + kWidth)));
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

template <class L> void describe(bqq_lanes* k, size_t element, size_t chunk) {
    k->lanes = L::kLanes, k->most = 2 * L::kLanes, k->element = element, k->chunk = chunk;
    k->entries = Groups<L>::kEntries, k->lookup = lanes_lookup<L>;
}

void fill_lanes(bqq_kernels* table) {
    bqq_lanes &exact = table->lanes[0], &fast = table->lanes[1];
    describe<Floats>(&exact, 4, 4 * kChunkBlocks);
    exact.begin = lanes_begin_f32, exact.tables = lanes_tables_f32, exact.end = lanes_end_f32;
    describe<Shorts>(&fast, 2, kChunkBlocks);
    fast.begin = lanes_begin_i16, fast.tables = lanes_tables_i16, fast.end = lanes_end_i16;
    table->lanes_scales = lanes_scales;
}

} // namespace
