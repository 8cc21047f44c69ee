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

/// The one matrix of a file of bqq (cpp/FORMAT.md) whose bytes an engine keeps among its constants, or its transpose.
class Source {
  public:
    /// Checks everything; the bytes must stay. Throws std::runtime_error. O(bytes).
    Source(const void* file, std::size_t size, bool transposed) : transposed_(transposed) {
        bqq_file* opened = nullptr;
        check(bqq_file_open_memory(file, size, &opened));
        file_.reset(opened);
        if (bqq_file_count(opened) != 1)
            throw std::runtime_error("bqq: a file of " + std::to_string(bqq_file_count(opened)) +
                                     " matrices, expected one");
        check(bqq_file_view(opened, bqq_file_name(opened, 0), &view_));
    }
    std::int64_t m() const { return transposed_ ? view_.n : view_.m; }
    std::int64_t n() const { return transposed_ ? view_.m : view_.n; }
    /// Rows between the best places to cut a product; m where the rows have an order, which no cut respects.
    std::int64_t block() const {
        if (transposed_ ? view_.col_order : view_.row_order) return m();
        return transposed_ ? view_.cols : view_.rows;
    }
    std::size_t prepared_size() const {
        std::size_t size = 0;
        check(transposed_ ? bqq_prepared_size_transposed(&view_, &size) : bqq_prepared_size(&view_, &size));
        return size;
    }
    /// buffer: 64-byte aligned.
    void prepare(void* buffer, std::size_t size) const {
        check(transposed_ ? bqq_prepare_transposed(&view_, buffer, size) : bqq_prepare(&view_, buffer, size));
    }

  private:
    struct Close {
        void operator()(bqq_file* file) const { bqq_file_close(file); }
    };
    bool transposed_;
    std::unique_ptr<bqq_file, Close> file_;
    bqq_view view_ = BQQ_VIEW_INIT;
};

/// A matrix W, m x n, ready for products. Made once, used by any number of threads.
class Weight {
  public:
    Weight() = default;
    explicit Weight(const Source& source)
        : m_(source.m()), n_(source.n()), block_(source.block()), prepared_(source.prepared_size()) {
        source.prepare(prepared_.data(), prepared_.size());
    }
    std::int64_t m() const { return m_; }
    std::int64_t n() const { return n_; }
    std::int64_t block() const { return block_; } ///< as Source::block
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
