/* The kernels, as one plain struct of function pointers. Each instruction set fills in what it improves, in layers:
 * generic first, then the higher levels the machine has; an entry nobody improves is inherited.
 *
 * All entries: raw pointers and sizes, no allocation, no threads, no exceptions. Float buffers of the solver are
 * padded: every row starts on a 64-byte boundary and leading dimensions (ld..) are multiples of kPad floats; what
 * lies between the logical width and the leading dimension is zero on input and kept zero where it says so. */
#pragma once

#include <stddef.h>
#include <stdint.h>

constexpr int kPad = 16; // floats a padded row is a multiple of

constexpr int kMostCount = 2047; // of gemm_counts

/* The product sees a bit matrix in units of 16 rows x 32 columns, four bytes a row: element 32*block + k of the row in
 * bit k % 8 of byte k / 8. A panel is 16 rows. An instruction set has one of two orders of the bytes of a unit: kWords,
 * row by row, little-endian 32-bit words; kBytes, byte 0 of all rows, then byte 1, and so on. */
constexpr int kPanelRows = 16, kUnitColumns = 32, kUnitBytes = 64;
typedef enum bqq_unit_order { kWords = 0, kBytes = 1 } bqq_unit_order;
static constexpr int unit_byte(bqq_unit_order order, int row, int byte) {
    return order == kWords ? 4 * row + byte : kPanelRows * byte + row;
}

constexpr int kMaxPanels = 8;    // of one call of lookup
constexpr int kMaxVectors = 8;   // of one call of tables or lookup
constexpr int kChunkBlocks = 8;  // of a product, which share a scale in the fixed-point kernels
constexpr int kTableBytes = 512; // room for the tables of one block of one vector
constexpr int kPrecisions = 2;   // 0: float32 class, 1: fast class

/* Of products by matrix units: most vectors and blocks of one call (of 8-bit inputs, those that share a scale), room
 * for the tables of one block of 16 vectors. */
constexpr int kTileVectors = 32, kTileBlocks = 16, kTileBytes = 2048;

/* Sums over a matrix x of rows x cols: NULL members are not computed. col_* have room for ld entries. */
typedef struct bqq_sums {
    float* row;    /* sum_j x_ij */
    float* row_sq; /* sum_j x_ij^2 */
    float* col;    /* sum_i x_ij */
    float* col_sq; /* sum_i x_ij^2 */
} bqq_sums;

/* Atoms Phi_k = r O_k + s 1 of the bits O of the other side, their constant part held: see correlate. */
typedef struct bqq_atoms {
    const float *nu, *held; /* ld: nu_k = <O_k, 1> */
    float r, s, size;       /* size = <1, 1> */
} bqq_atoms;

/* Rows of bits b (floats 0 and 1), each a binary least-squares problem with the same Gram matrix G, given as M = -G,
 * and correlations c of its residual: flipping bit k by d = 1 - 2b lowers the squared error by 2 d c_k - G_kk. Bits are
 * visited in order; bit k flips if that gain exceeds -T e_k (e: exponentially distributed), and then c += d M_k. */
typedef struct bqq_anneal {
    size_t rows, ld;
    float *bits, *c;       /* rows x ld */
    uint16_t* packed;      /* rows x ld/16: the same bits, bit k in bit k % 16 of word k / 16 */
    const float* M;        /* ld x ld */
    const float* diagonal; /* G_kk, infinite in the padding */
    float T;               /* 0: greedy */
    const float* pool;     /* pool_size + ld numbers e; a row reads a window at a random place */
    size_t pool_size;
    uint64_t* state; /* of the generator of those places */
    /* What depends on the bits moves with the flips: row a going from `before` to `after` by flips d_k adds
     *   d_k X_a to row k of atoms,   d_k (before + after) / 2 to row k of pairs: halves of whole numbers.
     * Its pair counts change by sum_k d_k (e_k after^T + before e_k^T), a symmetric matrix and so the mean of itself
     * and its transpose: pairs + pairs^T. */
    float* pairs;   /* ld x ld; NULL: not wanted */
    float* atoms;   /* ld x ldx */
    const float* X; /* rows x ldx */
    size_t ldx;
    float* before;     /* scratch, ld; with pairs */
    uint32_t* flipped; /* scratch, ld */
} bqq_anneal;

