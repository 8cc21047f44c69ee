// What the tests of the kernels share: arrays on the device, errors as exceptions, skipping without a device.
#pragma once

#include "portable.cuh"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

namespace device {

inline void must(cudaError_t e) {
    if (e != cudaSuccess) throw std::runtime_error(cudaGetErrorString(e));
}

/// Ends the test program with the code of a skipped test where there is no GPU (the emulation always has one).
inline bool there_is_one = [] {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) return true;
    std::printf("no CUDA device\n");
    std::exit(77);
}();

/// An array on the device.
template <class T> class Array {
  public:
    explicit Array(std::size_t size) : size_(size) {
        must(cudaMalloc(reinterpret_cast<void**>(&at_), size * sizeof(T)));
    }
    explicit Array(const std::vector<T>& x) : Array(x.size()) { set(x); }
    Array(const Array&) = delete;
    Array& operator=(const Array&) = delete;
    ~Array() { cudaFree(at_); }
    T* at() const { return at_; }
    std::size_t size() const { return size_; }
    void set(const std::vector<T>& x) const {
        must(cudaMemcpy(at_, x.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
    }
    std::vector<T> get(std::size_t first, std::size_t count) const {
        std::vector<T> x(count);
        must(cudaMemcpy(x.data(), at_ + first, count * sizeof(T), cudaMemcpyDeviceToHost));
        return x;
    }
    std::vector<T> get() const { return get(0, size_); }

  private:
    T* at_ = nullptr;
    std::size_t size_;
};

} // namespace device
