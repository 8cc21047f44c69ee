// Kernels that are wrong on purpose, one for each thing that the emulation has to find. This tests the emulation: a bug
// that it no longer sees fails here. Most need the checked build; what the fast one sees as well is marked `always`.
#include "check.hpp"
#include "device.hpp"

#include <functional>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

using namespace bqq::cuda;
using device::Array;

namespace {

constexpr int threads = 128;

// Each kernel is launched with `threads` threads, out and in of `threads` floats, in[i] = i.
#define KERNEL(name) __global__ void __launch_bounds__(threads) name(float* out, const float* in)
#define INDEX const int t = int(threadIdx.x)

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
KERNEL(copies) {
    INDEX;
    out[t] = in[t];
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

cudaStream_t new_stream() {
    cudaStream_t s = nullptr;
    device::must(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    return s;
}

struct Arrays {
    std::vector<float> host;
    Array<float> in, out;

    Arrays() : host(values()), in(host), out(threads) {}
    static std::vector<float> values() {
        std::vector<float> x(threads);
        for (int i = 0; i < threads; ++i) x[i] = float(i);
        return x;
    }
};

/// What is found when `work` is done, in the order of the calls; the error code must be there as well.
std::string found(cuemu::Order order, const std::function<void(Arrays&)>& work) {
    cuemu::options().order = order;
    cuemu::options().defer = false;
    Arrays arrays;
    work(arrays);
    const cudaError_t e = cudaDeviceSynchronize();
    const std::string text = cuemu::take_reports();
    cudaDeviceReset();
    if (!text.empty()) CHECK(e != cudaSuccess);
    return text;
}

void must_find(const char* name, const char* kind, bool always, const std::function<void(Arrays&)>& work) {
    const cuemu::Order before = cuemu::options().order;
    for (cuemu::Order order : {cuemu::Order::ascending, cuemu::Order::descending, cuemu::Order::random}) {
        const std::string text = found(order, work);
        if (text.find(kind) == std::string::npos && (always || cuemu::checked()))
            check::fail(__FILE__, __LINE__, std::string(name) + ": no " + kind + " in '" + text + "'");
        if (order == cuemu::Order::random && !text.empty())
            std::printf("  %s", text.substr(0, text.find('\n') + 1).c_str());
    }
    cuemu::options().order = before;
}

void must_find(const char* name, void (*kernel)(float*, const float*), const char* kind, bool always = false,
               unsigned blocks = 1) {
    must_find(name, kind, always, [=](Arrays& a) {
        launch_kernel(kernel, dim3(blocks), dim3(threads), 0, nullptr, a.out.at(),
                      static_cast<const float*>(a.in.at()));
    });
}
#define MUST_FIND(kernel, ...) must_find(#kernel, kernel, __VA_ARGS__)

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

TEST(work_that_does_not_wait_for_a_stream) {
    const auto chain = [](Arrays& a, int wait, bool copy) {
        const cudaStream_t first = new_stream(), second = new_stream();
        cudaEvent_t event;
        device::must(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
        Array<float> middle(threads);
        device::must(cudaDeviceSynchronize());
        if (copy)
            cudaMemcpyAsync(middle.at(), a.in.at(), threads * sizeof(float), cudaMemcpyDeviceToDevice, first);
        else
            launch_kernel(copies, dim3(1), dim3(threads), 0, first, middle.at(), static_cast<const float*>(a.in.at()));
        cudaEventRecord(event, first);
        if (wait == 1) cudaStreamWaitEvent(second, event, 0);
        if (wait == 2) cudaStreamSynchronize(first);
        if (wait == 3) cudaEventSynchronize(event);
        launch_kernel(copies, dim3(1), dim3(threads), 0, second, a.out.at(), static_cast<const float*>(middle.at()));
        cudaDeviceSynchronize();
        cudaEventDestroy(event);
        cudaStreamDestroy(first);
        cudaStreamDestroy(second);
    };
    for (bool copy : {false, true}) {
        must_find("no_stream_wait", "STREAM ORDER", false, [=](Arrays& a) { chain(a, 0, copy); });
        for (int wait : {1, 2, 3})
            CHECK_EQ(found(cuemu::Order::random,
                           [=](Arrays& a) {
                               chain(a, wait, copy);
                               CHECK(a.out.get() == a.host);
                           }),
                     "");
    }
    must_find("written_while_it_is_read", "STREAM ORDER (write after read)", false, [](Arrays& a) {
        const cudaStream_t first = new_stream(), second = new_stream();
        const float* in = a.in.at();
        launch_kernel(copies, dim3(1), dim3(threads), 0, first, a.out.at(), in);
        launch_kernel(copies, dim3(1), dim3(threads), 0, second, a.in.at(), in);
        cudaStreamDestroy(first);
        cudaStreamDestroy(second);
    });
}

TEST(deferred_work_runs_when_something_waits) {
    const bool before = cuemu::options().defer;
    cuemu::options().defer = true;
    {
        const Arrays a;
        float* pinned = nullptr;
        device::must(cudaMallocHost(reinterpret_cast<void**>(&pinned), threads * sizeof(float)));
        pinned[0] = -1;
        const cudaStream_t s = new_stream();
        launch_kernel(copies, dim3(1), dim3(threads), 0, s, a.out.at(), static_cast<const float*>(a.in.at()));
        cudaMemcpyAsync(pinned, a.out.at(), threads * sizeof(float), cudaMemcpyDeviceToHost, s);
        CHECK_EQ(pinned[0], -1);
        CHECK_EQ(cudaStreamQuery(s), cudaErrorNotReady);
        device::must(cudaStreamSynchronize(s));
        CHECK_EQ(pinned[threads - 1], float(threads - 1));
        launch_kernel(copies, dim3(1), dim3(threads), 0, nullptr, a.out.at(), static_cast<const float*>(a.in.at()));
        CHECK(a.out.get() == a.host); // a copy waits for the default stream
        device::must(cudaStreamDestroy(s));
        device::must(cudaFreeHost(pinned));
    }
    cuemu::options().defer = before;
}

TEST(errors_are_sticky_and_pointers_known) {
    cudaPointerAttributes about;
    const Arrays a;
    device::must(cudaPointerGetAttributes(&about, a.in.at() + threads - 1));
    CHECK_EQ(about.type, cudaMemoryTypeDevice);
    device::must(cudaPointerGetAttributes(&about, a.host.data()));
    CHECK_EQ(about.type, cudaMemoryTypeUnregistered);
    CHECK_EQ(cudaMemcpy(a.in.at(), a.host.data(), (threads + 1) * sizeof(float), cudaMemcpyHostToDevice),
             cudaErrorInvalidValue);
    CHECK_EQ(cudaMemcpy(a.in.at(), a.host.data(), 4, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);

    launch_kernel(lane_not_in_mask, dim3(1), dim3(threads), 0, nullptr, a.out.at(),
                  static_cast<const float*>(a.in.at()));
    CHECK_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    void* p = nullptr;
    CHECK_EQ(cudaMalloc(&p, 16), cudaErrorLaunchFailure);
    CHECK_EQ(cudaGetLastError(), cudaErrorLaunchFailure);
    CHECK_EQ(cudaGetLastError(), cudaErrorLaunchFailure);
    CHECK(!cuemu::take_reports().empty());
    cudaDeviceReset();
    CHECK_EQ(cudaGetLastError(), cudaSuccess);
}

TEST(host_code_that_touches_device_memory) {
    if (!cuemu::checked()) return;
    const Arrays a;
    CHECK_EQ(a.in.at()[1], 1.0f);
    CHECK(cuemu::take_reports().find("HOST CODE TOUCHES DEVICE MEMORY") != std::string::npos);
}

TEST(findings_that_nobody_takes_fail_the_program) {
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        if (!std::freopen("/dev/null", "w", stderr)) std::_Exit(1);
        cuemu::options().defer = false; // else nothing would run: nothing waits for it
        const Arrays a;
        launch_kernel(lane_not_in_mask, dim3(1), dim3(threads), 0, nullptr, a.out.at(),
                      static_cast<const float*>(a.in.at()));
        std::exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 70);
}
