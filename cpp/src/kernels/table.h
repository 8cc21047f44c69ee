/* The kernels, as one plain struct of function pointers. Each instruction set fills in what it improves, in layers:
 * generic first, then the higher levels the machine has; an entry nobody improves is inherited.
 *
 * All entries: raw pointers and sizes, no allocation, no threads, no exceptions. Float buffers of the solver are
 * padded: every row starts on a 64-byte boundary and leading dimensions (ld..) are multiples of BQQ_PAD floats; what
 * lies between the logical width and the leading dimension is zero on input and kept zero where it says so. */
#ifndef BQQ_KERNELS_TABLE_H
#define BQQ_KERNELS_TABLE_H

#include <stddef.h>
#include <stdint.h>

#define BQQ_PAD 16   /* floats a padded row is a multiple of */
#define BQQ_PANEL 16 /* columns of a wide panel of a product */

/* Sums over a matrix x of rows x cols: NULL members are not computed. col_* have room for ld entries. */
typedef struct bqq_sums {
    float* row;    /* sum_j x_ij */
    float* row_sq; /* sum_j x_ij^2 */
    float* col;    /* sum_i x_ij */
    float* col_sq; /* sum_i x_ij^2 */
} bqq_sums;

/* Rows of bits b (floats 0 and 1), each a binary least-squares problem with the same Gram matrix G, given as M = -G,
 * and correlations c of its residual: flipping bit k by d = 1 - 2b lowers the squared error by 2 d c_k - G_kk. Bits are
 * visited in order; bit k flips if that gain exceeds -T e_k (e: exponentially distributed), and then c += d M_k. */
typedef struct bqq_anneal {
    size_t rows, ld;
    float *bits, *c;       /* rows x ld */
    const float* M;        /* ld x ld */
    const float* diagonal; /* G_kk, infinite in the padding */
    float T;               /* 0: greedy */
    const float* pool;     /* pool_size + ld numbers e; a row reads a window at a random place */
    size_t pool_size;
    uint64_t* state; /* of the generator of those places */
    /* What depends on the bits moves with the flips: row a going from `before` to `after` by flips d_k adds
     *   d_k after to row k of with_new,   d_k before to row k of with_old,   d_k X_a to row k of atoms. */
    float *with_new, *with_old; /* ld x ld; NULL: not wanted, both */
    float* atoms;               /* ld x ldx */
    const float* X;             /* rows x ldx */
    size_t ldx;
    float* before;     /* scratch, ld */
    uint32_t* flipped; /* scratch, ld */
} bqq_anneal;

#define BQQ_GEMM_UP(x) (((x) + 63) / 64 * 64)
#define BQQ_GEMM_WORKSPACE(M, N, K) ((2 * BQQ_GEMM_UP(M) + BQQ_GEMM_UP(N) + 64) * (BQQ_GEMM_UP(K) / 2 + 16) + 1024)

