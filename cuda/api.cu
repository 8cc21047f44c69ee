// The C++ interface of the product on the GPU.
#include "arguments.hpp"
#include "bits/pack.hpp"
#include "bqq/cuda.hpp"
#include "device.cuh"
#include "matmul.cuh"

namespace bqq::cuda {
namespace {

using detail::bad_argument;

void check_memory(const char* name, const void* at, std::size_t size, std::size_t least) {
    if (!at || reinterpret_cast<std::uintptr_t>(at) % 16)
        bad_argument(std::string(name) + " is null or not 16-byte aligned");
    if (size < least)
        bad_argument(std::string(name) + " has " + std::to_string(size) + " bytes, expected " + std::to_string(least));
}

std::string shape(Index rows, Index cols) { return std::to_string(rows) + " x " + std::to_string(cols); }

bool is_short(Dtype dtype) { return dtype == Dtype::f16 || dtype == Dtype::bf16; }

} // namespace

int devices() noexcept {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
    (void)cudaGetLastError();
    return 0;
}

std::size_t prepared_size(const Layout& layout, bool transposed) {
    validate(layout);
    return Planes(layout, transposed).bytes();
}

void prepare(const View& q, bool transposed, void* buffer, std::size_t size, void* stream) {
    detail::check_plain(q);
    check_memory("buffer", buffer, size, prepared_size(q.layout, transposed));
    if (!q.Y || !q.Z || !q.scales) bad_argument("an array of q is a null pointer");
    if (q.layout.J > 65535 || q.layout.K > 65535)
        throw Error(ErrorCode::unsupported, "more than 65535 blocks on a side are not supported on the GPU");
    check(prepare(q.layout, q.Y, q.Z, q.scales, transposed, buffer, static_cast<cudaStream_t>(stream)), "prepare");
}

std::size_t workspace_size(const Layout& layout, bool transposed, Index batch) {
    validate(layout);
    if (batch < 0) bad_argument("batch is " + std::to_string(batch) + ", expected 0 or more");
    return matmul_workspace(Planes(layout, transposed), batch, {});
}

void matmul(const PreparedPlanes& q, const ConstArray& X, const Array& out, void* workspace, std::size_t size,
            void* stream, const MatmulOptions& options) {
    validate(q.layout);
    const Planes planes(q.layout, q.transposed);
    if (X.rows != planes.n || X.cols < 0)
        bad_argument("X is " + shape(X.rows, X.cols) + ", expected " + std::to_string(planes.n) + " rows");
    if (out.rows != planes.m || out.cols != X.cols)
        bad_argument("out is " + shape(out.rows, out.cols) + ", expected " + shape(planes.m, X.cols));
    if (X.cols == 0) return;
    if (!q.at || !X.data || !out.data) bad_argument("prepared, X or out is a null pointer");
    check_memory("workspace", workspace, size, matmul_workspace(planes, X.cols, {}));
    ProductLaunch launch;
    launch.terms = is_short(X.dtype) && is_short(out.dtype) ? 2 : 3;
    launch.accumulate = options.accumulate;
    check(matmul(planes, q.at, X, out, launch, workspace, static_cast<cudaStream_t>(stream)), "matmul");
}

} // namespace bqq::cuda
