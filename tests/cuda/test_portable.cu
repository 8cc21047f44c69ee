// Everything in cuda/portable.cuh, and the parts of CUDA that kernels use, in small correct kernels: the GPU and the
// emulation must agree on them, and the emulation must find nothing wrong.
#include "check.hpp"
#include "device.hpp"
#include "half.hpp"

#include <atomic>
#include <bitset>
#include <cmath>
#include <random>
#include <thread>

using namespace bqq::cuda;
using device::Array;
using device::must;
using namespace bqq::detail; // half.hpp

namespace {

std::vector<float> uniform(std::size_t n, unsigned seed) {
    std::mt19937 engine(seed);
    std::uniform_real_distribution<float> draw(-1, 1);
    std::vector<float> x(n);
    for (float& v : x) v = draw(engine);
    return x;
}

__device__ float warp_sum(float v) {
    for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(full_warp, v, d);
    return v;
}

/// The sum of the last elements of a dynamic and a static array, each holding its indices.
__global__ void __launch_bounds__(64) both_kinds_of_shared(int* out, int words) {
    SHARED_DYN(raw);
    SHARED(int, s, [64]);
    int* d = reinterpret_cast<int*>(raw);
    for (int i = int(threadIdx.x); i < words / 64 * 64; i += 64) d[i] = i;
    s[threadIdx.x] = int(threadIdx.x);
    __syncthreads();
    if (threadIdx.x == 0) *out = (words ? d[words / 64 * 64 - 1] + 1 : 0) + s[63];
}

/// One sum per block of 256 threads; called twice by each thread, so that the barrier before the reuse matters.
__device__ float block_sum(float v) {
    SHARED(float, part, [8]);
    v = warp_sum(v);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = v;
    __syncthreads();
    float sum = 0;
    for (float p : part) sum += p;
    return sum;
}

__global__ void __launch_bounds__(256) sums(const float* x, float* out, int n) {
    float v = 0, squares = 0;
    for (int i = int(blockIdx.x) * 1024 + int(threadIdx.x); i < min(n, int(blockIdx.x + 1) * 1024); i += 256) {
        v += x[i];
        squares = fmaf(x[i], x[i], squares);
    }
    v = block_sum(v);
    squares = block_sum(squares);
    if (threadIdx.x == 0) {
        out[2 * blockIdx.x] = v;
        out[2 * blockIdx.x + 1] = squares;
    }
}

/// C (32 x 32) = A (32 x 32) B (32 x 32) in bfloat16 or float16, four warps; A by ldmatrix, B by its transposed form.
template <bool bf16> __global__ void __launch_bounds__(128)
    gemm(const std::uint16_t* A, const std::uint16_t* B, float* C) {
    SHARED_DYN(raw);
    auto* a = reinterpret_cast<std::uint16_t*>(raw);
    std::uint16_t* b = a + 32 * 40; // rows of 80 bytes: 16-byte aligned, spread over the banks
    const int row = int(threadIdx.x) / 4, part = int(threadIdx.x) % 4 * 8;
    copy_async(a + row * 40 + part, A + row * 32 + part);
    copy_async_commit();
    copy_async(b + row * 40 + part, B + row * 32 + part);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, m0 = warp / 2 * 16, n0 = warp % 2 * 16;
    float c[2][4] = {};
    for (int k = 0; k < 32; k += 16) {
        std::uint32_t fa[4], fb[4];
        ldmatrix_x4(fa, a + (m0 + lane % 16) * 40 + k + lane / 16 * 8);
        ldmatrix_x4<true>(fb, b + (k + lane % 16) * 40 + n0 + lane / 16 * 8);
        for (int j = 0; j < 2; ++j) {
            const std::uint32_t half[2] = {fb[2 * j], fb[2 * j + 1]};
            if (bf16)
                mma_bf16(c[j], fa, half);
            else
                mma_half(c[j], fa, half);
        }
    }
    for (int j = 0; j < 2; ++j)
        for (int i = 0; i < 4; ++i) C[(m0 + lane / 4 + i / 2 * 8) * 32 + n0 + j * 8 + lane % 4 * 2 + i % 2] = c[j][i];
}

/// The same product from fragments loaded element by element: what PTX says, without ldmatrix.
__global__ void __launch_bounds__(32) gemm_by_elements(const std::uint16_t* A, const std::uint16_t* B, float* C) {
    const int g = int(threadIdx.x) / 4, t = int(threadIdx.x) % 4, m0 = int(blockIdx.y) * 16, n0 = int(blockIdx.x) * 8;
    float c[4] = {};
    for (int k = 0; k < 32; k += 16) {
        std::uint32_t a[4], b[2];
        for (int i = 0; i < 4; ++i) {
            const std::uint16_t* p = A + (m0 + g + i % 2 * 8) * 32 + k + 2 * t + i / 2 * 8;
            a[i] = p[0] | std::uint32_t(p[1]) << 16;
        }
        for (int i = 0; i < 2; ++i) {
            const std::uint16_t* p = B + (k + 2 * t + i * 8) * 32 + n0 + g;
            b[i] = p[0] | std::uint32_t(p[32]) << 16;
        }
        mma_bf16(c, a, b);
    }
    for (int i = 0; i < 4; ++i) C[(m0 + g + i / 2 * 8) * 32 + n0 + 2 * t + i % 2] = c[i];
}

/// C (16 x 8) = pairs of bits of rows of A (16 x 8 words) and columns of B (8 x 8 words), in pointers to shared memory.
__global__ void __launch_bounds__(32) pairs_of_bits(const std::uint32_t* A, const std::uint32_t* B, int* C) {
    SHARED(std::uint32_t, words, [24 * 8]);
    std::uint32_t* w = known<true>(&words[0]);
    const int g = int(threadIdx.x) / 4, t = int(threadIdx.x) % 4;
    for (int i = int(threadIdx.x); i < 24 * 8; i += 32) w[i] = i < 128 ? A[i] : B[i - 128];
    __syncwarp();
    int c[4] = {};
    for (int k = 0; k < 8; k += 4) {
        const std::uint32_t a[2] = {w[g * 8 + k + t], w[(g + 8) * 8 + k + t]};
        mma_bits(c, a, w[(16 + g) * 8 + k + t]);
    }
    for (int i = 0; i < 4; ++i) C[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = c[i];
}

__global__ void __launch_bounds__(64) histogram(const int* x, unsigned* counts, unsigned* ballots, int n) {
    SHARED(unsigned, bins, [16]);
    if (threadIdx.x < 16) bins[threadIdx.x] = 0;
    __syncthreads();
    for (int i = int(blockIdx.x * 64 + threadIdx.x); i < n; i += int(gridDim.x) * 64) atomicAdd(&bins[x[i]], 1u);
    __syncthreads();
    if (threadIdx.x < 16) atomicAdd(&counts[threadIdx.x], bins[threadIdx.x]);
    const unsigned odd = __ballot_sync(full_warp, threadIdx.x & 1);
    const int all = __syncthreads_count(odd == 0xAAAAAAAAu);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        ballots[0] = odd;
        ballots[1] = unsigned(all);
    }
}

/// Warps of their own: a rotation through shared memory, ordered by __syncwarp alone, halves of a warp apart.
__global__ void __launch_bounds__(96) half_warps(int* out, int n) {
    SHARED(int, box, [96]);
    const int id = int(threadIdx.x), lane = id & 31, base = id & ~15;
    const unsigned mine = lane < 16 ? 0xFFFFu : 0xFFFF0000u;
    box[id] = id;
    __syncwarp(mine);
    int v = box[base + (lane + 1) % 16];
    __syncwarp(mine);
    box[id] = v;
    __syncwarp(mine);
    v = box[base + (lane + 1) % 16] * 100 + __shfl_sync(mine, v, 3, 16);
    if (id < n) out[id] = v;
}

/// The upper half of the block leaves before the last barrier, and 70 threads are no whole number of warps.
__global__ void __launch_bounds__(70) early_exit(int* out) {
    SHARED(int, box, [70]);
    const int id = int(threadIdx.x);
    box[id] = id;
    __syncthreads();
    out[id] = box[69 - id];
    if (id >= 35) return;
    __syncthreads();
    box[id] = 1000 + id;
    __syncthreads();
    out[id] += box[34 - id];
}

__global__ void __launch_bounds__(32) conversions(const float* x, std::uint32_t* out, int n) {
    const int i = int(threadIdx.x);
    if (i >= n) return;
    out[4 * i] = float_to_half(x[i]);
    out[4 * i + 1] = float_to_bf16(x[i]);
    out[4 * i + 2] = __float_as_uint(half_to_float(std::uint16_t(out[4 * i])));
    out[4 * i + 3] = pack_bf16(x[i], 1.0f) ^ pack_half(2.0f, x[i]);
}

template <class Kernel> std::vector<float> product(Kernel kernel, dim3 grid, dim3 shape, std::size_t smem, bool bf16) {
    const auto narrow = [&](const std::vector<float>& x) {
        std::vector<std::uint16_t> y;
        for (float v : x) y.push_back(bf16 ? f32_to_bf16(v) : f32_to_f16(v));
        return y;
    };
    const std::vector<std::uint16_t> A = narrow(uniform(1024, 1)), B = narrow(uniform(1024, 2));
    const Array<std::uint16_t> a(A), b(B);
    Array<float> c(1024);
    must(launch_kernel(kernel, grid, shape, smem, nullptr, a.at(), b.at(), c.at()));
    std::vector<float> error = c.get();
    for (int i = 0; i < 32; ++i)
        for (int j = 0; j < 32; ++j) {
            double sum = 0;
            for (int k = 0; k < 32; ++k) {
                const std::uint16_t x = A[i * 32 + k], y = B[k * 32 + j];
                sum += bf16 ? double(bf16_to_f32(x)) * bf16_to_f32(y) : double(f16_to_f32(x)) * f16_to_f32(y);
            }
            error[i * 32 + j] -= float(sum);
        }
    return error;
}

} // namespace

