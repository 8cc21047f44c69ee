// Products with a compressed matrix, computed from its bit planes; no more than a tile of W_hat is ever formed.
//
//   W_hat x = sum_i Y_i ( r_i v_i + s_i sigma ) + ( sum_i t_i sum(v_i) + u sigma ) 1,   v_i = Z_i x,  sigma = sum(x)
#pragma once

#include "bqq/array.hpp"
#include "bqq/matrix.hpp"

#include <memory>

namespace bqq {

/// How exact a product is; the planes themselves are exact in both. Numbers are part of the C ABI (bqq_precision).
///   float32   within 2e-5 of the norm of the result (of each column's, against float64); observed 1e-7 to 1e-6
///   fast      mean squared error of the result at most 5e-4 of its mean square for inputs without extreme outliers,
///             wherever their mean is, which goes its own way exactly (4e-6 to 3e-4 for Gaussian ones). The kernel is
///             the library's choice: sums of four inputs in 8 bits, or of 256 in 16. Inputs below 1e-34 count as zero.
enum class Precision : int { float32 = 0, fast = 1 };

struct MatmulOptions {
    int threads = 0; ///< as in DecomposeOptions; small products stay on the calling thread. Ignored by matmul_rows.
    Precision precision = Precision::float32;
    bool accumulate = false; ///< out += W_hat X, rounded once to the type of out
};

/// A prepared matrix is one relocatable block of memory the caller owns: the planes of W_hat or, transposed, of
/// W_hat^T, re-ordered for the kernels of the instruction set in use. It does not refer to the view it was made from.
/// Another version or instruction set may refuse it. Not for files. Rows of a block are padded to 16 and columns to
/// 32: 1.01 times the planes for blocks of 128, at most 1.12 for those that make_layout chooses beyond 512 x 512,
/// but 2.1 for 33 x 33.
BQQ_API std::size_t prepared_size(const View& q, bool transposed = false);
/// `buffer`: prepared_size(q, transposed) bytes, 64-byte aligned. The transpose is made straight from the planes of q,
/// one plane of working memory at a time. O(bytes). Throws Error(invalid_argument), Error(format) if q is not valid.
BQQ_API void prepare(const View& q, void* buffer, std::size_t size, bool transposed = false);

/// out (m x batch) = W_hat * X (n x batch). out must not overlap X. A column of the result depends on its column of X
/// alone, bit for bit, not on threads or strides; on the batch only in that another number of columns may be computed
/// another way (cpp/DESIGN.md), within the same error. O(p l (m K + n J) batch) bit operations, K x J blocks.
/// Throws Error(invalid_argument) on shapes that do not fit, std::bad_alloc.
BQQ_API void matmul(const void* prepared, const ConstArray& X, const Array& out, const MatmulOptions& options = {});

/// Rows [row_begin, row_end) of the product, on the calling thread, without allocation: for engines with a pool of
/// their own. `out` is the whole m x batch array. Stage 1 is computed for the block rows the range touches, so it is
/// cheapest when row_begin and row_end are multiples of the block rows. Of a matrix with an order of its rows, every
/// block row that holds a wanted row is computed whole.
/// `workspace`: workspace_size(prepared, batch) bytes, enough for smaller batches too, 64-byte aligned, one per
/// concurrent call.
BQQ_API std::size_t workspace_size(const void* prepared, Index batch);
BQQ_API void matmul_rows(const void* prepared, const ConstArray& X, const Array& out, Index row_begin, Index row_end,
                         void* workspace, const MatmulOptions& options = {});

/// Owner of a prepared matrix, made straight from any view, one into a mapped file too: the view may go afterwards.
/// Shared by any number of threads.
class BQQ_API PreparedMatrix {
  public:
    explicit PreparedMatrix(const View& q, bool transposed = false);
    PreparedMatrix(PreparedMatrix&&) noexcept;
    PreparedMatrix& operator=(PreparedMatrix&&) noexcept;
    ~PreparedMatrix();

    const Layout& layout() const; ///< of the matrix that is multiplied: with rows and columns exchanged if transposed
    std::size_t nbytes() const;
    const void* data() const; ///< what the functions above take
    void matmul(const ConstArray& X, const Array& out, const MatmulOptions& options = {}) const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace bqq
