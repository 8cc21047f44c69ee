// The solver's kernels in terms of a vector of floats.
#pragma once

#include "kernels/for_tiles_inl.hpp"
#include "kernels/vector_inl.hpp"

namespace {

static_assert(kPad % kWidth == 0 && kPanelRows % kWidth == 0, "a padded row is a whole number of vectors");

template <int MR, int NV> struct Tile {
    vf c[MR][NV];

    void multiply(size_t K, const float* A, size_t a_row, size_t a_col, const float* B, size_t ldb) {
        for (size_t k = 0; k < K; ++k, A += a_col, B += ldb) {
            vf b[NV];
            for (int v = 0; v < NV; ++v) b[v] = vload(B + v * kWidth);
            for (int i = 0; i < MR; ++i) {
                const vf a = vset(A[i * a_row]);
                for (int v = 0; v < NV; ++v) c[i][v] = vfma(a, b[v], c[i][v]);
            }
        }
    }
};

struct Gemm {
    size_t K;
    const float *A, *B, *D, *bias;
    float* C;
    size_t a_row, a_col, ldb, ldd, ldc;

    template <int MR, int NV> void tile(size_t i, size_t j) {
        Tile<MR, NV> t;
        for (int q = 0; q < MR; ++q) {
            const vf start = vset(bias ? bias[i + q] : 0.0f);
            for (int v = 0; v < NV; ++v) t.c[q][v] = D ? vadd(start, vload(D + (i + q) * ldd + j + v * kWidth)) : start;
        }
        t.multiply(K, A + i * a_row, a_row, a_col, B + j, ldb);
        for (int q = 0; q < MR; ++q)
            for (int v = 0; v < NV; ++v) vstore(C + (i + q) * ldc + j + v * kWidth, t.c[q][v]);
    }
};

struct GemmDots {
    size_t K;
    const float *A, *B, *X;
    size_t a_row, a_col, ldb, ldx;
    double square, cross;

    template <int MR, int NV> void tile(size_t i, size_t j) {
        Tile<MR, NV> t;
        for (int q = 0; q < MR; ++q)
            for (int v = 0; v < NV; ++v) t.c[q][v] = vset(0);
        t.multiply(K, A + i * a_row, a_row, a_col, B + j, ldb);
        vf s = vset(0), x = vset(0);
        for (int q = 0; q < MR; ++q)
            for (int v = 0; v < NV; ++v) {
                s = vfma(t.c[q][v], t.c[q][v], s);
                x = vfma(t.c[q][v], vload(X + (i + q) * ldx + j + v * kWidth), x);
            }
        square += vsum(s);
        cross += vsum(x);
    }
};

void gemm(size_t M, size_t N, size_t K, const float* A, size_t a_row, size_t a_col, const float* B, size_t ldb,
          const float* D, size_t ldd, const float* bias, float* C, size_t ldc) {
    Gemm op{K, A, B, D, bias, C, a_row, a_col, ldb, ldd, ldc};
    for_tiles<kTileRows, kTileVectors, kWidth>(op, M, N);
}

void gemm_dots(size_t M, size_t N, size_t K, const float* A, size_t a_row, size_t a_col, const float* B, size_t ldb,
               const float* X, size_t ldx, double sums[2]) {
    GemmDots op{K, A, B, X, a_row, a_col, ldb, ldx, 0, 0};
    for_tiles<kTileRows, kTileVectors, kWidth>(op, M, N);
    sums[0] = op.square;
    sums[1] = op.cross;
}

void gemm_rounded(size_t M, size_t N, size_t K, const float* A, size_t a_row, size_t a_col, float, const float* B,
                  size_t ldb, float, const float* D, size_t ldd, const float* bias, float* C, size_t ldc, float*) {
    gemm(M, N, K, A, a_row, a_col, B, ldb, D, ldd, bias, C, ldc);
}
void gemm_dots_rounded(size_t M, size_t N, size_t K, const float* A, size_t a_row, size_t a_col, float, const float* B,
                       size_t ldb, float, const float* X, size_t ldx, double sums[2], float*) {
    gemm_dots(M, N, K, A, a_row, a_col, B, ldb, X, ldx, sums);
}

// Row and column sums of a matrix seen vector by vector.
struct Summer {
    const bqq_sums out; // a copy, or the stores could change it
    vf row, row_sq;