/* Floats of the workspace of the rounded products of M x K by K x N. */
static constexpr size_t gemm_workspace(size_t M, size_t N, size_t K) {
    const auto up = [](size_t x) { return (x + 63) / 64 * 64; };
    return (2 * up(M) + up(N) + 64) * (up(K) / 2 + 16) + 1024;
}

/* out_c = (B - 1/2) x_c for a bit matrix B and vectors x_c, in two steps; the tables of one instruction set are read
 * only by its own lookup. A result does not depend on how panels and vectors are spread over calls, nor on how the
 * blocks are if every call but the last takes a multiple of kChunkBlocks. */
typedef struct bqq_product {
    /* Tables of `columns` <= kMaxVectors vectors of 32*blocks floats, ldx apart. tables: 64-byte aligned, room for
     * columns * blocks * kTableBytes, columns (if more than 1) rounded up to 4 and blocks to kChunkBlocks. */
    void (*tables)(size_t blocks, size_t columns, const float* x, size_t ldx, void* tables);

    /* out[c*ldo + 16*q + r] (+)= sum_k (bit(16 q + r, k) - 1/2) x_c[k],  q < panels <= kMaxPanels, r < 16, k <
     * 32*blocks. The unit of panel q and block b is at bits + b*stride + 64*q. */
    void (*lookup)(size_t panels, size_t blocks, const uint8_t* bits, size_t stride, size_t columns, const void* tables,
                   float* out, size_t ldo, int accumulate);
} bqq_product;

/* The same for many vectors that lie side by side, element i of vector c at x[i*width + c]: width is lanes times 1 or
 * 2, at the most `most`. Sums of a chunk of blocks gather in memory, in elements of `element` bytes; begin comes
 * first for a chunk, then tables and lookup for some of its blocks after the other, then end. scale: 2 width
 * floats. A result does not depend on width, nor on how panels are spread over calls. */
typedef struct bqq_lanes {
    size_t lanes, most;    /* narrowest and widest width */
    size_t element, chunk; /* chunk: blocks */
    size_t entries;        /* of the tables of one block and vector */
    void (*begin)(size_t blocks, size_t width, const float* x, float* scale);

    /* tables: 64-byte aligned, entries * width * element bytes a block. x: of these blocks. */
    void (*tables)(size_t blocks, size_t width, const float* x, const float* scale, void* tables);

    /* sums[(16*q + r)*width + c] (+)= as bqq_product::lookup; set if `first`. */
    void (*lookup)(size_t panels, size_t blocks, const uint8_t* bits, size_t stride, size_t width, const void* tables,
                   void* sums, int first);

    /* out[i*width + c] (+)= sums of the chunk, i < rows. */
    void (*end)(size_t rows, size_t width, const void* sums, const float* scale, float* out, int accumulate);
} bqq_lanes;

constexpr int kTileColumns = 128; // of a tile of bqq_dense, at most

/* What the product needs of the scales of one stack of a block. */
typedef struct bqq_stack {
    float r, shift, total;
} bqq_stack;

/* A tile of W_hat, columns x 16 panels: out[b*ldo + 16 q + a] = row[16 q + a] + column[b] + sum_i r_i sum_g
 * popcount(Y_ag & Z_bg), with stack i in the segments first[i] <= g < first[i+1], Y_ag row a of the unit at
 * bits + block[g]*stride + 64 q and Z_bg = z[g*ldz + b]. panels <= kMaxPanels, columns <= kTileColumns; row may be
 * NULL (zero). */
typedef struct bqq_dense {
    size_t panels, columns, stacks;
    const uint32_t *first, *block; /* stacks + 1; one a segment */
    const uint8_t* bits;
    size_t stride;
    const uint32_t* z;
    size_t ldz;
    const float *r, *row, *column;
    float* out;
    size_t ldo;
} bqq_dense;

/* What a way of a product takes, by which it is chosen among others (ProductMethod): measured, in picoseconds of one
 * thread; only ratios matter.
 *            tables, lanes, tiles                         dense
 *   bit      to look one up, for a lane                   to count one
 *   input    to build its tables, for a lane              an element of a tile, for a stack
 *   end      for each row and column of W and column of X
 *   more     a bit, for: a column missing to four;        a multiply-add of gemm
 *            every `most` vectors; a column */
typedef struct bqq_cost {
    double bit, input, end, more;
} bqq_cost;

