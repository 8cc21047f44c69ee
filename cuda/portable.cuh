// The one header where the two builds of the kernels differ: nvcc for GPUs, and the host compiler against the emulation
// in tests/cuda/cuemu, which runs every kernel without a GPU. Everything else in cuda/ is plain CUDA C++.
// Instructions that CUDA C++ has no name for are inline PTX here, each with an emulated twin in cuemu/mma.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cuda_runtime.h>
#include <utility>

#if defined(__CUDACC__)
/// Shared array of a block: SHARED(float, tile, [32][33]);
#define SHARED(type, name, dims) __shared__ type name dims
/// The dynamic shared memory of the launch, aligned to 16 bytes: SHARED_DYN(raw); raw is an unsigned char*.
#define SHARED_DYN(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace bqq::cuda {

constexpr unsigned full_warp = 0xFFFFFFFFu; ///< the lane mask of all 32 lanes

/// Allows `kernel` all the dynamic shared memory that the device has beside its static arrays: without it both together
/// have 48 KiB. Always the same number, so that host threads with launches of different sizes take nothing from each
/// other. The driver keeps it for each device.
inline cudaError_t allow_shared_memory(const void* kernel) {
    int device = 0, most = 0;
    cudaFuncAttributes now = {};
    cudaError_t e = cudaGetDevice(&device);
    if (e == cudaSuccess) e = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (e == cudaSuccess) e = cudaFuncGetAttributes(&now, kernel);
    const int all = most - int(now.sharedSizeBytes);
    if (e != cudaSuccess || now.maxDynamicSharedSizeBytes >= all) return e;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, all);
}

/// Launches kernel(args...) with `smem` bytes of dynamic shared memory.
template <class... P, class... A> cudaError_t launch_kernel(void (*kernel)(P...), dim3 grid, dim3 block,
                                                            std::size_t smem, cudaStream_t stream, A&&... args) {
    if (smem) {
        const cudaError_t e = allow_shared_memory(reinterpret_cast<const void*>(kernel));
        if (e != cudaSuccess) return e;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = smem;
    config.stream = stream;
#if defined(__CUDACC__)
    return cudaLaunchKernelEx(&config, kernel, std::forward<A>(args)...);
#else
    return cuemu::launch(config, kernel, std::forward<A>(args)...);
#endif
}

/// The same pointer; if `shared`, into shared memory, which the compiler then knows.
template <bool shared, class T> __device__ __forceinline__ T* known(T* p) {
#if defined(__CUDACC__)
    if (shared) {
        std::uint32_t at = std::uint32_t(__cvta_generic_to_shared(p));
        asm("" : "+r"(at)); // else the compiler would see through it
        return static_cast<T*>(__cvta_shared_to_generic(at));
    }
#endif
    return p;
}

// float16 and bfloat16 as 16-bit words. Narrowing rounds to nearest, ties to even; a NaN stays some NaN.

__device__ __forceinline__ float half_to_float(std::uint16_t h) {
#if defined(__CUDACC__)
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
    return x;
#else
    return cuemu::half_to_float(h);
#endif
}

__device__ __forceinline__ std::uint16_t float_to_half(float x) {
#if defined(__CUDACC__)
    std::uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
#else
    return cuemu::float_to_half(x);
#endif
}

__device__ __forceinline__ float bf16_to_float(std::uint16_t h) { return __uint_as_float(std::uint32_t(h) << 16); }

__device__ __forceinline__ std::uint16_t float_to_bf16(float x) {
#if defined(__CUDACC__)
    std::uint16_t h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
#else
    return cuemu::float_to_bf16(x);
#endif
}

/// Two values rounded into one register, `low` in bits 0..15.
__device__ __forceinline__ std::uint32_t pack_half(float low, float high) {
#if defined(__CUDACC__)
    std::uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return float_to_half(low) | std::uint32_t(float_to_half(high)) << 16;
#endif
}

__device__ __forceinline__ std::uint32_t pack_bf16(float low, float high) {
#if defined(__CUDACC__)
    std::uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return float_to_bf16(low) | std::uint32_t(float_to_bf16(high)) << 16;
#endif
}

// Tensor-core products of one whole warp: C (16 x 8, float32) += A (16 x 16) B (16 x 8), sums in float32 in any order.
// Fragments, with g = lane / 4, t = lane % 4, each 32-bit register two neighbours along k, the lower one in bits 0..15
// (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type"):
//   a[0] A[g][2t, 2t+1]   a[1] A[g+8][2t, 2t+1]   a[2] A[g][2t+8, 2t+9]   a[3] A[g+8][2t+8, 2t+9]
//   b[0] B[2t, 2t+1][g]   b[1] B[2t+8, 2t+9][g]
//   c[0], c[1] C[g][2t], C[g][2t+1]               c[2], c[3] C[g+8][2t], C[g+8][2t+1]

__device__ __forceinline__ void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
#if defined(__CUDACC__)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    cuemu::mma_m16n8k16(c, a, b, bf16_to_float, "mma.m16n8k16.bf16");
#endif
}

__device__ __forceinline__ void mma_half(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
#if defined(__CUDACC__)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    cuemu::mma_m16n8k16(c, a, b, half_to_float, "mma.m16n8k16.f16");
#endif
}

/// C (16 x 8, int) += A B, A 16 x 128 and B 128 x 8 bits. Of row g (and g + 8) of A word t is a[0] (a[1]), of column g
/// of B word t is b; c as above.
__device__ __forceinline__ void mma_bits(int (&c)[4], const std::uint32_t (&a)[2], std::uint32_t b) {
#if defined(__CUDACC__)
    asm volatile("mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3}, {%4,%5}, {%6}, "
                 "{%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b));
#else
    cuemu::mma_m16n8k128(c, a, b);
#endif
}

/// Four 8 x 8 tiles of 16-bit elements from shared memory into the fragments of mma: lane i names row i % 8 of tile
/// i / 8 (16 bytes, 16-byte aligned); register j of a lane becomes elements 2t, 2t+1 of row g of tile j. With
/// `transposed`, of column g: the B operand from row-major B, the A operand from A transposed.
template <bool transposed = false> __device__ __forceinline__ void ldmatrix_x4(std::uint32_t (&r)[4], const void* row) {
#if defined(__CUDACC__)
    const std::uint32_t at = std::uint32_t(__cvta_generic_to_shared(row));
    if (transposed)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
#else
    cuemu::ldmatrix_x4(r, row, transposed);
#endif
}

// Copies from global to shared memory that run beside the arithmetic: issue, commit a group, wait until at most
// `pending` of this thread's groups are left. Others see the data after a barrier that follows the wait.

/// 16 bytes, both addresses aligned to 16.
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
#if defined(__CUDACC__)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(std::uint32_t(__cvta_generic_to_shared(shared))),
                 "l"(global)
                 : "memory");
#else
    cuemu::copy_async(shared, global);
#endif
}

__device__ __forceinline__ void copy_async_commit() {
#if defined(__CUDACC__)
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    cuemu::copy_async_commit();
#endif
}

template <int pending> __device__ __forceinline__ void copy_async_wait() {
#if defined(__CUDACC__)
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#else
    cuemu::copy_async_wait(pending);
#endif
}

} // namespace bqq::cuda