    Summer(const bqq_sums& sums, size_t ld) : out(sums) {
        for (size_t j = 0; out.col && j < ld; j += kWidth) vstore(out.col + j, vset(0));
        for (size_t j = 0; out.col_sq && j < ld; j += kWidth) vstore(out.col_sq + j, vset(0));
    }
    void begin_row() { row = row_sq = vset(0); }
    void add(size_t j, vf x) {
        row = vadd(row, x);
        row_sq = vfma(x, x, row_sq);
        if (out.col) vstore(out.col + j, vadd(vload(out.col + j), x));
        if (out.col_sq) vstore(out.col_sq + j, vfma(x, x, vload(out.col_sq + j)));
    }
    void end_row(size_t i) {
        if (out.row) out.row[i] = vsum(row);
        if (out.row_sq) out.row_sq[i] = vsum(row_sq);
    }
};

void extrapolate(size_t rows, size_t cols, size_t ld, const float* x, const float* x_old, float zeta, float a, float b,
                 float* f, float* g, const bqq_sums* sums) {
    const vf vz = vset(zeta), va = vset(a), vb = vset(b);
    Summer summer(*sums, ld);
    for (size_t i = 0; i < rows; ++i) {
        summer.begin_row();
        for (size_t j = 0; j < ld; j += kWidth) {
            const size_t at = i * ld + j;
            const vf xi = vload(x + at);
            const vf fi = vfma(vz, vsub(xi, vload(x_old + at)), xi);
            if (f) vstore(f + at, fi);
            vf gi = vfma(va, fi, vb);
            if (j + kWidth > cols) gi = vhead(gi, cols > j ? cols - j : 0);
            vstore(g + at, gi);
            summer.add(j, fi);
        }
        summer.end_row(i);
    }
}

float update(size_t rows, size_t cols, size_t ld, float* x, float* x_old, const float* grad, float c, float zeta,
             float eta, float T, const float* P, const float* Q, int by_row, const bqq_sums* sums) {
    const vf vc = vset(c), vz = vset(zeta), ve = vset(-eta), vT = vset(T), half = vset(0.5f), one = vset(1),
             zero = vset(0), two = vset(2), minus2 = vset(-2);
    vf moved = zero;
    Summer summer(*sums, ld);
    for (size_t i = 0; i < rows; ++i) {
        summer.begin_row();
        for (size_t j = 0; j < ld; j += kWidth) {
            const size_t at = i * ld + j;
            const vf xi = vload(x + at), old = vload(x_old + at);
            const vf p = by_row ? vset(P[i]) : vload(P + j), q = by_row ? vset(Q[i]) : vload(Q + j);
            const vf f = vfma(vz, vsub(xi, old), xi);
            vf G = vfma(vc, vload(grad + at), q);
            G = vfma(vfma(minus2, f, one), p, G);
            G = vfma(vT, vsub(xi, half), G);
            vf next = vfma(ve, G, vsub(vmul(two, xi), old));
            next = vmin(vmax(next, zero), one);
            if (j + kWidth > cols) next = vhead(next, cols > j ? cols - j : 0);
            moved = vmax(moved, vabs(vsub(next, xi)));
            vstore(x_old + at, xi);
            vstore(x + at, next);
            summer.add(j, next);
        }
        summer.end_row(i);
    }
    return vmaxof(moved);
}

void transpose(size_t rows, size_t cols, const float* A, size_t lda, float* B, size_t ldb) {
    const size_t whole_rows = rows / kWidth * kWidth, whole_cols = cols / kWidth * kWidth;
    for (size_t i = 0; i < whole_rows; i += kWidth) {
        for (size_t j = 0; j < whole_cols; j += kWidth) vtranspose(A + i * lda + j, lda, B + j * ldb + i, ldb);
        for (size_t j = whole_cols; j < cols; ++j)
            for (size_t k = i; k < i + kWidth; ++k) B[j * ldb + k] = A[k * lda + j];
    }
    for (size_t j = 0; j < cols; ++j)
        for (size_t i = whole_rows; i < ldb; ++i) B[j * ldb + i] = i < rows ? A[i * lda + j] : 0.0f;
}

double bilinear(size_t rows, size_t, size_t ld, const float* a, const float* M, const float* b) {
    double sum = 0;
    for (size_t i = 0; i < rows; ++i) {
        vf s = vset(0);
        for (size_t j = 0; j < ld; j += kWidth) s = vfma(vload(M + i * ld + j), vload(b + j), s);
        sum += double(a[i]) * vsum(s);
    }
    return sum;
}

template <int V> inline void column_dots_of(size_t rows, const float* w, const float* A, size_t lda, const float* B,
                                            size_t ldb, float* out) {
    vf sum[V];
    for (int v = 0; v < V; ++v) sum[v] = vset(0);
    for (size_t i = 0; i < rows; ++i, A += lda) {
        const vf wi = vset(w ? w[i] : 1.0f);
        for (int v = 0; v < V; ++v) {
            const vf a = vload(A + v * kWidth);
            sum[v] = vfma(wi, B ? vmul(a, vload(B + i * ldb + size_t(v * kWidth))) : a, sum[v]);
        }
    }
    for (int v = 0; v < V; ++v) vstore(out + v * kWidth, sum[v]);
}

void column_dots(size_t rows, size_t ld, const float* w, const float* A, size_t lda, const float* B, size_t ldb,
                 float* out) {
    constexpr int kVectors = kPad / kWidth, kSums = kVectors < 4 ? 2 * kVectors : kVectors;
    size_t j = 0;
    for (; j + kSums * kWidth <= ld; j += kSums * kWidth)
        column_dots_of<kSums>(rows, w, A + j, lda, B ? B + j : nullptr, ldb, out + j);
    if (j < ld) column_dots_of<kVectors>(rows, w, A + j, lda, B ? B + j : nullptr, ldb, out + j);
}

void column_affine(size_t rows, size_t ld, const float* A, const float* a, const float* x, const float* b,
                   const float* c, float* out) {
    for (size_t i = 0; i < rows; ++i) {
        const vf xi = vset(x[i]);
        for (size_t j = 0; j < ld; j += kWidth)
            vstore(out + i * ld + j, vfma(vload(a + j), vload(A + i * ld + j), vfma(vload(b + j), xi, vload(c + j))));
    }
}

void axpy(size_t count, float a, const float* x, float* y) {
    const vf va = vset(a);
    for (size_t i = 0; i < count; i += kWidth) vstore(y + i, vfma(va, vload(x + i), vload(y + i)));
}

void fill_solver(bqq_kernels* table) {
    table->gemm = gemm;
    table->gemm_dots = gemm_dots;
    table->extrapolate = extrapolate;
    table->update = update;
    table->transpose = transpose;
    table->bilinear = bilinear;
    table->gemm_rounded = gemm_rounded;
    table->gemm_dots_rounded = gemm_dots_rounded;
    table->axpy = axpy;
    table->column_dots = column_dots;
    table->column_affine = column_affine;
}

} // namespace
