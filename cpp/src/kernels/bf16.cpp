// isa: bf16
// level: 40
// arch: x86_64
// over: avx512
// cpu: avx512vnni,avx512bf16
// msvc: /arch:AVX512
//
// The solver's rounded products on bfloat16 pairs (vdpbf16ps, twice the float32 rate). Operands are packed first, as
// pairs of neighbours along K: A as [M][K/2] or [K/2][M], B as [K/2][N].
#include "kernels/for_tiles_inl.hpp"
#include "kernels/pack_bf16_inl.hpp"
#include "kernels/x86.hpp"

namespace {

constexpr int kTileRows = 12, kTileVectors = 2;

inline __m512i load(const uint32_t* p) { return _mm512_loadu_si512(p); }

// K counts pairs. A(i,k) = A[i*a_row + k*a_col].
template <int MR, int NV> struct Tile {
    __m512 c[MR][NV];

    void multiply(size_t K, const uint32_t* A, size_t a_row, size_t a_col, const uint32_t* B, size_t ldb) {
        for (int i = 0; i < MR; ++i)
            for (int v = 0; v < NV; ++v) c[i][v] = _mm512_setzero_ps();
        for (size_t k = 0; k < K; ++k, A += a_col, B += ldb) {
            __m512i b[NV];
            for (int v = 0; v < NV; ++v) b[v] = load(B + 16 * v);
            for (int i = 0; i < MR; ++i) {
                const __m512i a = _mm512_set1_epi32(int(A[size_t(i) * a_row]));
                for (int v = 0; v < NV; ++v) c[i][v] = _mm512_dpbf16_ps(c[i][v], (__m512bh)a, (__m512bh)b[v]);
            }
        }
    }
};

struct Operands {
    size_t K; // pairs
    const uint32_t *A, *B;
    size_t a_row, a_col, ldb;
};

struct Store : Operands {
    const float *D, *bias;
    float* C;
    size_t ldd, ldc;
    template <int MR, int NV> void tile(size_t i, size_t j) {
        Tile<MR, NV> t;
        t.multiply(K, A + i * a_row, a_row, a_col, B + j, ldb);
        for (int q = 0; q < MR; ++q) {
            const __m512 start = _mm512_set1_ps(bias ? bias[i + size_t(q)] : 0.0f);
            for (int v = 0; v < NV; ++v) {
                __m512 sum = _mm512_add_ps(t.c[q][v], start);
                if (D) sum = _mm512_add_ps(sum, _mm512_loadu_ps(D + (i + size_t(q)) * ldd + j + size_t(16 * v)));
                _mm512_storeu_ps(C + (i + size_t(q)) * ldc + j + size_t(16 * v), sum);
            }
        }
    }
};

struct Dots : Operands {
    const float* X;
    size_t ldx;
    double square, cross;
    template <int MR, int NV> void tile(size_t i, size_t j) {
        Tile<MR, NV> t;
        t.multiply(K, A + i * a_row, a_row, a_col, B + j, ldb);
        __m512 s = _mm512_setzero_ps(), x = s;
        for (int q = 0; q < MR; ++q)
            for (int v = 0; v < NV; ++v) {
                s = _mm512_fmadd_ps(t.c[q][v], t.c[q][v], s);
                x = _mm512_fmadd_ps(t.c[q][v], _mm512_loadu_ps(X + (i + size_t(q)) * ldx + j + size_t(16 * v)), x);
            }
        square += _mm512_reduce_add_ps(s);
        cross += _mm512_reduce_add_ps(x);
    }
};

Operands pack(size_t M, size_t N, size_t K, const Left& A, const float* B, size_t ldb, float* workspace) {
    uint32_t* b = (uint32_t*)workspace;
    const size_t pairs = (K + 1) / 2, b_stride = odd_lines(N);
    pack_down(K, N, B, ldb, b, b_stride);
    uint32_t* a = b + pairs * b_stride;
    if (A.row == 1) {
        const size_t width = (M + 15) / 16 * 16, stride = odd_lines(width);
        pack_down(K, width, A.at, A.col, a, stride);
        return {pairs, a, b, 1, stride, b_stride};
    }
    const size_t stride = (pairs + 7) / 8 * 8;
    pack_along(M, K, A.at, A.row, a, stride);
    return {pairs, a, b, stride, 1, b_stride};
}

void gemm_rounded(size_t M, size_t N, size_t K, const float* A, size_t a_row, size_t a_col, float, const float* B,
                  size_t ldb, float, const float* D, size_t ldd, const float* bias, float* C, size_t ldc,
                  float* workspace) {
    Store op;
    static_cast<Operands&>(op) = pack(M, N, K, {A, a_row, a_col}, B, ldb, workspace);
    op.D = D, op.bias = bias, op.C = C, op.ldd = ldd, op.ldc = ldc;
    for_tiles<kTileRows, kTileVectors, 16>(op, M, N);
}

void gemm_dots_rounded(size_t M, size_t N, size_t K, const float* A, size_t a_row, size_t a_col, float, const float* B,
                       size_t ldb, float, const float* X, size_t ldx, double sums[2], float* workspace) {
    Dots op;
    static_cast<Operands&>(op) = pack(M, N, K, {A, a_row, a_col}, B, ldb, workspace);
    op.X = X, op.ldx = ldx, op.square = op.cross = 0;
    for_tiles<kTileRows, kTileVectors, 16>(op, M, N);
    sums[0] = op.square, sums[1] = op.cross;
}

} // namespace

extern "C" void bqq_kernels_bf16(bqq_kernels* table) {
    table->gemm_rounded = gemm_rounded;
    table->gemm_dots_rounded = gemm_dots_rounded;
    table->largest = nullptr;
}