TEST(sums_of_blocks) {
    for (int n : {1, 255, 1024, 2500}) {
        const std::vector<float> x = uniform(std::size_t(n), 3);
        const int blocks = (n + 1023) / 1024;
        Array<float> out(std::size_t(2 * blocks));
        must(launch_kernel(sums, dim3(unsigned(blocks)), dim3(256), 0, nullptr, Array<float>(x).at(), out.at(), n));
        const std::vector<float> y = out.get();
        for (int b = 0; b < blocks; ++b) {
            double sum = 0, squares = 0;
            for (int i = b * 1024; i < std::min(n, (b + 1) * 1024); ++i) sum += x[i], squares += double(x[i]) * x[i];
            CHECK_NEAR(y[2 * b], sum, 1e-4);
            CHECK_NEAR(y[2 * b + 1], squares, 1e-4);
        }
    }
}

TEST(static_and_dynamic_shared_memory_beyond_48_KB) {
    for (const int words : {0, 11000, 12250, 20000, 11000, 40000}) {
        Array<int> out(1);
        must(launch_kernel(both_kinds_of_shared, dim3(1), dim3(64), std::size_t(words) * 4, nullptr, out.at(), words));
        CHECK_EQ(out.get()[0], words / 64 * 64 + 63);
    }
}

