// The product on the device against the float64 oracle: both paths, both directions, all dtypes, any strides.
#include "check.hpp"
#include "device.hpp"
#include "matmul.cuh"
#include "reference.hpp"

#include "bqq/decompose.hpp"
#include "half.hpp"

#include <algorithm>

using namespace bqq::cuda;
using bqq::Dtype;
using bqq::Index;
using reference::Mat;

namespace {

double rounded(double x, Dtype dtype) {
    switch (dtype) {
    case Dtype::f16:
        return double(bqq::detail::f16_to_f32(bqq::detail::f32_to_f16(float(x))));
    case Dtype::bf16:
        return double(bqq::detail::bf16_to_f32(bqq::detail::f32_to_bf16(float(x))));
    case Dtype::f64:
        return x;
    default:
        return double(float(x));
    }
}
std::size_t size_of(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

void put(std::vector<unsigned char>& bytes, std::size_t i, double x, Dtype dtype) {
    unsigned char* at = bytes.data() + i * size_of(dtype);
    const float single = float(x);
    const std::uint16_t half = dtype == Dtype::f16 ? bqq::detail::f32_to_f16(single) : bqq::detail::f32_to_bf16(single);
    std::memcpy(at,
                dtype == Dtype::f64   ? static_cast<const void*>(&x)
                : dtype == Dtype::f32 ? static_cast<const void*>(&single)
                                      : &half,
                size_of(dtype));
}
double take(const std::vector<unsigned char>& bytes, std::size_t i, Dtype dtype) {
    const unsigned char* at = bytes.data() + i * size_of(dtype);
    double x = 0;
    float single = 0;
    std::uint16_t half = 0;
    std::memcpy(dtype == Dtype::f64   ? static_cast<void*>(&x)
                : dtype == Dtype::f32 ? static_cast<void*>(&single)
                                      : &half,
                at, size_of(dtype));
    if (dtype == Dtype::f64) return x;
    if (dtype == Dtype::f32) return double(single);
    return double(dtype == Dtype::f16 ? bqq::detail::f16_to_f32(half) : bqq::detail::bf16_to_f32(half));
}

// Largest relative error of a column, ||out - W_hat x|| / ||W_hat x||.
double error_of(const bqq::Matrix& q, bool transposed, Index batch, Dtype dtype, const ProductLaunch& launch,
                bool column_major, double mean = 0) {
    const Planes planes(q.layout, transposed);
    const device::Array<std::uint8_t> Y(q.Y), Z(q.Z);
    const device::Array<float> scales(q.scales);
    const device::Array<unsigned char> prepared(planes.bytes());
    device::must(prepare(q.layout, Y.at(), Z.at(), scales.at(), transposed, prepared.at(), nullptr));

    const Mat x = reference::random(planes.n, batch, 77, mean - 1, mean + 1);
    const Index ldx = column_major ? planes.n + 3 : batch + 2, ldo = column_major ? planes.m + 1 : batch;
    std::vector<unsigned char> in(size_of(dtype) * std::size_t(ldx * (column_major ? batch : planes.n)), 0xFF);
    std::vector<unsigned char> out(size_of(dtype) * std::size_t(ldo * (column_major ? batch : planes.m)), 0);
    const auto at = [column_major](Index i, Index b, Index ld) {
        return std::size_t(column_major ? b * ld + i : i * ld + b);
    };
    for (Index i = 0; i < planes.n; ++i)
        for (Index b = 0; b < batch; ++b) put(in, at(i, b, ldx), x(i, b), dtype);
    for (Index i = 0; i < planes.m; ++i)
        for (Index b = 0; b < batch; ++b) put(out, at(i, b, ldo), 0.25, dtype);
    const device::Array<unsigned char> device_in(in), device_out(out),
        workspace(matmul_workspace(planes, batch, launch));
    const auto stride = [&](Index ld, bool row) { return row == column_major ? Index(1) : ld; };
    device::must(matmul(planes, prepared.at(),
                        {device_in.at(), dtype, planes.n, batch, stride(ldx, true), stride(ldx, false)},
                        {device_out.at(), dtype, planes.m, batch, stride(ldo, true), stride(ldo, false)}, launch,
                        workspace.at(), nullptr));
    out = device_out.get();

    const Mat W = reference::dense(q.view());
    double worst = 0;
    for (Index b = 0; b < batch; ++b) {
        double wrong = 0, norm = 0;
        for (Index i = 0; i < planes.m; ++i) {
            double sum = 0;
            for (Index j = 0; j < planes.n; ++j) sum += (transposed ? W(j, i) : W(i, j)) * rounded(x(j, b), dtype);
            const double e = take(out, at(i, b, ldo), dtype) - sum - (launch.accumulate ? 0.25 : 0);
            wrong += e * e, norm += sum * sum;
        }
        worst = std::max(worst, std::sqrt(wrong / norm));
    }
    return worst;
}

constexpr double of_float32 = 2e-6, of_half = 6e-4, of_bf16 = 3e-3;

} // namespace

TEST(tables_equal_the_oracle) {
    for (const bool transposed : {false, true})
        for (const Index batch : {1, 2, 3, 5}) {
            const bqq::Matrix q = reference::random_matrix(70, 83, 2, 19, 40, unsigned(batch));
            CHECK(error_of(q, transposed, batch, Dtype::f32, {3, 16, false}, batch % 2 == 0) < of_float32);
        }
}

TEST(tensor_cores_equal_the_oracle) {
    for (const bool transposed : {false, true})
        for (const Index batch : {1, 17, 66}) {
            const bqq::Matrix q = reference::random_matrix(70, 83, 2, 19, 40, unsigned(batch));
            CHECK(error_of(q, transposed, batch, Dtype::f32, {3, 0, false}, batch == 17) < of_float32);
        }
}

TEST(inner_dimensions_and_blocks_of_every_kind) {
    const struct {
        Index m, n, p, l, patch;
    } cases[] = {{1, 1, 1, 1, 1},      {33, 5, 1, 33, 64}, {40, 300, 1, 64, 300},
                 {140, 36, 3, 8, 140}, {20, 20, 1, 31, 7}, {512, 256, 1, 40, 256}};
    for (const auto& c : cases)
        for (const int tables : {0, 16}) {
            const bqq::Matrix q = reference::random_matrix(c.m, c.n, c.p, c.l, c.patch, 3);
            CHECK(error_of(q, false, 2, Dtype::f32, {3, tables, false}, false) < 10 * of_float32);
            CHECK(error_of(q, true, 2, Dtype::f32, {3, tables, false}, true) < 10 * of_float32);
        }
}

TEST(short_dtypes) {
    const bqq::Matrix q = reference::random_matrix(50, 61, 2, 21, 32, 8);
    for (const int tables : {0, 16}) {
        CHECK(error_of(q, false, 3, Dtype::f16, {2, tables, false}, false) < of_half);
        CHECK(error_of(q, true, 3, Dtype::f16, {2, tables, false}, true) < of_half);
        CHECK(error_of(q, false, 3, Dtype::bf16, {2, tables, false}, false) < of_bf16);
        CHECK(error_of(q, false, 3, Dtype::f64, {3, tables, false}, false) < of_float32);
        CHECK(error_of(q, false, 3, Dtype::f32, {2, tables, false}, false) < 2e-5); // inputs to 2^-16
    }
}

TEST(accumulates) {
    const bqq::Matrix q = reference::random_matrix(30, 40, 1, 9, 64, 9);
    for (const int tables : {0, 16}) CHECK(error_of(q, false, 2, Dtype::f32, {3, tables, true}, false) < of_float32);
}

TEST(a_large_common_part_of_the_inputs_does_no_harm) {
    bqq::Matrix q = reference::random_matrix(64, 64, 1, 32, 64, 10);
    q.scales = {0.5f, -0.25f, -0.25f, 4.0f}; // +-1 factors, centred
    for (const int tables : {0, 16})
        CHECK(error_of(q, false, 2, Dtype::f32, {3, tables, false}, false, 1000) < of_float32);
}

TEST(more_columns_than_a_workspace_holds) {
    const bqq::Matrix q = reference::random_matrix(9, 11, 1, 5, 64, 11);
    CHECK(error_of(q, false, 260, Dtype::f32, {3, 16, false}, false) < of_float32);
}

TEST(shapes_that_do_not_fit_are_refused) {
    const bqq::Matrix q = reference::random_matrix(9, 11, 1, 5, 64, 11);
    const Planes planes(q.layout, false);
    float x = 0;
    CHECK_EQ(matmul(planes, &x, {&x, Dtype::f32, 10, 1, 1, 1}, {&x, Dtype::f32, 9, 1, 1, 1}, {}, &x, nullptr),
             cudaErrorInvalidValue);
    CHECK_EQ(matmul(planes, &x, {&x, Dtype::f32, 11, 1, 1, 1}, {&x, Dtype::f32, 9, 2, 1, 1}, {}, &x, nullptr),
             cudaErrorInvalidValue);
    CHECK_EQ(matmul(planes, nullptr, {&x, Dtype::f32, 11, 1, 1, 1}, {&x, Dtype::f32, 9, 1, 1, 1}, {}, &x, nullptr),
             cudaErrorInvalidValue);
}
