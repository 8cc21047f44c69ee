#include "strided.cuh"

#include "bqq/cuda.hpp"
#include "device.cuh"

#include <algorithm>

namespace bqq::cuda {
namespace {

__global__ void __launch_bounds__(256) strided_to_float32(ConstArray x, float* out) {
    const std::int64_t size = x.rows * x.cols, step = std::int64_t(gridDim.x) * blockDim.x;
    for (std::int64_t i = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += step)
        out[i] = read(x.data, x.dtype, i / x.cols * x.row_stride + i % x.cols * x.col_stride);
}

} // namespace

void to_float32(const ConstArray& x, float* out, void* stream) {
    if (x.rows < 0 || x.cols < 0) throw Error(ErrorCode::invalid_argument, "x has negative sides");
    if (x.rows == 0 || x.cols == 0) return;
    if (!x.data || !out) throw Error(ErrorCode::invalid_argument, "x or out is a null pointer");
    const Index blocks = std::min<Index>((x.rows * x.cols + 255) / 256, 1 << 11);
    check(launch_kernel(strided_to_float32, dim3(unsigned(blocks)), dim3(256), 0, static_cast<cudaStream_t>(stream), x,
                        out),
          "to_float32");
}

} // namespace bqq::cuda
