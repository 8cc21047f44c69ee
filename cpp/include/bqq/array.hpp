// Dense arrays that products read and write.
#pragma once

#include "bqq/error.hpp"

namespace bqq {

/// Numbers are part of the C ABI (bqq_dtype in bqq.h).
enum class Dtype : int { f32 = 0, f16 = 1, bf16 = 2, f64 = 3 };

/// A strided 2-D array; strides in elements, may be negative or zero.
struct ConstArray {
    const void* data = nullptr;
    Dtype dtype = Dtype::f32;
    Index rows = 0, cols = 0;
    Index row_stride = 0, col_stride = 0;
};
struct Array {
    void* data = nullptr;
    Dtype dtype = Dtype::f32;
    Index rows = 0, cols = 0;
    Index row_stride = 0, col_stride = 0;
};

} // namespace bqq
