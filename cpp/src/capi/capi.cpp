// The C interface over the C++ one: checks pointers, translates structures, lets no exception out.
#include "bqq/bqq.h"

#include "bqq/bqq.hpp"
#include "capi/types.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

struct bqq_matrix {
    bqq::Matrix matrix;
};

struct bqq_file {
    bqq::File file;
};

namespace {

using namespace bqq::capi;

#define SAME(c, cpp) static_assert(int(c) == int(cpp), "the C and the C++ enumerator differ")
SAME(BQQ_INVALID_ARGUMENT, bqq::ErrorCode::invalid_argument);
SAME(BQQ_OUT_OF_MEMORY, bqq::ErrorCode::out_of_memory);
SAME(BQQ_IO, bqq::ErrorCode::io);
SAME(BQQ_FORMAT, bqq::ErrorCode::format);
SAME(BQQ_CANCELLED, bqq::ErrorCode::cancelled);
SAME(BQQ_UNSUPPORTED, bqq::ErrorCode::unsupported);
SAME(BQQ_INTERNAL, bqq::ErrorCode::internal);
SAME(BQQ_F32, bqq::Dtype::f32);
SAME(BQQ_F16, bqq::Dtype::f16);
SAME(BQQ_BF16, bqq::Dtype::bf16);
SAME(BQQ_F64, bqq::Dtype::f64);
SAME(BQQ_SCHEDULE_ADAPTIVE, bqq::Schedule::adaptive);
SAME(BQQ_SCHEDULE_PAPER, bqq::Schedule::paper);
SAME(BQQ_EFFORT_STANDARD, bqq::Effort::standard);
SAME(BQQ_EFFORT_FAST, bqq::Effort::fast);
SAME(BQQ_EFFORT_BEST, bqq::Effort::best);
SAME(BQQ_ORDER_NONE, bqq::Order::none);
SAME(BQQ_ORDER_WEIGHT, bqq::Order::weight);
SAME(BQQ_PRECISION_FLOAT32, bqq::Precision::float32);
SAME(BQQ_PRECISION_FAST, bqq::Precision::fast);
#undef SAME

/// The i-th of the structures of an array, which have the struct_size of the first.
template <class T> const T& element(const T* all, std::size_t i, const char* name) {
    const auto* at = reinterpret_cast<const T*>(reinterpret_cast<const unsigned char*>(all) + i * all->struct_size);
    if (at->struct_size != all->struct_size)
        bad_argument(std::string(name) + "[" + std::to_string(i) + "].struct_size differs from that of " + name +
                     "[0]");
    return *at;
}

template <class T> T* require_element(T* const* all, std::size_t i, const char* name) {
    require(all[i], (std::string(name) + "[" + std::to_string(i) + "]").c_str());
    return all[i];
}

bqq::Tensor to_tensor(const bqq_tensor& t) {
    check_struct_size(t.struct_size, sizeof t, "bqq_tensor");
    check_tail(&t, t.struct_size, sizeof t, "bqq_tensor");
    require(t.name, "tensor.name");
    require(t.dtype, "tensor.dtype");
    if (t.ndim) require(t.shape, "tensor.shape");
    return {t.name, t.dtype, {t.shape, t.shape + t.ndim}, static_cast<const std::uint8_t*>(t.data), t.nbytes};
}

bqq::SaveOptions to_options(const bqq_save_options& o) {
    if (o.reserved != 0) bad_argument("bqq_save_options.reserved is " + std::to_string(o.reserved) + ", expected 0");
    bqq::SaveOptions options;
    options.scales = static_cast<bqq::Dtype>(o.scales);
    if (o.metadata_count) {
        require(o.metadata_keys, "metadata_keys");
        require(o.metadata_values, "metadata_values");
    }
    for (std::size_t i = 0; i < o.metadata_count; ++i) {
        const char* key = require_element(o.metadata_keys, i, "metadata_keys");
        if (!options.metadata.emplace(key, require_element(o.metadata_values, i, "metadata_values")).second)
            bad_argument(std::string("metadata_keys: ") + key + " occurs twice");
    }
    return options;
}

/// What `get` takes from a file, or `missing` and a text.
template <class Result, class Get> Result from_file(const bqq_file* file, Result missing, Get get) noexcept {
    guarded([&] {
        require(file, "file");
        missing = get(*file);
    });
    return missing;
}

void check_index(std::size_t i, std::size_t count) {
    if (i >= count) bad_argument("i is " + std::to_string(i) + ", expected less than " + std::to_string(count));
}

bqq_status prepared_size(const bqq_view* view, std::size_t* size, bool transposed) noexcept {
    return guarded([&] {
        const bqq::View q = to_view(view);
        require(size, "size");
        *size = bqq::prepared_size(q, transposed);
    });
}

bqq_status prepare(const bqq_view* view, void* buffer, std::size_t size, bool transposed) noexcept {
    return guarded([&] {
        const bqq::View q = to_view(view);
        require_aligned(buffer, "buffer");
        bqq::prepare(q, buffer, size, transposed);
    });
}

} // namespace

