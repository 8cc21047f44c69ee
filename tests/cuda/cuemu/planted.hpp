// What the tests of the emulation share: kernels of one shape, their arrays, what has to be found when they run.
#pragma once

#include "check.hpp"
#include "device.hpp"

#include <functional>
#include <string>

namespace planted {

using namespace bqq::cuda;
using device::Array;

constexpr int threads = 128;

// Each kernel is launched with `threads` threads, out and in of `threads` floats, in[i] = i.
#define KERNEL(name) __global__ void __launch_bounds__(threads) name(float* out, const float* in)
#define INDEX const int t = int(threadIdx.x)

KERNEL(copies) {
    INDEX;
    out[t] = in[t];
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
inline std::string found(cuemu::Order order, const std::function<void(Arrays&)>& work) {
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

inline void must_find(const char* name, const char* kind, bool always, const std::function<void(Arrays&)>& work) {
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

inline void must_find(const char* name, void (*kernel)(float*, const float*), const char* kind, bool always = false,
                      unsigned blocks = 1) {
    must_find(name, kind, always, [=](Arrays& a) {
        launch_kernel(kernel, dim3(blocks), dim3(threads), 0, nullptr, a.out.at(),
                      static_cast<const float*>(a.in.at()));
    });
}
#define MUST_FIND(kernel, ...) must_find(#kernel, kernel, __VA_ARGS__)

} // namespace planted