// A launch with less shared memory takes nothing from one that needs more.
TEST(host_threads_launch_with_different_sizes) {
    constexpr std::size_t little = 50 << 10, much = 150 << 10;
    const auto launch = [](std::size_t bytes, const Array<int>& out) {
        return launch_kernel(both_kinds_of_shared, dim3(1), dim3(64), bytes, cudaStreamPerThread, out.at(), 64);
    };
    const Array<int> out(1);
    must(launch(much, out));
    must(launch(little, out));
    cudaFuncAttributes allowed = {};
    must(cudaFuncGetAttributes(&allowed, reinterpret_cast<const void*>(both_kinds_of_shared)));
    CHECK(std::size_t(allowed.maxDynamicSharedSizeBytes) >= much);

    std::atomic<int> arrived{0};
    cudaError_t worst[2] = {cudaSuccess, cudaSuccess};
    const auto work = [&](int thread) {
        const Array<int> own(1);
        for (int i = 0; i < 300; ++i) {
            for (++arrived; arrived < 2 * (i + 1);) std::this_thread::yield();
            const cudaError_t e = launch(thread ? little : much, own);
            if (e != cudaSuccess) worst[thread] = e;
        }
        must(cudaStreamSynchronize(cudaStreamPerThread));
    };
    std::thread other(work, 1);
    work(0);
    other.join();
    for (const cudaError_t e : worst) CHECK_EQ(e, cudaSuccess);
}

