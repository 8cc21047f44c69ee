// Products with a compressed matrix on the device: W_hat x and W_hat^T x from bit planes; W_hat is never formed. Device
// pointers, work ordered on the stream that comes last; nothing is allocated here and nothing waits.
//
// Two stages, as on the CPU (cpp/DESIGN.md, "Centred product"):
//   stage 1   v = (Z - 1/2) x        block column k: the Z of all blocks (j, k) and stacks under one another
//   stage 2   y = (Y - 1/2) w        block row j: the Y of all blocks (j, k) and stacks side by side, w = r v + shift
//   sigma
// and every row of block row j gets  sum_k ( constant_jk sigma_k + sum_i total_i sum(v_i) ),  sigma_k = sum(x_k).
#pragma once

#include "bqq/prepared.hpp"
#include "portable.cuh"

namespace bqq::cuda {

/// The planes in words of 32 columns, word by word with the rows next to each other, so that neighbouring threads read
/// neighbouring words. Of What, or of W_hat^T if transposed.
struct Planes {
    Index m, n, rows, cols; ///< of the matrix that is multiplied: exchanged if transposed
    int J, K, p, l;
    bool transposed;

    Planes(const Layout& a, bool transposed);
    int z_words() const { return int((cols + 31) / 32); }
    int l_words() const { return (l + 31) / 32; }
    Index inner_width() const { return Index(J) * p * l; } ///< rows of stage 1
    Index y_words() const { return Index(K) * p * l_words(); }
    std::size_t z_size() const {
        return std::size_t(K) * std::size_t(z_words()) * std::size_t(inner_width());
    } ///< words
    std::size_t y_size() const { return std::size_t(J) * std::size_t(y_words()) * std::size_t(rows); } ///< words
    std::size_t blocks() const { return std::size_t(J) * std::size_t(K); }
    /// Offsets in bytes into the prepared memory: stacks (three floats r, s + r/2, r/2 + t each), constants, Z, Y.
    std::size_t constants_at() const { return 0; }
    std::size_t stacks_at() const { return 8 * blocks(); }
    std::size_t z_at() const { return stacks_at() + up(12 * blocks() * std::size_t(p)); }
    std::size_t y_at() const { return z_at() + up(4 * z_size()); }
    std::size_t bytes() const { return y_at() + up(4 * y_size()); }

  private:
    static std::size_t up(std::size_t bytes) { return (bytes + 15) / 16 * 16; }
};

/// Fills `prepared` (Planes::bytes(), aligned to 16) from planes and scales in the layout of bqq::View, all on the
/// device. O(bytes).
cudaError_t prepare(const Layout& a, const std::uint8_t* Y, const std::uint8_t* Z, const float* scales, bool transposed,
                    void* prepared, cudaStream_t stream);

/// How a product is computed: up to `tables` columns by looking up sums of four inputs in shared memory, more on tensor
/// cores, with operands split into two or three bfloat16 terms.
struct ProductLaunch {
    int terms = 3;  ///< 3: float32 class, 2: float16 class (2^-16 relative to the inputs)
    int tables = 4; ///< widest batch that tables are used for
    bool accumulate = false;
};

/// Bytes of workspace for `batch` columns, aligned to 16.
std::size_t matmul_workspace(const Planes& launches, Index batch, const ProductLaunch& launch);

/// out (m x batch) = W_hat x (n x batch); arrays on the device, any strides and dtypes, out must not overlap x.
cudaError_t matmul(const Planes& launches, const void* prepared, const ConstArray& x, const Array& out,
                   const ProductLaunch& launch, void* workspace, cudaStream_t stream);

} // namespace bqq::cuda
