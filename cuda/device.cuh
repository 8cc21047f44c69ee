// Host side of the device: errors as exceptions, what it has, buffers.
#pragma once

#include "bqq/matrix.hpp"
#include "portable.cuh"

#include <new>
#include <string>
#include <vector>

namespace bqq::cuda {

/// Throws for a failed call; the error does not stay behind.
inline void check(cudaError_t e, const char* what) {
    if (e == cudaSuccess) return;
    (void)cudaGetLastError();
    if (e == cudaErrorMemoryAllocation) throw std::bad_alloc();
    if (e == cudaErrorNoDevice || e == cudaErrorInsufficientDriver)
        throw Error(ErrorCode::unsupported, std::string("no CUDA device: ") + cudaGetErrorString(e));
    throw Error(ErrorCode::internal, std::string(what) + ": " + cudaGetErrorString(e));
}

struct Limits {
    int shared;                                ///< bytes of shared memory a block may ask for
    int processors;                            ///< multiprocessors
    bool rounded;                              ///< has bfloat16 tensor cores
    std::size_t memory = std::size_t(1) << 30; ///< bytes for the blocks that are searched together
};

inline Limits device_limits() {
    int device = 0, shared = 0, processors = 0, major = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "cudaDeviceGetAttribute");
    check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
    if (major < 8) throw Error(ErrorCode::unsupported, "the GPU is older than compute capability 8.0");
    return {shared, processors, true};
}

/// An array on the device. Copies wait for the stream.
template <class T> class Buffer {
  public:
    explicit Buffer(Index size) : size_(std::size_t(size)) {
        void* at = nullptr;
        check(cudaMalloc(&at, size_ * sizeof(T)), "cudaMalloc");
        at_ = static_cast<T*>(at);
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { (void)cudaFree(at_); }
    T* at() const { return at_; }
    void clear(cudaStream_t stream) const {
        check(cudaMemsetAsync(at_, 0, size_ * sizeof(T), stream), "cudaMemsetAsync");
    }
    void set(const std::vector<T>& x, cudaStream_t stream) const {
        check(cudaMemcpyAsync(at_, x.data(), x.size() * sizeof(T), cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
        check(cudaStreamSynchronize(stream), "cudaStreamSynchronize"); // x may go
    }
    std::vector<T> get(Index count, cudaStream_t stream) const {
        std::vector<T> x(static_cast<std::size_t>(count));
        check(cudaMemcpyAsync(x.data(), at_, x.size() * sizeof(T), cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
        check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
        return x;
    }

  private:
    T* at_ = nullptr;
    std::size_t size_;
};

} // namespace bqq::cuda