/* By class; dense: of the float32 class. */
typedef struct bqq_costs {
    bqq_cost tables[kPrecisions], lanes[kPrecisions], tiles[kPrecisions], dense[kPrecisions];
} bqq_costs;

/* Codes: one of kEntries entries in each of a number of groups, which add up to a vector. */
constexpr int kEntries = 16;

/* The search for a vector's code. Scores are costs in units of 1/scale, biased by 2^15 and modulo 2^16: what entry b of
 * a group adds to the squared error beside the entries that the other groups have. Another entry of one group changes
 * the scores of all others by rows of `products`. A visit of a group takes the entry of the least score, noise added;
 * `descents` visits of all groups follow without noise, fewer when nothing changes any more. */
typedef struct bqq_code_search {
    size_t groups;           /* M */
    const int16_t* products; /* 16M x 16M: 2 scale <C_a, C_b>; zero within a group */
    float scale;
    const uint16_t* noise; /* sweeps x 16M */
    size_t sweeps, descents;
    int given; /* start from the code that there is; else group by group from none */
} bqq_code_search;

/* Codes lie in blocks of kScanBlock, one nibble a group, two groups a byte (the first one low): byte j of all codes of
 * a block side by side. Code v of a block is at place scan_place(v), so that sums of 16 bits come out in order. Entries
 * of the tables are at most kMostScanned: four of them fit a byte. */
constexpr int kScanBlock = 64, kScanQueries = 4, kMostScanned = 63;
static constexpr int scan_place(int v) { return v < kScanBlock / 2 ? 2 * v : 2 * v + 1 - kScanBlock; }

/* Sums of table entries over the codes of `blocks` blocks. */
typedef struct bqq_scan {
    size_t blocks, parts, queries; /* queries <= kScanQueries */
    const uint8_t* const* codes; /* part i of block b: bytes[i] x kScanBlock at codes[i] + b * kScanBlock * bytes[i] */
    const size_t* bytes;
    const uint8_t* const* tables; /* of query q: kEntries for each group of all parts */
    const uint8_t* norms;         /* kScanBlock a block, placed as codes; may be NULL */
    const uint16_t* weights;      /* of query q: norm * weight / 256 is added */
    const uint16_t* limits;       /* of query q */
    uint16_t* sums;               /* [block][query][kScanBlock], in order; 64-byte aligned */
    uint64_t* below;              /* [block][query]: bit v, the sum of code v is less than the limit */
} bqq_scan;

