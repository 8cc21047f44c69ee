// The descent's products on 16-bit numbers: an operand is rounded to multiples of its bound / kShort, so that the sums
// of a chunk of kChunk products fit in 32 bits. Operands as words of two neighbours along K: A as [M][K/2] or [K/2][M],
// B as [K/2][N].
//   vpmaddwd      two products of a column to one sum; vpdpwssd adds that at once
// Written over V, a vector of words_avx2_inl.hpp or words_avx512_inl.hpp.
#pragma once

#include "kernels/for_tiles_inl.hpp"
#include "kernels/table.hpp"
#include "kernels/words_avx2_inl.hpp"

namespace {

constexpr size_t kChunk = 128;
constexpr int kShort = 4095; // kChunk * kShort^2 < 2^31

inline float short_scale(float most) { return most > 1e-30f ? float(kShort) / most : 0; }
inline float short_unit(float most) { return most / float(kShort); }
// A power-of-two distance between rows would map them to few cache sets: an odd number of lines.
inline size_t odd_line_words(size_t words) { return words / 16 % 2 ? words : words + 16; }

// Rows of floats to [rows/2][cols] of vertical pairs, `stride` apart; an odd last row is paired with zeros.
template <class V>
void shorts_down(size_t rows, size_t cols, const float* A, size_t lda, float scale, uint32_t* out, size_t stride) {
    const typename V::Float s = V::set(scale);
    for (size_t i = 0; i < rows; i += 2, A += 2 * lda, out += stride) {
        const bool two = i + 1 < rows;
        for (size_t j = 0; j < cols; j += V::kLanes) {
            const typename V::Word x = V::rounded(V::mul(s, V::load(A + j)));
            const typename V::Word y = two ? V::rounded(V::mul(s, V::load(A + lda + j))) : V::set(0u);
            V::store(out + j, V::pairs(x, y));
        }
    }
}

// Rows of floats to [rows][cols/2] of horizontal pairs, `stride` apart; reads whole vectors of 16 of the padded rows.
// An odd last column is paired with what lies there: B has a zero for it.
template <class V>
void shorts_along(size_t rows, size_t cols, const float* A, size_t lda, float scale, uint32_t* out, size_t stride) {
    for (size_t i = 0; i < rows; ++i, A += lda, out += stride)
        for (size_t j = 0; j < cols; j += 16) V::store_shorts(out + j / 2, A + j, scale);
}

template <class V> struct ShortOperands {
    size_t pairs;
    const uint32_t *A, *B;
    size_t a_row, a_col, ldb;
    typename V::Float unit; // of a product
    float* partial;         // sums of a tile so far, where there are several chunks

    // put(q, v, sums): the sums of row q and vector v of the tile.
    template <int MR, int NV, class Put> inline void multiply(size_t i, size_t j, Put&& put) const {
        constexpr size_t kPairs = kChunk / 2;
        const uint32_t *a = A + i * a_row, *b = B + j;
        for (size_t done = 0; done < pairs; done += kPairs) {
            const size_t count = pairs - done < kPairs ? pairs - done : kPairs;
            typename V::Word sum[MR][NV];
            BQQ_UNROLL for (int q = 0; q < MR; ++q) BQQ_UNROLL for (int v = 0; v < NV; ++v) sum[q][v] = V::set(0u);
            for (size_t k = 0; k < count; ++k, a += a_col, b += ldb) {
                typename V::Word right[NV];
                BQQ_UNROLL for (int v = 0; v < NV; ++v) right[v] = V::load(b + v * V::kLanes);
                BQQ_UNROLL for (int q = 0; q < MR; ++q) {
                    const typename V::Word left = V::set(a[size_t(q) * a_row]);
                    BQQ_UNROLL for (int v = 0; v < NV; ++v) {
                        sum[q][v] = V::add_pairs(sum[q][v], right[v], left);
                        BQQ_HOLD(sum[q][v]);
                    }
                }
            }
            const bool first = done == 0, last = done + count == pairs;
            BQQ_UNROLL for (int q = 0; q < MR; ++q) BQQ_UNROLL for (int v = 0; v < NV; ++v) {
                float* at = partial + (q * NV + v) * V::kLanes;
                typename V::Float total = V::mul(unit, V::to_float(sum[q][v]));
                if (!first) total = V::add(total, V::load(at));
                if (last)
                    put(q, v, total);
                else
                    V::store(at, total);
            }
        }
    }
};

template <class V> struct ShortStore : ShortOperands<V> {
    const float *D, *bias;
    float* C;
    size_t ldd, ldc;
    template <int MR, int NV> void tile(size_t i, size_t j) {
        this->template multiply<MR, NV>(i, j, [&](int q, int v, typename V::Float sum) {
            const size_t row = i + size_t(q), column = j + size_t(v * V::kLanes);
            if (bias) sum = V::add(sum, V::set(bias[row]));
            if (D) sum = V::add(sum, V::load(D + row * ldd + column));
            V::store(C + row * ldc + column, sum);
        });
    }
};

template <class V> struct ShortDots : ShortOperands<V> {
    const float* X;
    size_t ldx;
    double square, cross;
    template <int MR, int NV> void tile(size_t i, size_t j) {
        typename V::Float s = V::set(0.0f), x = s;
        this->template multiply<MR, NV>(i, j, [&](int q, int v, typename V::Float sum) {
            s = V::fma(sum, sum, s);
            x = V::fma(sum, V::load(X + (i + size_t(q)) * ldx + j + size_t(v * V::kLanes)), x);
        });
        square += V::sum(s);
        cross += V::sum(x);
    }
};

// The operands of A B, A(i,k) = A[i*a_row + k*a_col], packed into the workspace.
template <class V> void pack_shorts(ShortOperands<V>& p, size_t M, size_t N, size_t K, const float* A, size_t a_row,
                                    size_t a_col, float most_a, const float* B, size_t ldb, float most_b,
                                    float* workspace) {
    p.pairs = (K + 1) / 2, p.unit = V::set(short_unit(most_a) * short_unit(most_b));
    p.partial = workspace;
    uint32_t* b = (uint32_t*)(workspace + V::kRows * V::kVectors * V::kLanes);
    p.B = b, p.ldb = odd_line_words(N);
    shorts_down<V>(K, N, B, ldb, short_scale(most_b), b, p.ldb);
    uint32_t* a = b + p.pairs * p.ldb;
    p.A = a;
    if (a_row == 1) {
        const size_t width = (M + 15) / 16 * 16;
        p.a_row = 1, p.a_col = odd_line_words(width);
        shorts_down<V>(K, width, A, a_col, short_scale(most_a), a, p.a_col);
    } else {
        p.a_row = (p.pairs + 7) / 8 * 8, p.a_col = 1;
        shorts_along<V>(M, K, A, a_row, short_scale(most_a), a, p.a_row);
    }
}

template <class V> void gemm_in_shorts(size_t M, size_t N, size_t K, const float* A, size_t a_row, size_t a_col,
                                       float most_a, const float* B, size_t ldb, float most_b, const float* D,
                                       size_t ldd, const float* bias, float* C, size_t ldc, float* workspace) {
    ShortStore<V> op;
    pack_shorts<V>(op, M, N, K, A, a_row, a_col, most_a, B, ldb, most_b, workspace);
    op.D = D, op.bias = bias, op.C = C, op.ldd = ldd, op.ldc = ldc;
    for_tiles<V::kRows, V::kVectors, V::kLanes>(op, M, N);
}

template <class V> void gemm_dots_in_shorts(size_t M, size_t N, size_t K, const float* A, size_t a_row, size_t a_col,
                                            float most_a, const float* B, size_t ldb, float most_b, const float* X,
                                            size_t ldx, double sums[2], float* workspace) {
    ShortDots<V> op;
    pack_shorts<V>(op, M, N, K, A, a_row, a_col, most_a, B, ldb, most_b, workspace);
    op.X = X, op.ldx = ldx, op.square = op.cross = 0;
    for_tiles<V::kRows, V::kVectors, V::kLanes>(op, M, N);
    sums[0] = op.square, sums[1] = op.cross;
}

template <class V> float largest(size_t rows, size_t cols, size_t ld, const float* x) {
    constexpr size_t kLanes = V::kLanes;
    typename V::Float most[4] = {V::set(0.0f), V::set(0.0f), V::set(0.0f), V::set(0.0f)};
    float lanes[kLanes], tail = 0;
    for (size_t i = 0; i < rows; ++i, x += ld) {
        size_t j = 0;
        for (; j + 4 * kLanes <= cols; j += 4 * kLanes)
            BQQ_UNROLL for (size_t v = 0; v < 4; ++v) most[v] = V::largest(most[v], V::load(x + j + v * kLanes));
        for (; j + kLanes <= cols; j += kLanes) most[0] = V::largest(most[0], V::load(x + j));
        for (; j < cols; ++j) tail = tail < x[j] ? x[j] : tail < -x[j] ? -x[j] : tail;
    }
    BQQ_UNROLL for (size_t v = 1; v < 4; ++v) most[0] = V::largest(most[0], most[v]);
    V::store(lanes, most[0]);
    for (float v : lanes) tail = tail < v ? v : tail;
    return tail;
}

template <class V> void fill_shorts(bqq_kernels* table) {
    table->gemm_rounded = gemm_in_shorts<V>;
    table->gemm_dots_rounded = gemm_dots_in_shorts<V>;
    table->largest = largest<V>;
}

} // namespace
