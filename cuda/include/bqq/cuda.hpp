// The GPU's twins of decompose, extend and matmul. Every array is on the current device; `stream` is a cudaStream_t
// (NULL is the legacy default stream) on which work is ordered after what the caller has put there. No header of CUDA
// is needed.
//
// Errors are those of the CPU's functions; a failing CUDA call is Error(internal) with its name and text, no memory on
// the device std::bad_alloc, no device Error(unsupported).
#pragma once

#include "bqq/decompose.hpp"
#include "bqq/prepared.hpp"

namespace bqq::cuda {

/// Number of usable devices; 0 without a driver. Never throws.
BQQ_API int devices() noexcept;

/// Where the result of a decomposition goes: arrays on the device with the sizes of Layout::y_bytes(), z_bytes() and
/// scales_count().
struct Result {
    std::uint8_t *Y, *Z;
    float* scales;
};

/// Finds the stacks of `layout` (from make_layout) for W, layout.m x layout.n, row-major with ldw >= n elements between
/// rows. The search follows the recipe of bqq::decompose with the same random numbers, on all blocks at once; sums are
/// in another order, so results differ from the CPU's as seeds do. The same call on the same kind of device gives the
/// same bits. Returns when the result is complete. Options: l, patch and threads are ignored; weight,
/// order and outliers are Error(unsupported), and so is a q with orders or entries below. Memory on the device: at the
/// default l about 6 block-sized float arrays for each block, for as many blocks at a time as 1 GiB holds. progress is
/// called on the calling thread.
BQQ_API void decompose(const Layout& layout, const float* W, Index ldw, const DecomposeOptions& options,
                       const Result& out, void* stream);

/// out (x.rows x x.cols, row-major, without gaps) = x: what decompose reads, from another dtype or other strides. Does
/// not wait.
BQQ_API void to_float32(const ConstArray& x, float* out, void* stream);

/// As bqq::extend: q on the device, `layout` that of q with more stacks.
BQQ_API void extend(const View& q, const Layout& layout, const float* W, Index ldw, const DecomposeOptions& options,
                    const Result& out, void* stream);

/// Planes re-ordered for matmul, of W_hat or (transposed) of W_hat^T. `buffer`: prepared_size bytes on the device,
/// aligned to 16. q is not validated. Does not wait.
BQQ_API std::size_t prepared_size(const Layout& layout, bool transposed);
BQQ_API void prepare(const View& q, bool transposed, void* buffer, std::size_t size, void* stream);

/// What prepare wrote to `at`, and of what.
struct PreparedPlanes {
    const Layout& layout;
    bool transposed;
    const void* at;
};

/// out (m x batch) = W_hat X (n x batch), or W_hat^T X. Float32 class: within 1e-5 of the norm of each column; with X
/// and out of float16 or bfloat16, 2e-3 before the result is rounded. `workspace`: workspace_size bytes on the device,
/// aligned to 16, one for each call in flight. Does not wait. MatmulOptions: accumulate alone is used.
/// Throws Error(invalid_argument) on shapes that do not fit.
BQQ_API std::size_t workspace_size(const Layout& layout, bool transposed, Index batch);
BQQ_API void matmul(const PreparedPlanes& q, const ConstArray& X, const Array& out, void* workspace, std::size_t size,
                    void* stream, const MatmulOptions& options = {});

} // namespace bqq::cuda
