// What the tests of the emulated Python module call through ctypes beside the module itself: what a user's own array
// library does with a device.
#include "cuemu.h"

#include <cuda_runtime_api.h>

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void* emulated_malloc(std::size_t size) {
    void* p = nullptr;
    return cudaMalloc(&p, size) == cudaSuccess ? p : nullptr;
}
EXPORT int emulated_free(void* p) { return cudaFree(p); }
EXPORT void* emulated_malloc_host(std::size_t size) {
    void* p = nullptr;
    return cudaMallocHost(&p, size) == cudaSuccess ? p : nullptr;
}
/// A stream that the default stream does not wait for.
EXPORT void* emulated_stream() {
    cudaStream_t stream = nullptr;
    return cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess ? stream : nullptr;
}
EXPORT int emulated_copy(void* to, const void* from, std::size_t size, cudaStream_t stream) {
    return cudaMemcpyAsync(to, from, size, cudaMemcpyDefault, stream);
}
EXPORT int emulated_wait(cudaStream_t stream, cudaStream_t before) {
    cudaEvent_t event = nullptr;
    cudaEventCreate(&event);
    cudaEventRecord(event, before);
    const cudaError_t e = cudaStreamWaitEvent(stream, event, 0);
    cudaEventDestroy(event);
    return e;
}
EXPORT int emulated_synchronize(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
/// Work of a stream runs only when something waits for it; streams in ascending (0), descending or random order.
EXPORT void emulated_defer(bool defer, int order, std::uint64_t seed) {
    cudaDeviceSynchronize();
    cuemu::options().defer = defer;
    cuemu::options().order = static_cast<cuemu::Order>(order);
    cuemu::options().seed = seed;
}
/// The findings since the last call.
EXPORT const char* emulated_reports() {
    static std::string text;
    text = cuemu::take_reports();
    return text.c_str();
}
