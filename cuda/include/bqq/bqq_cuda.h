// C interface of bqq on the GPU: the twins of bqq_decompose, bqq_extend and bqq_matmul. Everything that bqq.h says
// about errors, threads, numbers and growing structures holds here too; texts are in bqq_last_error.
//
// All arrays are in memory of the current device: w, the arrays of views, prepared, workspace, the data of x and out.
// Structures themselves are in host memory. `stream` is a cudaStream_t; NULL is the legacy default stream. Work is
// ordered behind what the caller has put on the stream. A machine without a usable device gets BQQ_UNSUPPORTED.
#ifndef BQQ_BQQ_CUDA_H
#define BQQ_BQQ_CUDA_H

#include "bqq/bqq.h"

#ifdef __cplusplus
extern "C" {
#endif

/// *count: usable devices, 0 without a driver.
BQQ_API bqq_status bqq_cuda_devices(int* count);

/// The sizes that a decomposition of an m x n matrix into p stacks has under `options` (l and patch; NULL: defaults),
/// the rest of *out NULL. Set out->struct_size before. The caller then allocates, and fills in,
///   y       J * K * p * rows * ceil(l/8) bytes
///   z       J * K * p * l * ceil(cols/8) bytes
///   scales  J * K * (3p+1) floats
BQQ_API bqq_status bqq_cuda_layout(int64_t m, int64_t n, int64_t p, const bqq_decompose_options* options,
                                   bqq_view* out);

/// Finds the stacks of w, m x n, row-major with ldw >= n elements between rows, and writes the arrays of `out`, which
/// bqq_cuda_layout has sized. All blocks are searched at once, with the random numbers of bqq_decompose; sums are in
/// another order, so results differ from its as seeds do. The same call on the same kind of device gives the same bits.
/// Returns when the result is complete. options: l, patch and threads are ignored; weight, order and outliers are
/// BQQ_UNSUPPORTED, and so is a view with orders or entries in all functions here. progress is called on the calling
/// thread. BQQ_INVALID_ARGUMENT, BQQ_OUT_OF_MEMORY, BQQ_CANCELLED, BQQ_UNSUPPORTED, BQQ_INTERNAL.
BQQ_API bqq_status bqq_cuda_decompose(const float* w, int64_t ldw, const bqq_decompose_options* options,
                                      const bqq_view* out, void* stream);

/// As bqq_extend: `out` has the sizes of `view` with more stacks.
BQQ_API bqq_status bqq_cuda_extend(const bqq_view* view, const float* w, int64_t ldw,
                                   const bqq_decompose_options* options, const bqq_view* out, void* stream);

/// *size: bytes that bqq_cuda_prepare needs for the sizes of `view`. O(1).
BQQ_API bqq_status bqq_cuda_prepared_size(const bqq_view* view, int transposed, size_t* size);

/// Re-orders the planes of `view` for products with W_hat or, if transposed is nonzero, W_hat^T. buffer: at least
/// bqq_cuda_prepared_size bytes, aligned to 16. Does not wait. The bits are not validated.
BQQ_API bqq_status bqq_cuda_prepare(const bqq_view* view, int transposed, void* buffer, size_t size, void* stream);

/// *size: bytes of workspace for `batch` >= 0 columns. O(1).
BQQ_API bqq_status bqq_cuda_workspace_size(const bqq_view* view, int transposed, int64_t batch, size_t* size);

/// Memory on the device.
typedef struct bqq_cuda_buffer {
    void* data;
    size_t size; ///< bytes
} bqq_cuda_buffer;

/// out (m x batch) = W_hat x (n x batch), or W_hat^T x. `view` gives the sizes, its arrays may be NULL. prepared:
/// filled by bqq_cuda_prepare with the same `transposed`. Any dtypes and strides; out must not overlap x. Float32
/// class: within 1e-5 of the norm of each column; with x and out of 16 bits, 2e-3. workspace: bqq_cuda_workspace_size
/// bytes, aligned to 16, one for each call in flight. options: accumulate alone is used; NULL: defaults. Does not wait.
BQQ_API bqq_status bqq_cuda_matmul(const bqq_view* view, int transposed, const void* prepared, const bqq_array* x,
                                   const bqq_array* out, const bqq_matmul_options* options,
                                   const bqq_cuda_buffer* workspace, void* stream);

#ifdef __cplusplus
}
#endif

#endif
