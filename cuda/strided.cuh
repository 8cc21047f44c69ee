// Elements of arrays of any dtype as float32; cpp/src/strided.hpp is the twin.
#pragma once

#include "bqq/prepared.hpp"
#include "portable.cuh"

namespace bqq::cuda {

__device__ __forceinline__ float read(const void* at, Dtype dtype, std::int64_t i) {
    switch (dtype) {
    case Dtype::f16:
        return half_to_float(static_cast<const std::uint16_t*>(at)[i]);
    case Dtype::bf16:
        return bf16_to_float(static_cast<const std::uint16_t*>(at)[i]);
    case Dtype::f64:
        return float(static_cast<const double*>(at)[i]);
    default:
        return static_cast<const float*>(at)[i];
    }
}

__device__ __forceinline__ void write(void* at, Dtype dtype, std::int64_t i, float x) {
    switch (dtype) {
    case Dtype::f16:
        static_cast<std::uint16_t*>(at)[i] = float_to_half(x);
        break;
    case Dtype::bf16:
        static_cast<std::uint16_t*>(at)[i] = float_to_bf16(x);
        break;
    case Dtype::f64:
        static_cast<double*>(at)[i] = double(x);
        break;
    default:
        static_cast<float*>(at)[i] = x;
    }
}

} // namespace bqq::cuda