TEST(tensor_core_product) {
    const std::size_t smem = 2 * 32 * 80;
    for (float e : product(gemm<true>, dim3(1), dim3(128), smem, true)) CHECK_NEAR(e, 0, 1e-5);
    for (float e : product(gemm<false>, dim3(1), dim3(128), smem, false)) CHECK_NEAR(e, 0, 1e-5);
    for (float e : product(gemm_by_elements, dim3(4, 2), dim3(32), 0, true)) CHECK_NEAR(e, 0, 1e-5);
}

TEST(products_of_bits) {
    std::mt19937 engine(4);
    std::vector<std::uint32_t> A(128), B(64);
    for (auto* words : {&A, &B})
        for (std::uint32_t& word : *words) word = std::uint32_t(engine());
    const Array<int> C(128);
    must(launch_kernel(pairs_of_bits, dim3(1), dim3(32), 0, nullptr, Array<std::uint32_t>(A).at(),
                       Array<std::uint32_t>(B).at(), C.at()));
    const std::vector<int> counts = C.get();
    for (std::size_t i = 0; i < 16; ++i)
        for (std::size_t j = 0; j < 8; ++j) {
            int sum = 0;
            for (std::size_t k = 0; k < 8; ++k) sum += int(std::bitset<32>(A[i * 8 + k] & B[j * 8 + k]).count());
            CHECK_EQ(counts[i * 8 + j], sum);
        }
}

TEST(atomics_and_votes) {
    std::vector<int> x(1000);
    std::vector<unsigned> expected(16);
    for (int i = 0; i < 1000; ++i) ++expected[x[i] = i * 7 % 16];
    Array<unsigned> counts(16), ballots(2);
    must(cudaMemset(counts.at(), 0, 64));
    must(launch_kernel(histogram, dim3(3), dim3(64), 0, nullptr, Array<int>(x).at(), counts.at(), ballots.at(), 1000));
    CHECK(counts.get() == expected);
    CHECK((ballots.get() == std::vector<unsigned>{0xAAAAAAAAu, 64}));
}

TEST(parts_of_warps) {
    Array<int> out(96);
    must(launch_kernel(half_warps, dim3(1), dim3(96), 0, nullptr, out.at(), 96));
    const std::vector<int> y = out.get();
    for (int id = 0; id < 96; ++id) {
        const int base = id & ~15, lane = id & 15;
        CHECK_EQ(y[id], (base + (lane + 2) % 16) * 100 + base + 4);
    }
}

TEST(threads_that_leave) {
    Array<int> out(70);
    must(launch_kernel(early_exit, dim3(1), dim3(70), 0, nullptr, out.at()));
    const std::vector<int> y = out.get();
    for (int id = 0; id < 70; ++id) CHECK_EQ(y[id], 69 - id + (id < 35 ? 1034 - id : 0));
}

TEST(conversions_of_16_bit) {
    const std::vector<float> x = {0.0f, -1.5f, 65504.0f, 1e-7f, 3.14159274f, -1e30f};
    Array<std::uint32_t> out(4 * x.size());
    must(launch_kernel(conversions, dim3(1), dim3(32), 0, nullptr, Array<float>(x).at(), out.at(), int(x.size())));
    const std::vector<std::uint32_t> y = out.get();
    const std::uint32_t half[] = {0, 0xBE00, 0x7BFF, 2, 0x4248, 0xFC00},
                        bf16[] = {0, 0xBFC0, 0x4780, 0x33D7, 0x4049, 0xF14A};
    for (std::size_t i = 0; i < x.size(); ++i) {
        CHECK_EQ(y[4 * i], half[i]);
        CHECK_EQ(y[4 * i + 1], bf16[i]);
        CHECK_EQ(y[4 * i + 3], (bf16[i] | 0x3F800000u) ^ (half[i] << 16 | 0x4000u));
    }
    CHECK_EQ(y[4 * 2 + 2], 0x477FE000u);
}