typedef struct bqq_kernels {
    /* C[i,j] = D[i,j] + bias[i] + sum_k A(i,k) B[k,j],  A(i,k) = A[i*a_row + k*a_col];  i < M, j < N, k < K.
     * N, ldb, ldc, ldd multiples of kPad. D and bias may be NULL (zero). C must not overlap A
     * or B; it may be D. */
    void (*gemm)(size_t M, size_t N, size_t K, const float* A, size_t a_row, size_t a_col, const float* B, size_t ldb,
                 const float* D, size_t ldd, const float* bias, float* C, size_t ldc);

    /* P = A B as above, never stored: sums[0] = sum P_ij^2, sums[1] = sum P_ij X_ij (float32 within a tile, float64
     * across). */
    void (*gemm_dots)(size_t M, size_t N, size_t K, const float* A, size_t a_row, size_t a_col, const float* B,
                      size_t ldb, const float* X, size_t ldx, double sums[2]);

    /* gemm and gemm_dots where rounding is harmless: A and B may be rounded to bfloat16, or to multiples of most_a /
     * 4095 and most_b / 4095. No |A(i,k)| exceeds most_a and no |B[k,j]| most_b, except in columns of B whose sums
     * nobody reads. Sums have float32's accuracy. One of a_row and a_col is 1. workspace: gemm_workspace(M, N, K)
     * floats, 64-byte aligned. */
    void (*gemm_rounded)(size_t M, size_t N, size_t K, const float* A, size_t a_row, size_t a_col, float most_a,
                         const float* B, size_t ldb, float most_b, const float* D, size_t ldd, const float* bias,
                         float* C, size_t ldc, float* workspace);
    void (*gemm_dots_rounded)(size_t M, size_t N, size_t K, const float* A, size_t a_row, size_t a_col, float most_a,
                              const float* B, size_t ldb, float most_b, const float* X, size_t ldx, double sums[2],
                              float* workspace);

    /* C = A B for A of bits, bit k % 16 of A[i*lda + k/16], zero from K on, and B of whole numbers 0 to `most` <=
     * kMostCount; exact below 2^24. */
    void (*gemm_counts)(size_t M, size_t N, size_t K, const uint16_t* A, size_t lda, const float* B, size_t ldb,
                        size_t most, float* C, size_t ldc, float* workspace);

    /* f = x + zeta (x - x_old), g = a f + b, and the sums of f. f may be NULL. Padding of f and g becomes 0. */
    void (*extrapolate)(size_t rows, size_t cols, size_t ld, const float* x, const float* x_old, float zeta, float a,
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

    /* y += a x, count a multiple of kPad. */
    void (*axpy)(size_t count, float a, const float* x, float* y);

    /* Correlations of the residual with the atoms, for every row b of bits, rows x ld:
     *   c_q = r X_q + s x - ( r^2 P_q + r s w + (r s nu_q + size s^2) rho + held_q )
     *   w = sum_k b_k nu_k,   rho = sum_k b_k,   P = b N,   N_kq = <O_k, O_q>
     * c holds P and receives the result. X and x may both be NULL: zero. */
    void (*correlate)(const bqq_atoms* atoms, size_t rows, size_t ld, const float* bits, const float* X, const float* x,
                      float* c);

    /* sums_q += sum_a x_a b_aq and dots_q += sum_a X_aq b_aq, for `rows` rows of bits b. */
    void (*project)(size_t rows, size_t ld, const float* bits, const float* X, const float* x, float* sums,
                    float* dots);

    /* gram += pairs + pairs^T and pairs = 0, both ld x ld and of halves of whole numbers below 2^22. Of what gram is
     * then: sums_q = sum_k gram_kq, dots_q = sum_k gram_kq other_kq. */
    void (*add_pairs)(size_t ld, float* pairs, float* gram, const float* other, float* sums, float* dots);

    /* A Metropolis sweep over the bits of `rows` binary least-squares problems: see the struct. Returns the flips. */
    size_t (*anneal)(const bqq_anneal* problem);

    bqq_product product[kPrecisions];

    /* The scales of one block, between the two stages of a product of one column. For each stack i and e < l
     *   w_ie = r_i v_ie + shift_i sigma,   sums[lane] += total_i v_ie   with a lane < kPanelRows that e and l decide.
     * v and w: stacks*l floats, not overlapping. sums: kPanelRows partial sums of one number. */
    void (*apply_scales)(size_t stacks, size_t l, const bqq_stack* scales, float sigma, const float* v, float* w,
                         float* sums);

    bqq_lanes lanes[kPrecisions];

    /* As apply_scales for `width` vectors side by side, with a sigma and a total each: total[c] += total_i sum_e v. */
    void (*lanes_scales)(size_t stacks, size_t l, const bqq_stack* scales, size_t width, const float* sigma,
                         const float* v, float* w, double* total);

    /* The code of the vector whose entries cost cost[16M], |c|^2 - 2 <x, c>; `turn` moves the noise to other groups.
     * scores: 16M, 64-byte aligned, overwritten. Returns 0, with nothing done, if a cost does not fit 15 bits. */
    int (*search_code)(const bqq_code_search* search, const float* cost, size_t turn, uint16_t* scores, uint8_t* code);

    void (*scan)(const bqq_scan* scan);

    /* The entries from here on are NULL where an instruction set has nothing for them. */

    /* As `product`, by matrix units, for up to kTileVectors vectors and kTileBlocks blocks a call. tables: kTileBytes
     * for each block and each 16 vectors or part of them. A result depends on how the blocks are spread over calls. */
    bqq_product tile[kPrecisions];

    /* max |x_ij|, j < cols: a bound for the rounded products. NULL where those need none. */
    float (*largest)(size_t rows, size_t cols, size_t ld, const float* x);

    /* Fills a tile of W_hat. */
    void (*dense)(const bqq_dense* tile);
    /* Bit a of columns[b] = element b of row a, for the 16 rows and 32 columns of a unit. With dense. */
    void (*unit_columns)(const uint8_t* unit, uint16_t* columns);

    bqq_unit_order unit_order; /* of all entries that take bits */
    bqq_costs costs;           /* of this instruction set as a whole: a higher one names all of them anew */
} bqq_kernels;

/* What an instruction-set file exports: one function that overwrites entries of the table. */
typedef void (*bqq_fill)(bqq_kernels* table);
