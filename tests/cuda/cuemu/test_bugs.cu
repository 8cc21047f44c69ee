// Kernels that are wrong on purpose, one for each thing that the emulation has to find. This tests the emulation: a bug
// that it no longer sees fails here. Most need the checked build; what the fast one sees as well is marked `always`.
#include "planted.hpp"

using namespace planted;

namespace {

// ---- threads of a block

KERNEL(no_barrier) {
    SHARED(float, s, [threads]);
    INDEX;
    s[t] = in[t];
    out[t] = s[threads - 1 - t];
}
KERNEL(barrier_too_few_in_a_loop) {
    SHARED(float, s, [threads]);
    INDEX;
    s[t] = in[t];
    __syncthreads();
    for (int k = 0; k < 3; ++k) {
        const float v = s[(t + 1) % threads];
        s[t] = v; // others may still read the old value
        __syncthreads();
    }
    out[t] = s[t];
}
KERNEL(lost_update) {
    SHARED(float, sum, [1]);
    INDEX;
    if (t == 0) sum[0] = 0;
    __syncthreads();
    sum[0] += in[t];
    __syncthreads();
    out[t] = sum[0];
}
KERNEL(atomic_and_plain_read) {
    SHARED(float, sum, [1]);
    INDEX;
    if (t == 0) sum[0] = 0;
    __syncthreads();
    atomicAdd(&sum[0], in[t]);
    out[t] = sum[0];
}
KERNEL(no_syncwarp) {
    SHARED(float, s, [threads]);
    INDEX;
    s[t] = in[t];
    out[t] = s[t ^ 1];
}
KERNEL(shuffle_as_fence) {
    SHARED(float, s, [threads]);
    INDEX;
    s[t] = in[t];
    const float v = __shfl_xor_sync(full_warp, in[t], 1);
    out[t] = s[t ^ 1] - v;
}
KERNEL(syncwarp_between_warps) {
    SHARED(float, s, [threads]);
    INDEX;
    s[t] = in[t];
    __syncwarp();
    out[t] = s[t ^ 32];
}
KERNEL(syncwarp_of_the_wrong_half) {
    SHARED(float, s, [threads]);
    INDEX;
    s[t] = in[t];
    __syncwarp(t % 32 < 16 ? 0xFFFFu : 0xFFFF0000u);
    out[t] = s[t ^ 16];
}
KERNEL(bytes_side_by_side_then_a_word) {
    SHARED(std::uint32_t, s, [threads / 4]);
    INDEX;
    reinterpret_cast<unsigned char*>(s)[t] = std::uint8_t(t); // no race: each thread its byte
    if (t == 0) out[0] = float(s[1]) + in[0];                 // race: bytes of others
}

// ---- blocks

KERNEL(two_blocks_write_one_place) {
    INDEX;
    out[t] = in[t] + float(blockIdx.x);
}
KERNEL(block_reads_what_another_writes) {
    INDEX;
    if (blockIdx.x == 0)
        out[t] = in[t];
    else if (out[t] == 5)
        return;
}

// ---- barriers and warps that do not meet

KERNEL(divergent_barrier) {
    SHARED(float, s, [threads]);
    INDEX;
    if (t < 64) {
        s[t] = in[t];
        __syncthreads();
    } else {
        s[t] = 2 * in[t];
        __syncthreads();
    }
    out[t] = s[t];
}
KERNEL(half_a_warp_shuffles) {
    INDEX;
    float v = in[t];
    if (t % 32 < 16)
        v += __shfl_xor_sync(full_warp, v, 1);
    else
        __syncthreads();
    out[t] = v;
}
KERNEL(lane_not_in_mask) {
    INDEX;
    out[t] = __shfl_sync(0xFFFFu, in[t], 0);
}
KERNEL(different_masks) {
    INDEX;
    out[t] = __shfl_sync(t % 2 ? 0xFFFFFFFFu : 0x7FFFFFFFu, in[t], 0);
}
KERNEL(tensor_core_in_a_branch) {
    INDEX;
    float c[4] = {};
    const std::uint32_t a[4] = {}, b[2] = {};
    if (t % 32 < 31)
        mma_bf16(c, a, b);
    else
        __syncwarp();
    out[t] = c[0] + in[t];
}

// ---- addresses

KERNEL(behind_a_global_array) {
    INDEX;
    out[t + (t == threads - 1)] = in[t];
}
KERNEL(before_a_global_array) {
    INDEX;
    out[t] = in[t - 1];
}
KERNEL(behind_a_shared_array) {
    SHARED(float, s, [threads]);
    SHARED(float, next, [threads]);
    INDEX;
    float* p = s;
    p[t + 1] = in[t];
    next[t] = 0;
    out[t] = 0;
}
KERNEL(behind_dynamic_shared_memory) { // none was asked for
    SHARED_DYN(raw);
    INDEX;
    reinterpret_cast<float*>(raw)[t] = in[t];
    out[t] = 0;
}
KERNEL(behind_a_local_array) {
    INDEX;
    float local[4] = {0, 1, 2, 3};
    out[t] = local[int(in[t]) % 8];
}
KERNEL(misaligned_vector) {
    INDEX;
    const float4 v = *reinterpret_cast<const float4*>(in + 1);
    out[t] = v.x + v.w;
}
KERNEL(misaligned_ldmatrix) {
    SHARED(float, s, [threads + 4]);
    INDEX;
    s[t] = 0;
    if (t < 4) s[threads + t] = 0;
    __syncthreads();
    std::uint32_t r[4];
    ldmatrix_x4(r, s + 1);
    out[t] = float(r[0]) + in[t];
}
float host_variable = 1; // written below, or it would be a constant
KERNEL(host_variable_in_a_kernel) {
    INDEX;
    out[t] = in[t] + host_variable;
}
KERNEL(local_memory_of_another_thread) {
    SHARED(const float*, p, [threads]);
    INDEX;
    const float mine[2] = {in[t], in[t] + 1};
    p[t] = mine;
    __syncthreads();
    out[t] = p[t ^ 1][0];
    __syncthreads();
}

// ---- values

KERNEL(uninitialised_shared) {
    SHARED(float, s, [threads]);
    INDEX;
    if (t < 100) s[t] = in[t];
    __syncthreads();
    out[t] = s[t];
}
KERNEL(uninitialised_global) {
    INDEX;
    out[t] += in[t];
}
KERNEL(shift_out_of_range) {
    INDEX;
    out[t] = float(1u << int(in[t]));
}
KERNEL(signed_overflow) {
    INDEX;
    out[t] = float(int(in[t]) * 100000000);
}

// ---- asynchronous copies

KERNEL(copy_async_without_wait) {
    SHARED(float4, s, [threads]);
    INDEX;
    copy_async(&s[t], in + t / 4 * 4);
    copy_async_commit();
    copy_async_wait<1>();
    out[t] = s[t].x;
}
KERNEL(copy_async_without_barrier) {
    SHARED(float4, s, [threads]);
    INDEX;
    copy_async(&s[t], in + t / 4 * 4);
    copy_async_commit();
    copy_async_wait<0>();
    out[t] = s[t ^ 33].x;
}

// ---- resources

KERNEL(too_much_static_shared_memory) {
    SHARED(float, s, [49 * 256]);
    INDEX;
    s[t] = in[t];
    out[t] = s[t];
}

KERNEL(static_and_dynamic_shared_memory) {
    SHARED(float, s, [256]);
    SHARED_DYN(raw);
    float* d = reinterpret_cast<float*>(raw);
    INDEX;
    s[t] = d[t] = in[t];
    out[t] = s[t] + d[t];
}

} // namespace

