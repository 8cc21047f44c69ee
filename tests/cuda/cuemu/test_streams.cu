// Streams, memory and errors as the CUDA run-time library has them, and what is found on the host's side.
#include "planted.hpp"

#include <sys/wait.h>
#include <unistd.h>

using namespace planted;

namespace {

KERNEL(wrong) {
    INDEX;
    out[t] = __shfl_sync(0xFFFFu, in[t], 0); // lanes that the mask has not
}

cudaStream_t new_stream() {
    cudaStream_t s = nullptr;
    device::must(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    return s;
}

} // namespace

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

    launch_kernel(wrong, dim3(1), dim3(threads), 0, nullptr, a.out.at(), static_cast<const float*>(a.in.at()));
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
        launch_kernel(wrong, dim3(1), dim3(threads), 0, nullptr, a.out.at(), static_cast<const float*>(a.in.at()));
        std::exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 70);
}