extern "C" {

const char* bqq_last_error(void) { return last_error; }

const char* bqq_version(void) { return bqq::version(); }

int bqq_abi_version(void) { return BQQ_ABI_VERSION; }

bqq_status bqq_isa(const char** name) {
    return guarded([&] {
        require(name, "name");
        *name = bqq::isa();
    });
}

bqq_status bqq_config(char* buffer, size_t size, size_t* length) {
    return guarded([&] {
        if (size) require(buffer, "buffer");
        const std::string text = bqq::config();
        if (size) {
            const std::size_t count = std::min(text.size(), size - 1);
            std::memcpy(buffer, text.data(), count);
            buffer[count] = 0;
        }
        if (length) *length = text.size();
    });
}

bqq_status bqq_validate(const bqq_view* view) {
    return guarded([&] { bqq::validate(to_view(view)); });
}

bqq_status bqq_matrix_view(const bqq_matrix* matrix, bqq_view* view) {
    return guarded([&] {
        require(matrix, "matrix");
        check_output(view);
        assign(view, matrix->matrix.view());
    });
}

void bqq_matrix_free(bqq_matrix* matrix) { delete matrix; }

bqq_status bqq_copy(const bqq_view* view, bqq_matrix** out) {
    return make(out, [&] { return bqq::Matrix(to_view(view)); });
}

bqq_status bqq_prefix(const bqq_view* view, int64_t k, bqq_matrix** out) {
    return make(out, [&] { return bqq::prefix(to_view(view), k); });
}

bqq_status bqq_transpose(const bqq_view* view, bqq_matrix** out) {
    return make(out, [&] { return bqq::transpose(to_view(view)); });
}

bqq_status bqq_decompose_options_init(bqq_decompose_options* options, size_t struct_size) {
    return guarded([&] { fill_defaults(options, struct_size, "bqq_decompose_options"); });
}

bqq_status bqq_make_layout(int64_t m, int64_t n, int64_t p, const bqq_decompose_options* options, bqq_view* view) {
    return guarded([&] {
        check_output(view);
        assign(view, bqq::View{bqq::make_layout(m, n, p, to_options(options)), nullptr, nullptr, nullptr});
    });
}

bqq_status bqq_decompose(const float* w, int64_t m, int64_t n, int64_t ldw, int64_t p,
                         const bqq_decompose_options* options, bqq_matrix** out) {
    return make(out, [&] {
        require(w, "w");
        return bqq::decompose(w, m, n, ldw, p, to_options(options));
    });
}

bqq_status bqq_extend(const bqq_view* view, const float* w, int64_t ldw, int64_t p,
                      const bqq_decompose_options* options, bqq_matrix** out) {
    return make(out, [&] {
        const bqq::View q = to_view(view);
        require(w, "w");
        return bqq::extend(q, w, ldw, p, to_options(options));
    });
}

bqq_status bqq_encode(const bqq_view* view, const float* rows, int64_t m, int64_t ldrows,
                      const bqq_decompose_options* options, bqq_matrix** out) {
    return make(out, [&] {
        const bqq::View q = to_view(view);
        require(rows, "rows");
        return bqq::encode(q, rows, m, ldrows, to_options(options));
    });
}

bqq_status bqq_reconstruct(const bqq_view* view, float* out, int64_t ldo, int threads) {
    return guarded([&] {
        const bqq::View q = to_view(view);
        require(out, "out");
        bqq::reconstruct(q, out, ldo, threads);
    });
}

bqq_status bqq_squared_error(const bqq_view* view, const float* w, int64_t ldw, int threads, double* out) {
    return guarded([&] {
        const bqq::View q = to_view(view);
        require(w, "w");
        require(out, "out");
        *out = bqq::squared_error(q, w, ldw, threads);
    });
}

bqq_status bqq_prepared_size(const bqq_view* view, size_t* size) { return prepared_size(view, size, false); }

bqq_status bqq_prepare(const bqq_view* view, void* buffer, size_t size) { return prepare(view, buffer, size, false); }

bqq_status bqq_prepared_size_transposed(const bqq_view* view, size_t* size) { return prepared_size(view, size, true); }

bqq_status bqq_prepare_transposed(const bqq_view* view, void* buffer, size_t size) {
    return prepare(view, buffer, size, true);
}

bqq_status bqq_matmul_options_init(bqq_matmul_options* options, size_t struct_size) {
    return guarded([&] { fill_defaults(options, struct_size, "bqq_matmul_options"); });
}

bqq_status bqq_matmul(const void* prepared, const bqq_array* x, const bqq_array* out,
                      const bqq_matmul_options* options) {
    return guarded([&] {
        require_aligned(prepared, "prepared");
        const auto X = to_array<bqq::ConstArray>(x, "x");
        const auto Y = to_array<bqq::Array>(out, "out");
        bqq::matmul(prepared, X, Y, to_options(options));
    });
}

bqq_status bqq_workspace_size(const void* prepared, int64_t batch, size_t* size) {
    return guarded([&] {
        require_aligned(prepared, "prepared");
        require(size, "size");
        *size = bqq::workspace_size(prepared, batch);
    });
}

bqq_status bqq_matmul_rows(const void* prepared, const bqq_array* x, const bqq_array* out, int64_t row_begin,
                           int64_t row_end, void* workspace, const bqq_matmul_options* options) {
    return guarded([&] {
        require_aligned(prepared, "prepared");
        const auto X = to_array<bqq::ConstArray>(x, "x");
        const auto Y = to_array<bqq::Array>(out, "out");
        require_aligned(workspace, "workspace");
        bqq::matmul_rows(prepared, X, Y, row_begin, row_end, workspace, to_options(options));
    });
}

bqq_status bqq_save(const char* path, const char* const* names, const bqq_view* views, size_t count,
                    const bqq_save_options* options) {
    return guarded([&] {
        require(path, "path");
        const bqq_save_options o = read_options(options, "bqq_save_options");
        const bqq::SaveOptions save_options = to_options(o);
        if (count) {
            require(names, "names");
            require(views, "views");
        }
        if (o.tensor_count) require(o.tensors, "tensors");
        std::vector<bqq::NamedMatrix> matrices;
        for (std::size_t i = 0; i < count; ++i)
            matrices.push_back({require_element(names, i, "names"), to_view(&element(views, i, "views"))});
        std::vector<bqq::Tensor> tensors;
        for (std::size_t i = 0; i < o.tensor_count; ++i) tensors.push_back(to_tensor(element(o.tensors, i, "tensors")));
        bqq::save(path, matrices, tensors, save_options);
    });
}

bqq_status bqq_file_open(const char* path, bqq_file** out) {
    return make(out, [&] {
        require(path, "path");
        return bqq::File::open(path);
    });
}

bqq_status bqq_file_read(const char* path, bqq_file** out) {
    return make(out, [&] {
        require(path, "path");
        return bqq::File::read(path);
    });
}

bqq_status bqq_file_open_memory(const void* data, size_t size, bqq_file** out) {
    return make(out, [&] {
        require(data, "data");
        return bqq::File::open(data, size);
    });
}

size_t bqq_file_count(const bqq_file* file) {
    return from_file(file, std::size_t(0), [](const bqq_file& f) { return f.file.matrices().size(); });
}

const char* bqq_file_name(const bqq_file* file, size_t i) {
    return from_file(file, static_cast<const char*>(nullptr), [&](const bqq_file& f) {
        check_index(i, f.file.matrices().size());
        return f.file.matrices()[i].name.c_str();
    });
}

bqq_status bqq_file_view(const bqq_file* file, const char* name, bqq_view* view) {
    return guarded([&] {
        require(file, "file");
        require(name, "name");
        check_output(view);
        assign(view, file->file.matrix(name));
    });
}

size_t bqq_file_tensor_count(const bqq_file* file) {
    return from_file(file, std::size_t(0), [](const bqq_file& f) { return f.file.tensors().size(); });
}

bqq_status bqq_file_tensor(const bqq_file* file, size_t i, bqq_tensor* tensor) {
    return guarded([&] {
        require(file, "file");
        require(tensor, "tensor");
        check_struct_size(tensor->struct_size, sizeof *tensor, "bqq_tensor");
        check_index(i, file->file.tensors().size());
        const bqq::Tensor& t = file->file.tensors()[i];
        assign(tensor, {0, t.name.c_str(), t.dtype.c_str(), t.shape.data(), t.shape.size(), t.data, t.nbytes});
    });
}

size_t bqq_file_metadata_count(const bqq_file* file) {
    return from_file(file, std::size_t(0), [](const bqq_file& f) { return f.file.metadata().size(); });
}

bqq_status bqq_file_metadata(const bqq_file* file, size_t i, const char** key, const char** value) {
    return guarded([&] {
        require(file, "file");
        const auto& all = file->file.metadata();
        check_index(i, all.size());
        const auto entry = std::next(all.begin(), std::ptrdiff_t(i));
        if (key) *key = entry->first.c_str();
        if (value) *value = entry->second.c_str();
    });
}

const char* bqq_file_metadata_value(const bqq_file* file, const char* key) {
    return from_file(file, static_cast<const char*>(nullptr), [&](const bqq_file& f) {
        require(key, "key");
        const auto entry = f.file.metadata().find(key);
        if (entry == f.file.metadata().end()) bad_argument(std::string("no metadata key ") + key);
        return entry->second.c_str();
    });
}

void bqq_file_close(bqq_file* file) { delete file; }

} // extern "C"