TEST(races_in_a_block) {
    MUST_FIND(no_barrier, "RACE");
    MUST_FIND(barrier_too_few_in_a_loop, "RACE (write after read)");
    MUST_FIND(lost_update, "RACE");
    MUST_FIND(atomic_and_plain_read, "RACE");
    MUST_FIND(no_syncwarp, "RACE");
    MUST_FIND(shuffle_as_fence, "RACE");
    MUST_FIND(syncwarp_between_warps, "RACE");
    MUST_FIND(syncwarp_of_the_wrong_half, "RACE");
    MUST_FIND(bytes_side_by_side_then_a_word, "RACE");
}

TEST(races_between_blocks) {
    MUST_FIND(two_blocks_write_one_place, "RACE (write after write)", false, 2);
    MUST_FIND(block_reads_what_another_writes, "RACE", false, 2);
}

TEST(threads_that_do_not_meet) {
    MUST_FIND(divergent_barrier, "DIVERGENT BARRIER", true);
    MUST_FIND(half_a_warp_shuffles, "DEADLOCK", true);
    MUST_FIND(lane_not_in_mask, "LANE NOT IN MASK", true);
    MUST_FIND(different_masks, "", true); // reported as a lane not in its mask or as a deadlock
    MUST_FIND(tensor_core_in_a_branch, "DEADLOCK", true);
}

