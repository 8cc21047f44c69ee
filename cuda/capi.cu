// The C interface over the C++ one.
#include "bqq/bqq_cuda.h"
#include "bqq/cuda.hpp"
#include "capi/types.hpp"

namespace {

using namespace bqq::capi;

// `out` describes arrays that are written: its pointers are const for the sake of views of what is there.
bqq::cuda::Result to_result(const bqq::View& out) {
    return {const_cast<std::uint8_t*>(out.Y), const_cast<std::uint8_t*>(out.Z), const_cast<float*>(out.scales)};
}

} // namespace

extern "C" {

bqq_status bqq_cuda_devices(int* count) {
    return guarded([&] {
        require(count, "count");
        *count = bqq::cuda::devices();
    });
}

bqq_status bqq_cuda_layout(int64_t m, int64_t n, int64_t p, const bqq_decompose_options* options, bqq_view* out) {
    return guarded([&] {
        check_output(out);
        const bqq::DecomposeOptions o = to_options(options);
        assign(out, {bqq::make_layout(m, n, p, o.l, o.patch), nullptr, nullptr, nullptr});
    });
}

bqq_status bqq_cuda_decompose(const float* w, int64_t ldw, const bqq_decompose_options* options, const bqq_view* out,
                              void* stream) {
    return guarded([&] {
        require(w, "w");
        const bqq::View to = to_view(out);
        bqq::cuda::decompose(to.layout, w, ldw, to_options(options), to_result(to), stream);
    });
}

bqq_status bqq_cuda_extend(const bqq_view* view, const float* w, int64_t ldw, const bqq_decompose_options* options,
                           const bqq_view* out, void* stream) {
    return guarded([&] {
        const bqq::View q = to_view(view), to = to_view(out);
        require(w, "w");
        bqq::cuda::extend(q, to.layout, w, ldw, to_options(options), to_result(to), stream);
    });
}

bqq_status bqq_cuda_prepared_size(const bqq_view* view, int transposed, size_t* size) {
    return guarded([&] {
        const bqq::View q = to_layout(view);
        require(size, "size");
        *size = bqq::cuda::prepared_size(q.layout, transposed != 0);
    });
}

bqq_status bqq_cuda_prepare(const bqq_view* view, int transposed, void* buffer, size_t size, void* stream) {
    return guarded([&] { bqq::cuda::prepare(to_view(view), transposed != 0, buffer, size, stream); });
}

bqq_status bqq_cuda_workspace_size(const bqq_view* view, int transposed, int64_t batch, size_t* size) {
    return guarded([&] {
        const bqq::View q = to_layout(view);
        require(size, "size");
        *size = bqq::cuda::workspace_size(q.layout, transposed != 0, batch);
    });
}

bqq_status bqq_cuda_matmul(const bqq_view* view, int transposed, const void* prepared, const bqq_array* x,
                           const bqq_array* out, const bqq_matmul_options* options, const bqq_cuda_buffer* workspace,
                           void* stream) {
    return guarded([&] {
        const bqq::View q = to_layout(view);
        const auto X = to_array<bqq::ConstArray>(x, "x");
        const auto Y = to_array<bqq::Array>(out, "out");
        require(workspace, "workspace");
        bqq::cuda::matmul({q.layout, transposed != 0, prepared}, X, Y, workspace->data, workspace->size, stream,
                          to_options(options));
    });
}

} // extern "C"
