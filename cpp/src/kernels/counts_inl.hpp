// Products of bits and whole numbers, as those of many vectors in lanes_inl.hpp: tables in memory hold the 16 sums of
// four rows of B, in 16 bits for all columns of a strip, and four bits of a row of A are an address.
#pragma once

#include "kernels/lanes_inl.hpp"
#include "kernels/solver_inl.hpp"

namespace {

constexpr size_t kHalf = 16;                                    // bits of a row of A that are packed together
constexpr size_t kCountRows = kLaneTableBlock / 8 / sizeof(vs); // of B, which share tables: 4 entries of 2 vectors each

struct CountStrip {
    size_t M, rows, columns; // rows of B; columns < N vectors: those behind are not there
    const uint16_t* A;       // bits, `stride` halves a row
    size_t stride;
    const float* B;
    size_t ldb;
    float* C;
    size_t ldc;
    uint8_t* tables;

    template <int N> void build() const {
        constexpr size_t kEntry = N * sizeof(vs);
        uint8_t* t = tables;
        for (size_t k = 0; k < rows; k += 4, t += 16 * kEntry)
            for (size_t v = 0; v < size_t(N); ++v) {
                const auto row = [&](size_t i) {
                    const size_t j = v * Shorts::kLanes;
                    const float* b = B + i * ldb + j;
                    const vf zero = vset(0);
                    return sround(i < rows ? vload(b) : zero,
                                  i < rows && j + kWidth < columns ? vload(b + kWidth) : zero);
                };
                const vs z = szero(), x0 = row(k), x1 = row(k + 1), x2 = row(k + 2), x3 = row(k + 3);
                const vs low[4] = {z, x0, x1, sadd(x0, x1)}, high[4] = {z, x2, x3, sadd(x2, x3)};
                for (size_t e = 0; e < 16; ++e)
                    Shorts::store(t + e * kEntry + v * sizeof(vs), sadd(low[e & 3], high[e >> 2]));
            }
        // Of groups that fill up a half only the entry without bits is read.
        for (const uint8_t* end = tables + (rows + kHalf - 1) / kHalf * 64 * kEntry; t < end; t += 16 * kEntry)
            for (size_t v = 0; v < size_t(N); ++v) Shorts::store(t + v * sizeof(vs), szero());
    }

    template <int N, bool add> void look_up() const {
        constexpr size_t kEntry = N * sizeof(vs);
        const size_t halves = (rows + kHalf - 1) / kHalf, whole = halves / 2 * 2, width = columns;
        const uint16_t* bits = A;
        float* c = C;
        for (size_t i = 0; i < M; ++i, bits += stride, c += ldc) {
            const uint8_t* t = tables;
            vs sum[N];
            for (int v = 0; v < N; ++v) sum[v] = szero();
            for (size_t h = 0; h < whole; h += 2, t += 128 * kEntry)
                add_entries<Shorts, N, Fours>(unsigned(bits[h]) | unsigned(bits[h + 1]) << kHalf, t, sum);
            if (whole < halves) add_entries<Shorts, N, Fours, 0, 4>(bits[whole], t, sum);
            for (int v = 0; v < N; ++v) {
                vf out[2];
                sfloats(sum[v], out);
                for (int w = 0; w < 2; ++w) {
                    float* at = c + (2 * v + w) * kWidth;
                    if (size_t(2 * v + w) * kWidth < width) vstore(at, add ? vadd(vload(at), out[w]) : out[w]);
                }
            }
        }
    }

    template <int N> void multiply(bool add) const {
        build<N>();
        if (add)
            look_up<N, true>();
        else
            look_up<N, false>();
    }
};

void gemm_counts(size_t M, size_t N, size_t K, const uint16_t* A, size_t lda, const float* B, size_t ldb, size_t most,
                 float* C, size_t ldc, float* workspace) {
    const size_t fit = most ? 32767 / most / kHalf * kHalf : K, chunk = fit < kCountRows ? fit : kCountRows;
    uint8_t* tables = reinterpret_cast<uint8_t*>(workspace);
    for (size_t k = 0; k < K; k += chunk) {
        CountStrip strip{M, K - k < chunk ? K - k : chunk, 0, A + k / kHalf, lda, nullptr, ldb, nullptr, ldc, tables};
        for (size_t j = 0; j < N; j += strip.columns) {
            strip.B = B + k * ldb + j, strip.C = C + j;
            if (N - j > Shorts::kLanes) {
                strip.columns = N - j < 2 * Shorts::kLanes ? N - j : 2 * Shorts::kLanes;
                strip.multiply<2>(k > 0);
            } else {
                strip.columns = N - j;
                strip.multiply<1>(k > 0);
            }
        }
    }
}

} // namespace
