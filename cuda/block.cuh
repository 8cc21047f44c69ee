// Sums over the threads of a warp and a block, always in the same order.
#pragma once

#include "portable.cuh"

namespace bqq::cuda {

__device__ __forceinline__ int lane_of_thread() { return int(threadIdx.x) % 32; }
__device__ __forceinline__ int warp_of_thread() { return int(threadIdx.x) / 32; }
__device__ __forceinline__ int warps_of_block() { return int(blockDim.x) / 32; }

/// The sum over the warp's lanes, in every lane.
template <class T> __device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (int d = 16; d; d /= 2) x += __shfl_xor_sync(full_warp, x, d);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int d = 16; d; d /= 2) x = fmaxf(x, __shfl_xor_sync(full_warp, x, d));
    return x;
}

/// The first half of block_sum: sums of `count` values over each warp, to room[warp * stride + i].
template <int count, class T> __device__ __forceinline__ void warp_sums(const T (&x)[count], T* room, int stride) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
        const T sum = warp_sum(x[i]);
        if (lane_of_thread() == 0) room[warp_of_thread() * stride + i] = sum;
    }
}

/// The second, by one thread after a barrier.
template <class T> __device__ __forceinline__ T sum_of_warps(const T* room, int stride, int i) {
    T sum = 0;
    for (int w = 0; w < warps_of_block(); ++w) sum += room[w * stride + i];
    return sum;
}

/// Sums of `count` values of every thread, in thread 0 after the call. room: `count` for each warp, shared; a barrier
/// before its next use is the caller's.
template <int count, class T> __device__ __forceinline__ void block_sum(T (&x)[count], T* room) {
    warp_sums(x, room, count);
    __syncthreads();
    if (threadIdx.x == 0)
#pragma unroll
        for (int i = 0; i < count; ++i) x[i] = sum_of_warps(room, count, i);
}

} // namespace bqq::cuda
