// One tile of a product C = A B on the threads of a block, in float32 or, rounded to bfloat16, on tensor cores. The
// operands are functions of their indices, so that what they are made of is combined on the way into shared memory.
#pragma once

#include "block.cuh"

namespace bqq::cuda {

/// A tile of `rows` x 64 (rows 64 or 128) by 4 * rows threads.
template <int rows_, bool rounded> struct ProductTile {
    static constexpr int rows = rows_, cols = 64, threads = 4 * rows;
    static constexpr int depth = rounded ? 32 : 16; // of a chunk of the sum
    static constexpr int a_quarter = rows / 4, b_quarter = cols / 4;
    static constexpr int ld = depth + 8;                   // rounded: pad rows so that fragments meet all banks
    static constexpr int ld_a = rows + 4, ld_b = cols + 4; // float32
    static constexpr int bytes = rounded ? (rows + cols) * ld * 2 : depth * (ld_a + ld_b) * 4;

    unsigned char* room;                // shared, `bytes`, aligned to 16
    std::uint32_t a_next[4], b_next[4]; // floats, or pairs of bfloat16

    __device__ __forceinline__ explicit ProductTile(unsigned char* shared) : room(shared) {}

    // Each thread brings the elements (i + quarter q, k) of a chunk: q < 4, two neighbouring k where rounded. `fast`
    // says which index is contiguous in memory.
    template <int quarter, bool k_fast> static __device__ __forceinline__ void place(int& i, int& k) {
        const int t = int(threadIdx.x);
        i = k_fast ? t / 16 : t % quarter;
        k = (k_fast ? t % 16 : t / quarter) * (rounded ? 2 : 1);
    }

    template <class A, class B>
    __device__ __forceinline__ void load(int i0, int j0, int k0, int M, int N, int K, const A& a, const B& b) {
        int i, j, ka, kb;
        place<a_quarter, A::k_fast>(i, ka);
        place<b_quarter, B::k_fast>(j, kb);
        const bool b_turn = threadIdx.x < 16 * b_quarter;
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            const int row = i0 + i + a_quarter * q, col = j0 + j + b_quarter * q;
            const auto from_a = [&](int k) { return row < M && k < K ? a(row, k) : 0.0f; };
            const auto from_b = [&](int k) { return b_turn && col < N && k < K ? b(k, col) : 0.0f; };
            if constexpr (rounded) {
                a_next[q] = pack_bf16(from_a(k0 + ka), from_a(k0 + ka + 1));
                b_next[q] = pack_bf16(from_b(k0 + kb), from_b(k0 + kb + 1));
            } else {
                a_next[q] = __float_as_uint(from_a(k0 + ka)), b_next[q] = __float_as_uint(from_b(k0 + kb));
            }
        }
    }

    template <class A, class B> __device__ __forceinline__ void store() {
        int i, j, ka, kb;
        place<a_quarter, A::k_fast>(i, ka);
        place<b_quarter, B::k_fast>(j, kb);
        const bool b_turn = threadIdx.x < 16 * b_quarter;
        if constexpr (rounded) {
            std::uint32_t* words = reinterpret_cast<std::uint32_t*>(room);
#pragma unroll
            for (int q = 0; q < 4; ++q) {
                words[((i + a_quarter * q) * ld + ka) / 2] = a_next[q];
                if (b_turn) words[((rows + j + b_quarter * q) * ld + kb) / 2] = b_next[q];
            }
        } else {
            uint4* at = reinterpret_cast<uint4*>(room);
            at[(ka * ld_a + 4 * i) / 4] = make_uint4(a_next[0], a_next[1], a_next[2], a_next[3]);
            if (b_turn)
                at[(depth * ld_a + kb * ld_b + 4 * j) / 4] = make_uint4(b_next[0], b_next[1], b_next[2], b_next[3]);
        }
    }

    // `height` x `width` of the tile are in use: what lies wholly outside is left out.
    __device__ __forceinline__ void multiply(float (&c)[4][4], int height, int width) const {
        if constexpr (rounded) {
            const std::uint32_t* words = reinterpret_cast<const std::uint32_t*>(room);
            const int lane = lane_of_thread(), g = lane / 4, t = lane % 4;
            const int row = warp_of_thread() / 2 * 16 + g, col = warp_of_thread() % 2 * 32 + g;
            if (row - g >= height) return;
#pragma unroll 1
            for (int k = 0; k < depth; k += 16) {
                const int x = (row * ld + k) / 2 + t;
                const std::uint32_t a[4] = {words[x], words[x + 4 * ld], words[x + 4], words[x + 4 * ld + 4]};
#pragma unroll
                for (int v = 0; v < 4; ++v) {
                    if (col - g + 8 * v >= width) continue;
                    const int y = ((rows + col + 8 * v) * ld + k) / 2 + t;
                    const std::uint32_t b[2] = {words[y], words[y + 4]};
                    mma_bf16(c[v], a, b);
                }
            }
        } else {
            const float4* at = reinterpret_cast<const float4*>(room);
            const int tx = int(threadIdx.x) % 16, ty = int(threadIdx.x) / 16;
            if (ty >= height || tx >= width) return;
#pragma unroll 4
            for (int k = 0; k < depth; ++k) {
                const float4 x = at[(k * ld_a + 4 * ty) / 4], y = at[(depth * ld_a + k * ld_b + 4 * tx) / 4];
                const float a[4] = {x.x, x.y, x.z, x.w}, b[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
                for (int p = 0; p < 4; ++p)
#pragma unroll
                    for (int q = 0; q < 4; ++q) c[p][q] = fmaf(a[p], b[q], c[p][q]);
            }
        }
    }

    /// Calls out(i, j, sum_k a(i, k) b(k, j)) for the elements of C (M x N) in the tile at (i0, j0). a and b are asked
    /// within their bounds only; what they read was written before the last barrier. All threads of the block call
    /// this.
    template <class A, class B, class Out>
    __device__ __forceinline__ void run(int i0, int j0, int M, int N, int K, const A& a, const B& b, Out&& out) {
        float c[4][4] = {};
        load(i0, j0, 0, M, N, K, a, b);
        for (int k0 = 0; k0 < K; k0 += depth) {
            __syncthreads();
            store<A, B>();
            __syncthreads();
            if (k0 + depth < K) load(i0, j0, k0 + depth, M, N, K, a, b);
            multiply(c, M - i0, N - j0);
        }
        const int lane = lane_of_thread(), tx = int(threadIdx.x) % 16, ty = int(threadIdx.x) / 16;
#pragma unroll
        for (int p = 0; p < 4; ++p)
#pragma unroll
            for (int q = 0; q < 4; ++q) {
                const int i = i0 + (rounded ? warp_of_thread() / 2 * 16 + lane / 4 + 8 * (q / 2) : ty + a_quarter * p);
                const int j =
                    j0 + (rounded ? warp_of_thread() % 2 * 32 + 8 * p + 2 * (lane % 4) + q % 2 : tx + b_quarter * q);
                if (i < M && j < N) out(i, j, c[p][q]);
            }
    }
};

} // namespace bqq::cuda
