// cuemu runs CUDA C++ kernels on the CPU, for tests only. README.md beside it says how and what it finds.
// This header gives .cu files the device side of CUDA: built-in variables, shared memory, launches; the other headers
// barriers and warp operations, intrinsics and atomics, tensor cores. The rest is in the .cpp files.
#pragma once

#if defined(__CUDACC__)
#error "cuemu is for the host compiler; nvcc takes the toolkit's own header"
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <cuda_runtime_api.h>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#undef __shared__
#define __shared__ cuemu_use_the_SHARED_macro_of_portable_cuh
#undef __constant__
#define __constant__ // of constants with an initialiser only
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__

// Written by the scheduler at every switch; const here, as on the device, so that reading them is not checked.
extern "C" {
extern const uint3 threadIdx, blockIdx;
extern const dim3 blockDim, gridDim;
}
static constexpr int warpSize = 32;

namespace cuemu {

/// A place in the source; as a default argument, the place of the call.
struct Where {
    const char* file;
    int line;
    static constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
};

enum class Order { ascending, descending, random };

/// Settings, first taken from the environment: CUEMU_SEED, CUEMU_ORDER, CUEMU_PREEMPT, CUEMU_DEFER, CUEMU_PROTECT.
struct Options {
    std::uint64_t seed = 0;
    Order order = Order::random; ///< of blocks, of threads after each barrier, of streams
    unsigned preempt = 0;        ///< N > 0: at each checked access, another thread goes on with chance 1/N
    bool defer = false;          ///< work of a stream runs only when something waits for it
    bool protect = false;        ///< device memory cannot be touched by host code
};
Options& options();

/// All findings since the last call, one a line; empty if there were none. What nobody takes is printed at
/// exit, and the program ends with 70.
std::string take_reports();

/// True in a checked build, where the compiler reports loads and stores.
bool checked();

struct Counters {
    std::uint64_t blocks, switches, accesses;
};
Counters counters(); ///< since the start of the process

enum class Barrier { sync, any, all, count };
int barrier(Barrier kind, int predicate, Where at);

/// The live lanes of `mask` meet here; the last to come calls meet(requests, present lanes), absent ones being null.
/// Without `meet` it is __syncwarp, the only one that orders memory.
using Meet = void (*)(void** requests, unsigned present);
void collective(unsigned mask, const char* what, void* request, Meet meet, Where at);
unsigned active_lanes();

enum class Access { read, write, atomic };
/// Checks an access that the emulation makes in the name of the current thread.
void access(const void* p, std::size_t bytes, Access kind, Where at, std::size_t align = 1);
/// Switches checking off while the emulation itself touches memory of the kernel.
struct Unchecked {
    Unchecked();
    ~Unchecked();
};

void* shared_array(const void* key, std::size_t bytes, std::size_t align, const char* name);
unsigned char* shared_dynamic();

/// A kernel with its arguments, ready to be called by each thread.
struct Call {
    std::shared_ptr<void> arguments;
    std::size_t bytes;
    void (*run)(void* arguments);
};
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, Call call);

template <class... P, class... A>
cudaError_t launch(const cudaLaunchConfig_t& config, void (*kernel)(P...), A&&... args) {
    struct Bound {
        void (*kernel)(P...);
        std::tuple<P...> args;
    };
    Call call{std::make_shared<Bound>(Bound{kernel, std::tuple<P...>(std::forward<A>(args)...)}), sizeof(Bound),
              [](void* p) { std::apply(static_cast<Bound*>(p)->kernel, static_cast<Bound*>(p)->args); }};
    return launch(config, reinterpret_cast<const void*>(kernel), std::move(call));
}

} // namespace cuemu

#define SHARED(type, name, dims)                                                                                       \
    typedef type name##_shared_type dims;                                                                              \
    static char name##_shared_key;                                                                                     \
    name##_shared_type& name = *static_cast<name##_shared_type*>(                                                      \
        cuemu::shared_array(&name##_shared_key, sizeof(name##_shared_type), alignof(name##_shared_type), #name))
#define SHARED_DYN(name) unsigned char* const name = cuemu::shared_dynamic()
