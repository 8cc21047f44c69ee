// The C interface over the C++ one: checks pointers, translates structures, lets no exception out.
#include "bqq/bqq.h"

#include "bqq/bqq.hpp"

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

// A plain array: recording an error must not allocate.
thread_local char last_error[1024];

bqq_status fail(bqq_status status, const char* text) noexcept {
    std::size_t length = std::strlen(text);
    if (length >= sizeof last_error) {
        length = sizeof last_error - 1;
        while (length > 0 && (static_cast<unsigned char>(text[length]) & 0xC0) == 0x80) --length;
    }
    std::memcpy(last_error, text, length);
    last_error[length] = 0;
    return status;
}

template <class Body> bqq_status guarded(Body&& body) noexcept {
    try {
        body();
        return BQQ_OK;
    } catch (const bqq::Error& e) {
        return fail(static_cast<bqq_status>(e.code()), e.what());
    } catch (const std::bad_alloc&) {
        return fail(BQQ_OUT_OF_MEMORY, "out of memory");
    } catch (const std::length_error&) {
        return fail(BQQ_OUT_OF_MEMORY, "out of memory: the size does not fit the address space");
    } catch (const std::exception& e) {
        return fail(BQQ_INTERNAL, e.what());
    } catch (...) {
        return fail(BQQ_INTERNAL, "unknown exception");
    }
}

[[noreturn]] void invalid(const std::string& text) { throw bqq::Error(bqq::ErrorCode::invalid_argument, text); }

void require(const void* pointer, const char* name) {
    if (!pointer) invalid(std::string(name) + " is NULL");
}

void require_aligned(const void* pointer, const char* name) {
    require(pointer, name);
    if (reinterpret_cast<std::uintptr_t>(pointer) % 64) invalid(std::string(name) + " is not aligned to 64 bytes");
}

void check_struct_size(std::size_t size, std::size_t least, const char* type) {
    constexpr std::size_t most = 4096; // catches a struct_size that was never set
    if (size < least || size > most || size % alignof(std::int64_t))
        invalid(std::string(type) + ".struct_size is " + std::to_string(size) + ", expected sizeof(" + type + ")");
}

void check_tail(const void* object, std::size_t size, std::size_t known, const char* type) {
    const auto* bytes = static_cast<const unsigned char*>(object);
    if (size > known && std::any_of(bytes + known, bytes + size, [](unsigned char b) { return b != 0; }))
        throw bqq::Error(bqq::ErrorCode::unsupported, std::string(type) + " of " + std::to_string(size) +
                                                          " bytes sets fields that this version of bqq (" +
                                                          std::to_string(known) + " bytes) does not know");
}

bqq::View to_view(const bqq_view* v) {
    require(v, "view");
    check_struct_size(v->struct_size, sizeof *v, "bqq_view");
    check_tail(v, v->struct_size, sizeof *v, "bqq_view");
    require(v->y, "view.y");
    require(v->z, "view.z");
    require(v->scales, "view.scales");
    bqq::View q;
    q.layout.m = v->m;
    q.layout.n = v->n;
    q.layout.J = v->J;
    q.layout.K = v->K;
    q.layout.rows = v->rows;
    q.layout.cols = v->cols;
    q.layout.p = v->p;
    q.layout.l = v->l;
    q.Y = v->y;
    q.Z = v->z;
    q.scales = v->scales;
    bqq::validate(q.layout);
    return q;
}

void check_output(const bqq_view* out) {
    require(out, "view");
    check_struct_size(out->struct_size, sizeof *out, "bqq_view");
}

void assign(bqq_view* out, const bqq::View& q) {
    const bqq::Layout& a = q.layout;
    const std::size_t size = out->struct_size;
    std::memset(out, 0, size);
    *out = {size, a.m, a.n, a.J, a.K, a.rows, a.cols, a.p, a.l, q.Y, q.Z, q.scales};
}