TEST(wrong_addresses) {
    host_variable = 2;
    MUST_FIND(behind_a_global_array, "OUT OF BOUNDS");
    MUST_FIND(before_a_global_array, "OUT OF BOUNDS");
    MUST_FIND(behind_a_shared_array, "OUT OF BOUNDS");
    MUST_FIND(behind_dynamic_shared_memory, "OUT OF BOUNDS");
    MUST_FIND(behind_a_local_array, "OUT OF BOUNDS: index");
    MUST_FIND(misaligned_vector, "MISALIGNED");
    MUST_FIND(misaligned_ldmatrix, "MISALIGNED", true);
    MUST_FIND(host_variable_in_a_kernel, "ILLEGAL ADDRESS");
    MUST_FIND(local_memory_of_another_thread, "local memory of another thread");
    must_find("host_pointer", "ILLEGAL ADDRESS", false,
              [](Arrays& a) { launch_kernel(copies, dim3(1), dim3(threads), 0, nullptr, a.out.at(), a.host.data()); });
    must_find("use_after_free", "USE AFTER FREE", false, [](Arrays& a) {
        float* gone = nullptr;
        {
            Array<float> b(a.host);
            gone = b.at();
        }
        launch_kernel(copies, dim3(1), dim3(threads), 0, nullptr, a.out.at(), gone);
    });
}

TEST(wrong_values) {
    MUST_FIND(uninitialised_shared, "UNINITIALISED READ");
    MUST_FIND(uninitialised_global, "UNINITIALISED READ");
    MUST_FIND(shift_out_of_range, "UNDEFINED BEHAVIOUR: shift");
    MUST_FIND(signed_overflow, "UNDEFINED BEHAVIOUR: signed overflow");
}

TEST(asynchronous_copies) {
    MUST_FIND(copy_async_without_wait, "UNINITIALISED READ");
    MUST_FIND(copy_async_without_barrier, "RACE");
}

TEST(shared_memory_limits) {
    MUST_FIND(too_much_static_shared_memory, "SHARED MEMORY LIMIT", true);
    const Arrays a;
    const auto launch = [&](dim3 shape, std::size_t smem) {
        return launch_kernel(copies, dim3(1), shape, smem, nullptr, a.out.at(), static_cast<const float*>(a.in.at()));
    };
    CHECK_EQ(launch(dim3(threads), 227 << 10), cudaSuccess);
    CHECK_EQ(launch(dim3(threads), (227 << 10) + 1), cudaErrorInvalidValue);
    CHECK_EQ(launch(dim3(1025), 0), cudaErrorInvalidConfiguration);
    CHECK_EQ(launch(dim3(0), 0), cudaErrorInvalidConfiguration);
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(1);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = (48 << 10) + 16;
    CHECK_EQ(cuemu::launch(config, divergent_barrier, a.out.at(), a.in.at()), cudaErrorInvalidValue); // no opt-in
    must_find("no_opt_in_for_static_and_dynamic", "SHARED MEMORY LIMIT", true, [&](Arrays& b) {
        config.dynamicSmemBytes = 48 << 10;
        (void)cuemu::launch(config, static_and_dynamic_shared_memory, b.out.at(), b.in.at());
    });
    const auto* kernel = reinterpret_cast<const void*>(static_and_dynamic_shared_memory); // its arrays are known now
    const auto attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
    CHECK_EQ(cudaFuncSetAttribute(kernel, attribute, 227 << 10), cudaErrorInvalidValue);
    CHECK_EQ(cudaFuncSetAttribute(kernel, attribute, 226 << 10), cudaSuccess);
    CHECK_EQ(cuemu::launch(config, static_and_dynamic_shared_memory, a.out.at(), a.in.at()), cudaSuccess);
    CHECK_EQ(cudaDeviceSynchronize(), cudaSuccess);
    CHECK_EQ(cudaFuncSetAttribute(kernel, attribute, -1), cudaErrorInvalidValue);
    CHECK_EQ(cudaGetLastError(), cudaErrorInvalidValue);
    CHECK_EQ(cudaGetLastError(), cudaSuccess);
}
