// What the plug-ins share, over the C interface of bqq alone: a matrix prepared once, and its product cut into ranges
// of rows for the threads of an engine.
#pragma once

#include <bqq/bqq.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>

namespace bqq_plugin {

/// std::runtime_error with the text of the library.
inline void check(bqq_status status) {
    if (status == BQQ_OK) return;
    if (status == BQQ_OUT_OF_MEMORY) throw std::bad_alloc();
    throw std::runtime_error(std::string("bqq: ") + bqq_last_error());
}

/// Bytes at a multiple of 64.
class Aligned {
  public:
    Aligned() = default;
    explicit Aligned(std::size_t size) : block_(new unsigned char[size + 63]), size_(size) {
        const auto address = reinterpret_cast<std::uintptr_t>(block_.get());
        data_ = block_.get() + (64 - address % 64) % 64;
    }
    unsigned char* data() const { return data_; }
    std::size_t size() const { return size_; }

  private:
    std::unique_ptr<unsigned char[]> block_;
    unsigned char* data_ = nullptr;
    std::size_t size_ = 0;
};

/// At least `size` bytes of this thread's own, allocated when it first needs so many.
inline void* workspace(std::size_t size) {
    static thread_local Aligned memory;
    if (memory.size() < size) memory = Aligned(size);
    return memory.data();
}

/// A view of planes that lie in the tensors of an engine, in the layout of bqq.h; `scale_count` is J K (3p+1).
struct Planes {
    std::int64_t y_shape[5]; ///< J, K, p, rows, ceil(l/8)
    std::int64_t z_shape[5]; ///< J, K, p, l, ceil(cols/8)
    std::int64_t scale_count;
    const std::uint8_t *y, *z;
    const float* scales;
};

/// The m x n matrix of these planes, checked bit by bit. Throws std::runtime_error. O(bytes).
inline bqq_view view_of(const Planes& a, std::int64_t m, std::int64_t n) {
    bqq_view v = BQQ_VIEW_INIT;
    v.m = m, v.n = n, v.J = a.y_shape[0], v.K = a.y_shape[1], v.p = a.y_shape[2], v.rows = a.y_shape[3];
    v.l = a.z_shape[3], v.y = a.y, v.z = a.z, v.scales = a.scales;
    if (v.J < 1 || v.K < 1 || n < 1) throw std::runtime_error("bqq: y, z: no blocks");
    v.cols = (n + v.K - 1) / v.K;
    const std::int64_t y_bytes = (v.l + 7) / 8, z_bytes = (v.cols + 7) / 8;
    for (int i = 0; i < 3; ++i)
        if (a.y_shape[i] != a.z_shape[i]) throw std::runtime_error("bqq: y and z differ in their blocks or stacks");
    if (a.y_shape[4] != y_bytes || a.z_shape[4] != z_bytes || a.scale_count != v.J * v.K * (3 * v.p + 1))
        throw std::runtime_error("bqq: y, z and scales are not the planes of a " + std::to_string(m) + " x " +
                                 std::to_string(n) + " matrix");
    check(bqq_validate(&v));
    return v;
}

/// A matrix W, m x n, or its transpose, ready for products. Made once, used by any number of threads.
class Weight {
  public:
    Weight() = default;
    Weight(const bqq_view& view, bool transposed)
        : m_(transposed ? view.n : view.m), n_(transposed ? view.m : view.n),
          block_(transposed ? view.cols : view.rows) {
        std::size_t size = 0;
        check(transposed ? bqq_prepared_size_transposed(&view, &size) : bqq_prepared_size(&view, &size));
        prepared_ = Aligned(size);
        check(transposed ? bqq_prepare_transposed(&view, prepared_.data(), size)
                         : bqq_prepare(&view, prepared_.data(), size));
    }
    std::int64_t m() const { return m_; }
    std::int64_t n() const { return n_; }
    std::int64_t block() const { return block_; } ///< rows between the best places to cut
    const void* prepared() const { return prepared_.data(); }

  private:
    std::int64_t m_ = 0, n_ = 0, block_ = 1;
    Aligned prepared_;
};

/// One product out (batch x m) = x (batch x n) W^T, both with their rows back to back, as engines keep activations, cut
/// into parts that any threads may run at the same time, each part once.
class Product {
  public:
    /// block: see Weight. `threads`: what the engine has; small products stay one part. Throws std::runtime_error.
    Product(const void* prepared, const bqq_array& x, const bqq_array& out, std::int64_t block, int threads,
            bqq_precision precision)
        : prepared_(prepared), x_(x), out_(out) {
        options_.struct_size = sizeof options_;
        options_.precision = precision;
        check(bqq_workspace_size(prepared, x.cols, &space_));
        const std::int64_t blocks = block > 0 ? (out.rows + block - 1) / block : 1;
        const bool small = x.rows * out.rows * x.cols < kSmall;
        const std::int64_t parts = small || threads < 2 ? 1 : std::min<std::int64_t>(blocks, threads);
        rows_ = (blocks + parts - 1) / std::max<std::int64_t>(parts, 1) * std::max<std::int64_t>(block, 1);
        if (parts <= 1) rows_ = std::max<std::int64_t>(out.rows, 1);
        parts_ = out.cols == 0 ? 0 : (out.rows + rows_ - 1) / rows_;
    }
    std::int64_t parts() const { return parts_; }

    /// Never throws: finish() does, for the first part that failed.
    void run(std::int64_t part) noexcept try {
        const std::int64_t begin = part * rows_, end = std::min(out_.rows, begin + rows_);
        check(bqq_matmul_rows(prepared_, &x_, &out_, begin, end, workspace(space_), &options_));
    } catch (const std::exception& error) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (failed_) return;
        failed_ = true;
        std::strncpy(text_, error.what(), sizeof text_ - 1);
    }
    void finish() const {
        if (failed_) throw std::runtime_error(text_);
    }

  private:
    // m n batch below which waking a second thread costs more than it saves: about 10 us on one.
    static constexpr std::int64_t kSmall = std::int64_t(1) << 18;

    const void* prepared_;
    bqq_array x_, out_;
    bqq_matmul_options options_{};
    std::size_t space_ = 0;
    std::int64_t rows_ = 1, parts_ = 0;
    std::mutex mutex_;
    bool failed_ = false;
    char text_[1100] = "";
};

/// `batch` rows of `length` numbers back to back as the columns of a matrix of bqq.
inline bqq_array columns(const void* data, bqq_dtype dtype, std::int64_t length, std::int64_t batch) {
    bqq_array a;
    a.data = const_cast<void*>(data);
    a.dtype = dtype, a.rows = length, a.cols = batch, a.row_stride = 1, a.col_stride = length;
    return a;
}

} // namespace bqq_plugin
