// isa: amx
// level: 60
// arch: x86_64
// over: bf16
// cpu: amx-tile,amx-bf16,amx-int8
// msvc: /arch:AVX512
//
// The descent's rounded products on tiles of 16 rows of 64 bytes: C (16 x 16 floats) += A (16 x 32 bfloat16) B (32 x
// 16), B as 16 rows of pairs. Four sums, two tiles of A and two of B live at once.
//   tdpbf16ps     one every 16 cycles: 512 multiply-adds a cycle, 16 times the float32 rate
//   tdpbssd       twice that, on bytes
#include "kernels/pack_bf16_inl.hpp"
#include "kernels/product_amx_inl.hpp"
#include "kernels/tiles_amx_inl.hpp"
#include "kernels/tuning.hpp"

namespace {

constexpr size_t kPairs = 16; // along K in a tile

inline size_t up(size_t x, size_t to) { return (x + to - 1) / to * to; }

// 16 x 16 32-bit elements.
void transpose_tile(const uint32_t* A, size_t lda, uint32_t* B, size_t ldb) {
    for (size_t i = 0; i < kSide; ++i) {
        const __m512i index = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                                 _mm512_set1_epi32(int(lda)));
        _mm512_storeu_si512(B + i * ldb, _mm512_i32gather_epi32(index, (const int*)(A + i), 4));
    }
}

struct Operands {
    size_t M, pairs;       // pairs: a multiple of kPairs
    const uint32_t *A, *B; // [up(M, 16)][lda], [pairs][N]
    size_t lda, ldb;
    float* sums; // 4 tiles
};

Operands pack(size_t M, size_t N, size_t K, const Left& A, const float* B, size_t ldb, float* workspace) {
    Operands p;
    p.M = M, p.pairs = up((K + 1) / 2, kPairs), p.ldb = odd_lines(N), p.sums = workspace;
    p.lda = odd_lines(p.pairs);
    uint32_t* b = (uint32_t*)workspace + 4 * kSide * kSide;
    const size_t used = (K + 1) / 2, rows = up(M, kSide);
    pack_down(K, N, B, ldb, b, p.ldb);
    for (size_t i = used * p.ldb; i < p.pairs * p.ldb; ++i) b[i] = 0;
    uint32_t* a = b + p.pairs * p.ldb;
    if (A.row == 1) {
        uint32_t* turned = a + rows * p.lda;
        pack_down(K, rows, A.at, A.col, turned, rows);
        for (size_t i = used * rows; i < p.pairs * rows; ++i) turned[i] = 0;
        for (size_t i = 0; i < rows; i += kSide)
            for (size_t k = 0; k < p.pairs; k += kSide)
                transpose_tile(turned + k * rows + i, rows, a + i * p.lda + k, p.lda);
    } else {
        for (size_t i = 0; i < rows * p.lda; ++i) a[i] = 0;
        pack_along(M, K, A.at, A.row, a, p.lda);
    }
    p.A = a, p.B = b;
    return p;
}

// Sums of 16 or 32 rows times 16 or 32 columns into p.sums: tile (row half, column half) at 256 (2 row + column).
template <bool two_rows, bool two_cols> void multiply(const Operands& p, size_t i, size_t j) {
    const size_t a_stride = 4 * p.lda, b_stride = 4 * p.ldb;
    const uint32_t *a = p.A + i * p.lda, *b = p.B + j;
    zero_sums<two_rows, two_cols>();
    for (size_t k = 0; k < p.pairs; k += kPairs, a += kPairs, b += kPairs * p.ldb) {
        _tile_loadd(4, a, a_stride);
        _tile_loadd(6, b, b_stride);
        if (two_cols) _tile_loadd(7, b + kSide, b_stride);
        if (two_rows) _tile_loadd(5, a + kSide * p.lda, a_stride);
        multiply_bf16<two_rows, two_cols>();
    }
    store_sums<two_rows, two_cols>(p.sums);
}

// row(i, j, v): the 16 sums of row i from column j on.
template <class Row> void for_rows(const Operands& p, size_t N, Row&& row) {
    const Tiles tiles;
    for (size_t j = 0; j < N; j += 2 * kSide)
        for (size_t i = 0; i < p.M; i += 2 * kSide) {
            const bool two_rows = i + kSide < p.M, two_cols = j + kSide < N;
            if (two_rows && two_cols)
                multiply<true, true>(p, i, j);
            else if (two_rows)
                multiply<true, false>(p, i, j);
            else if (two_cols)
                multiply<false, true>(p, i, j);
            else
                multiply<false, false>(p, i, j);
            for (size_t q = 0; q < 2 * kSide && i + q < p.M; ++q)
                for (size_t h = 0; h < (two_cols ? 2u : 1u); ++h)
                    row(i + q, j + h * kSide,
                        _mm512_loadu_ps(p.sums + 256 * (2 * (q / kSide) + h) + kSide * (q % kSide)));
        }
}

void gemm_rounded(size_t M, size_t N, size_t K, const float* A, size_t a_row, size_t a_col, float, const float* B,
                  size_t ldb, float, const float* D, size_t ldd, const float* bias, float* C, size_t ldc,
                  float* workspace) {
    const Operands p = pack(M, N, K, {A, a_row, a_col}, B, ldb, workspace);
    for_rows(p, N, [&](size_t i, size_t j, __m512 v) {
        v = _mm512_add_ps(v, _mm512_set1_ps(bias ? bias[i] : 0.0f));
        if (D) v = _mm512_add_ps(v, _mm512_loadu_ps(D + i * ldd + j));
        _mm512_storeu_ps(C + i * ldc + j, v);
    });
}

void gemm_dots_rounded(size_t M, size_t N, size_t K, const float* A, size_t a_row, size_t a_col, float, const float* B,
                       size_t ldb, float, const float* X, size_t ldx, double sums[2], float* workspace) {
    const Operands p = pack(M, N, K, {A, a_row, a_col}, B, ldb, workspace);
    __m512d square = _mm512_setzero_pd(), cross = square;
    const auto add = [](__m512d sum, __m512 v) {
        const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
        return _mm512_add_pd(_mm512_add_pd(sum, low), _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)));
    };
    for_rows(p, N, [&](size_t i, size_t j, __m512 v) {
        square = add(square, _mm512_mul_ps(v, v));
        cross = add(cross, _mm512_mul_ps(v, _mm512_loadu_ps(X + i * ldx + j)));
    });
    sums[0] = _mm512_reduce_add_pd(square), sums[1] = _mm512_reduce_add_pd(cross);
}

} // namespace

extern "C" void bqq_kernels_amx(bqq_kernels* table) {
    table->gemm_rounded = gemm_rounded;
    table->gemm_dots_rounded = gemm_dots_rounded;
    table->tile[0] = bqq_product{tile_tables<TileFloat32>, tile_lookup<TileFloat32>};
    table->tile[1] = bqq_product{tile_tables<TileInt8>, tile_lookup<TileInt8>};
    table->costs = kCostsAmx;
}