typedef struct bqq_kernels {
    /* C[i,j] = D[i,j] + bias[i] + sum_k A(i,k) B[k,j],  A(i,k) = A[i*a_row + k*a_col];  i < M, j < N, k < K.
     * N, ldb, ldc, ldd multiples of BQQ_PAD. D and bias may be NULL (zero). C must not overlap A
     * or B; it may be D. */
    void (*gemm)(size_t M, size_t N, size_t K, const float* A, size_t a_row, size_t a_col, const float* B, size_t ldb,
                 const float* D, size_t ldd, const float* bias, float* C, size_t ldc);

    /* P = A B as above, never stored: sums[0] = sum P_ij^2, sums[1] = sum P_ij X_ij (float32 within a tile, float64
     * across). */
    void (*gemm_dots)(size_t M, size_t N, size_t K, const float* A, size_t a_row, size_t a_col, const float* B,
                      size_t ldb, const float* X, size_t ldx, double sums[2]);

    /* gemm and gemm_dots for products that bear it: A and B may be rounded to bfloat16, sums are float32. One of a_row
     * and a_col is 1. workspace: BQQ_GEMM_WORKSPACE(M, N, K) floats, 64-byte aligned. */
    void (*gemm_rounded)(size_t M, size_t N, size_t K, const float* A, size_t a_row, size_t a_col, const float* B,
                         size_t ldb, const float* D, size_t ldd, const float* bias, float* C, size_t ldc,
                         float* workspace);
    void (*gemm_dots_rounded)(size_t M, size_t N, size_t K, const float* A, size_t a_row, size_t a_col, const float* B,
                              size_t ldb, const float* X, size_t ldx, double sums[2], float* workspace);

    /* C = A B for A of bits (floats 0 and 1, row-major) and B of whole numbers 0 to 65535; exact below 2^24. */
    void (*gemm_counts)(size_t M, size_t N, size_t K, const float* A, size_t lda, const float* B, size_t ldb, float* C,
                        size_t ldc, float* workspace);

    /* f = x + zeta (x - x_old), g = a f + b, and the sums of f. f may be NULL. Padding of f and g becomes 0. */
    void (*lookahead)(size_t rows, size_t cols, size_t ld, const float* x, const float* x_old, float zeta, float a,
                      float b, float* f, float* g, const bqq_sums* sums);

    /* One descent step on x, rows x cols. With f = x + zeta (x - x_old) and
     *   G = c grad + (1 - 2f) P + Q,      P, Q per column (by_row = 0) or per row (by_row = 1)
     * x_new = clip(2x - x_old - eta (G + T (x - 1/2)), 0, 1);  x_old <- x, x <- x_new; sums of x_new.
     * Padding stays 0. Returns the largest |x_new - x|. */
    float (*update)(size_t rows, size_t cols, size_t ld, float* x, float* x_old, const float* grad, float c, float zeta,
                    float eta, float T, const float* P, const float* Q, int by_row, const bqq_sums* sums);

    /* B[j,i] = A[i,j]; A rows x cols. Columns rows..ldb of B become 0. */
    void (*transpose)(size_t rows, size_t cols, const float* A, size_t lda, float* B, size_t ldb);

    /* sum_i a_i sum_j M_ij b_j, float32 along a row, float64 across. b has ld entries, zero beyond cols. */
    double (*bilinear)(size_t rows, size_t cols, size_t ld, const float* a, const float* M, const float* b);

    /* out[j] = sum_i w_i A_ij B_ij over i < rows, for j < ld; w and B may be NULL (ones). */
    void (*column_dots)(size_t rows, size_t ld, const float* w, const float* A, size_t lda, const float* B, size_t ldb,
                        float* out);

    /* out[i,j] = a_j A_ij + b_j x_i + c_j, j < ld. */
    void (*column_affine)(size_t rows, size_t ld, const float* A, const float* a, const float* x, const float* b,
                          const float* c, float* out);

    /* y += a x, count a multiple of BQQ_PAD. */
    void (*axpy)(size_t count, float a, const float* x, float* y);

    /* Correlations of the residual with the atoms Phi_k = r O_k + s 1 of the other side, for every row b of bits:
     *   c_q = r X_q + s x - ( r^2 P_q + r s w + (r s nu_q + size s^2) rho + held_q ),   w = sum_k b_k nu_k, rho = sum
     * b_k with P = b N, N_kq = <O_k, O_q>, nu_k = <O_k, 1>, size = <1, 1>. c holds P and receives the result. X may be
     * NULL (and x with it): zero. */
    void (*correlate)(size_t rows, size_t ld, const float* bits, const float* nu, const float* held, const float* X,
                      const float* x, float r, float s, float size, float* c);

    /* A Metropolis sweep over the bits of `rows` binary least-squares problems: see the struct. Returns the flips. */
    size_t (*anneal)(const bqq_anneal* problem);

    /* Signed nibble tables of a panel x of 8*bytes rows and `width` columns (1 or BQQ_PANEL):
     * tables[g][e][c] = 1/2 sum_{q<4} (bit q of e ? +1 : -1) x[4g+q][c],  g < 2*bytes, e < 16. */
    void (*build_tables)(size_t bytes, const float* x, size_t width, float* tables);

    /* out[i][c] (+)= sum_k (bit(i,k) - 1/2) x[k][c] through the tables; bits: rows of `stride` bytes, `bytes` of them
     * used. */
    void (*lookup)(size_t rows, size_t bytes, const uint8_t* bits, size_t stride, const float* tables, size_t width,
                   float* out, int accumulate);
} bqq_kernels;

/* What an instruction-set file exports: one function that overwrites entries of the table. */
typedef void (*bqq_fill)(bqq_kernels* table);

#endif
