// What the tests of the emulated Python module call through ctypes besides the CUDA runtime's own functions.
#include "cuemu.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

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
