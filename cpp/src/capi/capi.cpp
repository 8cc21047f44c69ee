// The C interface over the C++ one: checks pointers, translates structures, lets no exception out.
#include "bqq/bqq.h"

#include "bqq/bqq.hpp"
#include "capi/types.hpp"

#include <algorithm>
#include <cstring>
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
SAME(BQQ_PRECISION_FLOAT32, bqq::Precision::float32);
SAME(BQQ_PRECISION_INT8, bqq::Precision::int8);
#undef SAME

template <class Options> void fill_defaults(Options* options, std::size_t struct_size, const char* type) {
    require(options, "options");
    check_struct_size(struct_size, sizeof struct_size, type);
    std::memset(static_cast<void*>(options), 0, struct_size);
    std::memcpy(static_cast<void*>(options), &struct_size, sizeof struct_size);
}

template <class Make> bqq_status make_matrix(bqq_matrix** out, Make&& make) noexcept {
    if (out) *out = nullptr;
    return guarded([&] {
        require(out, "out");
        *out = new bqq_matrix{make()};
    });
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
    return make_matrix(out, [&] { return bqq::Matrix(to_view(view)); });
}

bqq_status bqq_prefix(const bqq_view* view, int64_t k, bqq_matrix** out) {
    return make_matrix(out, [&] { return bqq::prefix(to_view(view), k); });
}

bqq_status bqq_transpose(const bqq_view* view, bqq_matrix** out) {
    return make_matrix(out, [&] { return bqq::transpose(to_view(view)); });
}

bqq_status bqq_decompose_options_init(bqq_decompose_options* options, size_t struct_size) {
    return guarded([&] { fill_defaults(options, struct_size, "bqq_decompose_options"); });
}

bqq_status bqq_decompose(const float* w, int64_t m, int64_t n, int64_t ldw, int64_t p,
                         const bqq_decompose_options* options, bqq_matrix** out) {
    return make_matrix(out, [&] {
        require(w, "w");
        return bqq::decompose(w, m, n, ldw, p, to_options(options));
    });
}

bqq_status bqq_extend(const bqq_view* view, const float* w, int64_t ldw, int64_t p,
                      const bqq_decompose_options* options, bqq_matrix** out) {
    return make_matrix(out, [&] {
        const bqq::View q = to_view(view);
        require(w, "w");
        return bqq::extend(q, w, ldw, p, to_options(options));
    });
}

bqq_status bqq_encode(const bqq_view* view, const float* rows, int64_t m, int64_t ldrows,
                      const bqq_decompose_options* options, bqq_matrix** out) {
    return make_matrix(out, [&] {
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
        if (o.reserved != 0)
            bad_argument("bqq_save_options.reserved is " + std::to_string(o.reserved) + ", expected 0");
        if (count) {
            require(names, "names");
            require(views, "views");
        }
        std::vector<bqq::NamedMatrix> matrices;
        const auto* bytes = reinterpret_cast<const unsigned char*>(views);
        for (std::size_t i = 0; i < count; ++i) {
            require(names[i], ("names[" + std::to_string(i) + "]").c_str());
            const auto* view = reinterpret_cast<const bqq_view*>(bytes + i * views->struct_size);
            if (view->struct_size != views->struct_size)
                bad_argument("views[" + std::to_string(i) + "].struct_size differs from that of views[0]");
            matrices.push_back({names[i], to_view(view)});
        }
        bqq::SaveOptions save_options;
        save_options.scales_f16 = o.scales_f16 != 0;
        bqq::save(path, matrices, {}, save_options);
    });
}

bqq_status bqq_file_open(const char* path, bqq_file** out) {
    if (out) *out = nullptr;
    return guarded([&] {
        require(path, "path");
        require(out, "out");
        *out = new bqq_file{bqq::File::open(path)};
    });
}

size_t bqq_file_count(const bqq_file* file) {
    std::size_t count = 0;
    guarded([&] {
        require(file, "file");
        count = file->file.matrices().size();
    });
    return count;
}

const char* bqq_file_name(const bqq_file* file, size_t i) {
    const char* name = nullptr;
    guarded([&] {
        require(file, "file");
        const auto& all = file->file.matrices();
        if (i >= all.size())
            bad_argument("i is " + std::to_string(i) + ", expected less than " + std::to_string(all.size()));
        name = all[i].name.c_str();
    });
    return name;
}

bqq_status bqq_file_view(const bqq_file* file, const char* name, bqq_view* view) {
    return guarded([&] {
        require(file, "file");
        require(name, "name");
        check_output(view);
        assign(view, file->file.matrix(name));
    });
}

void bqq_file_close(bqq_file* file) { delete file; }

} // extern "C"