template <class Options> Options read_options(const Options* given, const char* type) {
    Options o{};
    if (!given) return o;
    std::size_t size = 0;
    std::memcpy(&size, given, sizeof size);
    check_struct_size(size, sizeof size, type);
    check_tail(given, size, sizeof o, type);
    std::memcpy(&o, given, std::min(size, sizeof o));
    return o;
}

bqq::DecomposeOptions to_options(const bqq_decompose_options* given) {
    const bqq_decompose_options o = read_options(given, "bqq_decompose_options");
    bqq::DecomposeOptions options;
    options.l = o.l;
    options.patch = o.patch;
    options.steps = o.steps;
    options.seed = o.seed;
    if (o.schedule != BQQ_SCHEDULE_ADAPTIVE && o.schedule != BQQ_SCHEDULE_PAPER)
        invalid("schedule is " + std::to_string(o.schedule) + ", expected a bqq_schedule");
    if (o.reserved != 0) invalid("reserved is " + std::to_string(o.reserved) + ", expected 0");
    options.effort = static_cast<bqq::Effort>(o.effort);
    options.refine = o.refine;
    options.schedule = static_cast<bqq::Schedule>(o.schedule);
    options.threads = o.threads;
    options.weight = o.weight;
    options.ldweight = o.ldweight;
    if (o.damping != 0) options.damping = std::max(o.damping, 0.0);
    if (o.progress)
        options.progress = [call = o.progress, user = o.user](bqq::Index done, bqq::Index total) {
            return call(done, total, user) == 0;
        };
    return options;
}

template <class To> To to_array(const bqq_array* a, const char* name) {
    require(a, name);
    if (a->rows > 0 && a->cols > 0) require(a->data, (std::string(name) + ".data").c_str());
    if (a->dtype < BQQ_F32 || a->dtype > BQQ_F64)
        invalid(std::string(name) + ".dtype is " + std::to_string(a->dtype) + ", expected a bqq_dtype");
    return {a->data, static_cast<bqq::Dtype>(a->dtype), a->rows, a->cols, a->row_stride, a->col_stride};
}

bqq::MatmulOptions to_options(const bqq_matmul_options* given) {
    const bqq_matmul_options o = read_options(given, "bqq_matmul_options");
    if (o.precision != BQQ_PRECISION_FLOAT32 && o.precision != BQQ_PRECISION_INT8)
        invalid("precision is " + std::to_string(o.precision) + ", expected a bqq_precision");
    if (o.reserved != 0) invalid("bqq_matmul_options.reserved is " + std::to_string(o.reserved) + ", expected 0");
    return {o.threads, static_cast<bqq::Precision>(o.precision), o.accumulate != 0};
}

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
    return make_matrix(out, [&] {
        const bqq::View q = to_view(view);
        bqq::Matrix copy;
        copy.layout = q.layout;
        copy.Y.assign(q.Y, q.Y + q.layout.y_bytes());
        copy.Z.assign(q.Z, q.Z + q.layout.z_bytes());
        copy.scales.assign(q.scales, q.scales + q.layout.scales_count());
        return copy;
    });
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

bqq_status bqq_prepared_size(const bqq_view* view, size_t* size) {
    return guarded([&] {
        const bqq::View q = to_view(view);
        require(size, "size");
        *size = bqq::prepared_size(q);
    });
}

bqq_status bqq_prepare(const bqq_view* view, void* buffer, size_t size) {
    return guarded([&] {
        const bqq::View q = to_view(view);
        require_aligned(buffer, "buffer");
        bqq::prepare(q, buffer, size);
    });
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
        if (o.reserved != 0) invalid("bqq_save_options.reserved is " + std::to_string(o.reserved) + ", expected 0");
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
                invalid("views[" + std::to_string(i) + "].struct_size differs from that of views[0]");
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
            invalid("i is " + std::to_string(i) + ", expected less than " + std::to_string(all.size()));
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
