// Arrays of any dtype and strides as float32, against the same element read on the host.
#include "bqq/cuda.hpp"
#include "check.hpp"
#include "device.hpp"
#include "half.hpp"

#include <algorithm>
#include <cstdlib>
#include <limits>

using bqq::Dtype;
using bqq::Index;

namespace {

struct Strides {
    Index rows, cols, row_stride, col_stride;
    Index first() const { // the element of lowest address, from [0, 0]
        return std::min<Index>(row_stride * (rows - 1), 0) + std::min<Index>(col_stride * (cols - 1), 0);
    }
    Index span() const { return 1 + std::abs(row_stride) * (rows - 1) + std::abs(col_stride) * (cols - 1); }
};

// Values that float16 and bfloat16 hold, and what is in the gaps between them.
float value(Index i) { return float(i % 251) / 4 - 31; }

template <class T> T stored(float x);
template <> float stored(float x) { return x; }
template <> double stored(float x) { return double(x) * (1 + 1e-12); } // is rounded
struct Half {
    std::uint16_t bits;
};
struct Bf16 {
    std::uint16_t bits;
};
template <> Half stored(float x) { return {bqq::detail::f32_to_f16(x)}; }
template <> Bf16 stored(float x) { return {bqq::detail::f32_to_bf16(x)}; }

template <class T> void compare(Dtype dtype, const Strides& s, void* stream = nullptr) {
    std::vector<T> memory(std::size_t(s.span()));
    for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = stored<T>(value(Index(i)));
    const device::Array<T> x(memory);
    const device::Array<float> out(std::size_t(s.rows * s.cols));
    bqq::cuda::to_float32({x.at() - s.first(), dtype, s.rows, s.cols, s.row_stride, s.col_stride}, out.at(), stream);
    device::must(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)));
    const std::vector<float> got = out.get();
    Index wrong = 0;
    for (Index i = 0; i < s.rows; ++i)
        for (Index j = 0; j < s.cols; ++j)
            wrong += got[std::size_t(i * s.cols + j)] != value(i * s.row_stride + j * s.col_stride - s.first());
    CHECK_EQ(wrong, 0);
}

template <class T> void all_strides(Dtype dtype) {
    for (const Strides s :
         {Strides{7, 43, 43, 1}, Strides{7, 43, 1, 7}, Strides{7, 43, 100, 2}, Strides{7, 43, -43, -1},
          Strides{43, 7, 9, -1}, Strides{1, 1, 0, 0}, Strides{5, 300, 0, 1}, Strides{300, 5, 1, 0}})
        compare<T>(dtype, s);
}

} // namespace

TEST(every_dtype_in_every_order) {
    all_strides<float>(Dtype::f32);
    all_strides<double>(Dtype::f64);
    all_strides<Half>(Dtype::f16);
    all_strides<Bf16>(Dtype::bf16);
}

TEST(more_elements_than_threads_of_a_launch) { compare<float>(Dtype::f32, {733, 719, 0, 1}); }

TEST(what_float32_cannot_hold) {
    const device::Array<double> x(std::vector<double>{1e300, -1e300, 0.1, std::numeric_limits<double>::quiet_NaN()});
    const device::Array<float> out(4);
    bqq::cuda::to_float32({x.at(), Dtype::f64, 2, 2, 2, 1}, out.at(), nullptr);
    const std::vector<float> got = out.get();
    CHECK(std::isinf(got[0]) && got[0] > 0 && std::isinf(got[1]) && got[1] < 0 && got[2] == 0.1f && std::isnan(got[3]));
}

TEST(work_is_ordered_on_the_stream) {
    cudaStream_t stream = nullptr;
    device::must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    float* pinned = nullptr;
    device::must(cudaMallocHost(reinterpret_cast<void**>(&pinned), 64 * sizeof(float)));
    for (int i = 0; i < 64; ++i) pinned[i] = float(i);
    const device::Array<float> x(64), out(64);
    device::must(cudaStreamSynchronize(nullptr));
    device::must(cudaMemcpyAsync(x.at(), pinned, 64 * sizeof(float), cudaMemcpyHostToDevice, stream));
    bqq::cuda::to_float32({x.at(), Dtype::f32, 8, 8, 1, 8}, out.at(), stream);
    device::must(cudaStreamSynchronize(stream));
    CHECK_EQ(out.get()[1], 8.0f);
    device::must(cudaFreeHost(pinned));
    device::must(cudaStreamDestroy(stream));
}

TEST(sizes_and_pointers_are_checked) {
    const device::Array<float> x(4), out(4);
    bqq::cuda::to_float32({nullptr, Dtype::f32, 0, 4, 4, 1}, nullptr, nullptr); // nothing to do
    bqq::cuda::to_float32({nullptr, Dtype::f32, 4, 0, 4, 1}, nullptr, nullptr);
    const auto call = [&](const float* from, Index rows, float* to) {
        bqq::cuda::to_float32({from, Dtype::f32, rows, 2, 2, 1}, to, nullptr);
    };
    CHECK_THROWS(call(x.at(), -1, out.at()), bqq::Error, "negative");
    CHECK_THROWS(call(nullptr, 2, out.at()), bqq::Error, "null pointer");
    CHECK_THROWS(call(x.at(), 2, nullptr), bqq::Error, "null pointer");
}
