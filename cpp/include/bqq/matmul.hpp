// Products with a compressed matrix, computed from its bit planes; What is never formed.
//
//   What x = sum_i Y_i ( r_i v_i + s_i sigma ) + ( sum_i t_i sum(v_i) + u sigma ) 1,   v_i = Z_i x,  sigma = sum(x)
#pragma once

#include "bqq/types.hpp"

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

/// A prepared matrix is one relocatable block of memory the caller owns: the planes re-ordered for the kernels of this
/// machine. It does not refer to the view it was made from. Not for files: another machine may want another order.
BQQ_API std::size_t prepared_size(const View& q);
/// `buffer`: prepared_size(q) bytes, 64-byte aligned. Throws Error(invalid_argument).
BQQ_API void prepare(const View& q, void* buffer, std::size_t size);

/// out (m x batch) = What * X (n x batch). Arithmetic in float32: 2e-5 of the norm of the result against float64.
/// out must not overlap X. threads as in DecomposeOptions; small products stay on the calling thread.
/// Throws Error(invalid_argument) on shapes that do not fit, std::bad_alloc.
BQQ_API void matmul(const void* prepared, const ConstArray& X, const Array& out, int threads = 0);

/// Rows [row_begin, row_end) of the product, on the calling thread, without allocation: for engines with a pool of
/// their own. `out` is the whole m x batch array. Cheapest when row_begin and row_end are multiples of the block rows.
/// `workspace`: workspace_size(prepared, batch) bytes, 64-byte aligned, one per concurrent call.
BQQ_API std::size_t workspace_size(const void* prepared, Index batch);
BQQ_API void matmul_rows(const void* prepared, const ConstArray& X, const Array& out, Index row_begin, Index row_end,
                         void* workspace);

} // namespace bqq
