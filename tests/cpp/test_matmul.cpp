// The product through prepared planes against float64, for shapes, types, strides, row ranges. The level in use is the
// environment's: the suite runs this program once per instruction set.
#include "aligned.hpp"
#include "check.hpp"
#include "reference.hpp"

#include "bqq/bqq.h"
#include "bqq/prepared.hpp"
#include "half.hpp"
#include "kernels/dispatch.hpp"
#include "product/method.hpp"

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>

namespace {
std::atomic<long> allocations{0};
}
// Not inlined: gcc 12 would see free() of what "operator new" gave, and warn.
#if defined(__GNUC__)
__attribute__((noinline))
#endif
void* operator new(std::size_t size) {
    ++allocations;
    if (void* p = std::malloc(size ? size : 1)) return p;
    throw std::bad_alloc();
}
#if defined(__GNUC__)
__attribute__((noinline))
#endif
void operator delete(void* p) noexcept {
    std::free(p);
}
void operator delete(void* p, std::size_t) noexcept { operator delete(p); }

using aligned_memory::Aligned;
using aligned_memory::prepared;
using bqq::Array;
using bqq::ConstArray;
using bqq::Dtype;
using bqq::Error;
using bqq::Index;
using bqq::detail::ProductMethod;
using reference::Mat;

namespace {

ConstArray input(const std::vector<float>& x, Index rows, Index cols) {
    return {x.data(), Dtype::f32, rows, cols, cols, 1};
}
Array output(std::vector<float>& x, Index rows, Index cols) { return {x.data(), Dtype::f32, rows, cols, cols, 1}; }

// The ways of a product of this matrix that this machine has.
std::vector<ProductMethod::Kind> possible(const bqq::Layout& a, int precision) {
    std::vector<ProductMethod::Kind> kinds;
    for (const auto kind : {ProductMethod::tables, ProductMethod::lanes, ProductMethod::tiles, ProductMethod::dense})
        if (ProductMethod::possible(bqq::detail::kernels(), a, bqq::Precision(precision), kind)) kinds.push_back(kind);
    return kinds;
}

struct How {
    Index row_stride; // of x
    int threads, precision;
};

// y = W_hat X by a given way, for `batch` columns.
void multiply_by(ProductMethod::Kind kind, const Aligned& buffer, const float* x, Index batch, std::vector<float>& y,
                 const How& how) {
    const bqq::Layout& a = bqq::detail::prepared_of(buffer.at).layout;
    bqq::MatmulOptions options;
    options.threads = how.threads, options.precision = bqq::Precision(how.precision);
    bqq::detail::matmul_by({bqq::detail::kernels(), kind, options.precision, batch}, buffer.at,
                           {x, Dtype::f32, a.n, batch, how.row_stride, 1}, output(y, a.m, batch), options);
}

double norm(const Mat& a) {
    double s = 0;
    for (const double x : a.v) s += x * x;
    return std::sqrt(s);
}

} // namespace

TEST(product_equals_the_oracle) {
    for (const Index m : {1, 7, 33, 129})
        for (const Index n : {1, 8, 65, 257})
            for (const Index patch : {0, 48})
                for (const Index batch : {1, 3, 4, 16, 35})
                    for (const auto& [offset, sides] : {std::pair(0.0f, 0), {100.0f, 0}, {0.0f, 7}, {100.0f, 6}}) {
                        const bqq::Matrix q =
                            reference::dressed(reference::random_matrix(m, n, 3, 21, patch, 1), sides);
                        const Mat X = reference::random(n, batch, 2, offset - 1, offset + 1);
                        std::vector<float> x(X.v.begin(), X.v.end()), y(std::size_t(m * batch), NAN);
                        Mat X32 = X;
                        for (std::size_t i = 0; i < x.size(); ++i) X32.v[i] = double(x[i]);
                        const Mat expected = reference::multiply(reference::dense(q.view()), X32);
                        const Aligned buffer = prepared(q);
                        bqq::matmul(buffer.at, input(x, n, batch), output(y, m, batch), {2});
                        double error = 0;
                        for (std::size_t i = 0; i < y.size(); ++i) error += std::pow(double(y[i]) - expected.v[i], 2);
                        CHECK(std::sqrt(error) <= 1e-5 * norm(expected) + 1e-30);
                    }
}

TEST(strides_and_types) {
    const Index m = 19, n = 23, batch = 5;
    for (const int sides : {0, 1, 2, 4, 7}) {
        const bqq::Matrix q = reference::dressed(reference::random_matrix(m, n, 2, 9, 8, 1), sides);
        const Mat X = reference::random(n, batch, 2, -1, 1);
        const Aligned buffer = prepared(q);
        const Mat dense = reference::dense(q.view());
        struct Type {
            Dtype dtype;
            std::size_t size;
            double precision;
        };
        for (const Type type : {Type{Dtype::f32, 4, 1e-7}, Type{Dtype::f64, 8, 1e-16}, Type{Dtype::f16, 2, 1e-3},
                                Type{Dtype::bf16, 2, 8e-3}})
            for (const bool transposed : {false, true}) {
                std::vector<std::uint8_t> in(std::size_t(n * batch) * 2 * type.size),
                    out(std::size_t(m * batch) * 2 * type.size);
                const auto put = [&](std::size_t i, double v) {
                    std::uint8_t* at = in.data() + i * type.size;
                    const float f = float(v);
                    const std::uint16_t h =
                        type.dtype == Dtype::f16 ? bqq::detail::f32_to_f16(f) : bqq::detail::f32_to_bf16(f);
                    if (type.dtype == Dtype::f32)
                        std::memcpy(at, &f, 4);
                    else if (type.dtype == Dtype::f64)
                        std::memcpy(at, &v, 8);
                    else
                        std::memcpy(at, &h, 2);
                };
                const auto get = [&](const std::vector<std::uint8_t>& from, std::size_t i) -> double {
                    const std::uint8_t* at = from.data() + i * type.size;
                    float f;
                    double d;
                    std::uint16_t h;
                    if (type.dtype == Dtype::f32) return std::memcpy(&f, at, 4), double(f);
                    if (type.dtype == Dtype::f64) return std::memcpy(&d, at, 8), d;
                    std::memcpy(&h, at, 2);
                    return double(type.dtype == Dtype::f16 ? bqq::detail::f16_to_f32(h) : bqq::detail::bf16_to_f32(h));
                };
                // Every other element, columns or rows first, the rows of the output backwards.
                const Index xr = transposed ? 2 : 2 * batch, xc = transposed ? 2 * n : 2;
                const Index yr = transposed ? -2 : -2 * batch, yc = transposed ? 2 * m : 2;
                Mat X2(n, batch);
                for (Index i = 0; i < n; ++i)
                    for (Index c = 0; c < batch; ++c) put(std::size_t(i * xr + c * xc), X(i, c));
                for (Index i = 0; i < n; ++i)
                    for (Index c = 0; c < batch; ++c) X2(i, c) = get(in, std::size_t(i * xr + c * xc));
                const ConstArray x{in.data(), type.dtype, n, batch, xr, xc};
                const Index start = -(m - 1) * yr;
                const Array y{out.data() + std::size_t(start) * type.size, type.dtype, m, batch, yr, yc};
                bqq::matmul(buffer.at, x, y, {1});
                const Mat expected = reference::multiply(dense, X2);
                for (Index i = 0; i < m; ++i)
                    for (Index c = 0; c < batch; ++c)
                        CHECK_NEAR(get(out, std::size_t(start + i * yr + c * yc)), expected(i, c),
                                   1e-5 * norm(expected) + type.precision * std::fabs(expected(i, c)));
            }
    }
}

TEST(row_ranges_equal_the_whole_bit_for_bit) {
    const Index m = 70, n = 33;
    for (const auto& [batch, sides] : {std::pair<Index, int>{1, 0}, {20, 0}, {1, 7}, {20, 7}, {20, 1}, {20, 6}}) {
        const bqq::Matrix q = reference::dressed(reference::random_matrix(m, n, 2, 17, 32, 1), sides);
        const Aligned buffer = prepared(q);
        const Mat X = reference::random(n, batch, 2, -1, 1);
        std::vector<float> x(X.v.begin(), X.v.end()), whole(std::size_t(m * batch)), parts(whole);
        bqq::matmul(buffer.at, input(x, n, batch), output(whole, m, batch), {1});
        const Aligned workspace(bqq::workspace_size(buffer.at, batch));
        const Index cuts[] = {0, 0, 5, 24, 25, 48, 70};
        for (std::size_t i = 0; i + 1 < sizeof cuts / sizeof *cuts; ++i) {
            std::vector<float> alone(whole.size(), -7.0f); // rows that nobody asked for stay as they are
            bqq::matmul_rows(buffer.at, input(x, n, batch), output(alone, m, batch), cuts[i], cuts[i + 1],
                             workspace.at);
            const auto [begin, end] = std::pair(cuts[i] * batch, cuts[i + 1] * batch);
            for (Index e = 0; e < m * batch; ++e) CHECK((begin <= e && e < end) || alone[std::size_t(e)] == -7.0f);
            std::copy(alone.begin() + begin, alone.begin() + end, parts.begin() + begin);
        }
        CHECK(parts == whole);
        std::vector<float> threaded(whole.size());
        bqq::matmul(buffer.at, input(x, n, batch), output(threaded, m, batch), {4});
        CHECK(threaded == whole);
    }
}

TEST(fast_class) {
    for (const Index side : {40, 130, 500})
        for (const Index patch : {0, 64, 128})
            for (const Index batch : {1, 2, 3, 8, 11}) {
                const int sides = batch % 2 ? 7 : 0; // with and without orders and entries
                const bqq::Matrix q =
                    reference::dressed(reference::random_matrix(side, side + 7, 2, side / 2, patch, 1), sides);
                const Mat X = reference::random(side + 7, batch, 2, -1, 1);
                std::vector<float> x(X.v.begin(), X.v.end()), y(std::size_t(side * batch));
                const Mat expected = reference::multiply(reference::dense(q.view()), X);
                const Aligned buffer = prepared(q);
                bqq::MatmulOptions options;
                options.precision = bqq::Precision::fast;
                bqq::matmul(buffer.at, input(x, side + 7, batch), output(y, side, batch), options);
                double error = 0;
                for (std::size_t i = 0; i < y.size(); ++i) error += std::pow(double(y[i]) - expected.v[i], 2);
                CHECK(error <= 5e-4 * norm(expected) * norm(expected));
                std::vector<float> parts(y.size());
                const Aligned workspace(bqq::workspace_size(buffer.at, batch));
                for (Index row = 0; row < side; row += 13)
                    bqq::matmul_rows(buffer.at, input(x, side + 7, batch), output(parts, side, batch), row,
                                     std::min(side, row + 13), workspace.at, options);
                CHECK(parts == y);
            }
}

TEST(accumulate) {
    const Index m = 70, n = 33, batch = 11;
    const bqq::Matrix q = reference::dressed(reference::random_matrix(m, n, 2, 17, 32, 1), 7);
    const Aligned buffer = prepared(q), workspace(bqq::workspace_size(buffer.at, batch));
    const Mat X = reference::random(n, batch, 2, -1, 1);
    std::vector<float> x(X.v.begin(), X.v.end()), y(std::size_t(m * batch)), sum(y.size(), 3.0f), parts(sum);
    bqq::MatmulOptions options;
    options.accumulate = true;
    bqq::matmul(buffer.at, input(x, n, batch), output(y, m, batch));
    bqq::matmul(buffer.at, input(x, n, batch), output(sum, m, batch), options);
    bqq::matmul_rows(buffer.at, input(x, n, batch), output(parts, m, batch), 0, m, workspace.at, options);
    for (std::size_t i = 0; i < y.size(); ++i) CHECK_EQ(sum[i], 3.0f + y[i]);
    CHECK(parts == sum);
}

TEST(matmul_rows_does_not_allocate) {
    for (const Index patch : {0, 64})
        for (const Index batch : {1, 5, 30})
            for (const int precision : {0, 1}) {
                const bqq::Matrix q =
                    reference::dressed(reference::random_matrix(200, 150, 2, 50, patch, 1), precision ? 0 : 7);
                const Aligned buffer = prepared(q), workspace(bqq::workspace_size(buffer.at, batch));
                std::vector<float> x(std::size_t(150 * batch), 1.0f), y(std::size_t(200 * batch));
                bqq::MatmulOptions options;
                options.precision = bqq::Precision(precision);
                const auto run = [&] {
                    bqq::matmul_rows(buffer.at, input(x, 150, batch), output(y, 200, batch), 3, 190, workspace.at,
                                     options);
                };
                run(); // the kernels are chosen on first use
                const long before = allocations;
                run();
                CHECK_EQ(allocations.load(), before);
            }
}

TEST(options_of_the_c_interface) {
    const bqq::Matrix q = reference::random_matrix(20, 30, 2, 9, 16, 1);
    const Aligned buffer = prepared(q), workspace(bqq::workspace_size(buffer.at, 2));
    std::vector<float> x(60, 0.5f), once(40), exact(40), twice(40);
    const bqq_array in = {x.data(), BQQ_F32, 30, 2, 2, 1};
    const auto out = [](std::vector<float>& y) { return bqq_array{y.data(), BQQ_F32, 20, 2, 2, 1}; };
    const bqq_array to_exact = out(exact), to_once = out(once), to_twice = out(twice);
    bqq_matmul_options options;
    CHECK_EQ(bqq_matmul_options_init(&options, sizeof options), BQQ_OK);
    CHECK_EQ(bqq_matmul(buffer.at, &in, &to_exact, nullptr), BQQ_OK);
    CHECK_EQ(bqq_matmul(buffer.at, &in, &to_once, &options), BQQ_OK);
    CHECK(once == exact);
    options.precision = BQQ_PRECISION_FAST;
    CHECK_EQ(bqq_matmul(buffer.at, &in, &to_once, &options), BQQ_OK);
    CHECK(once != exact);
    options.accumulate = 1;
    CHECK_EQ(bqq_matmul_rows(buffer.at, &in, &to_twice, 0, 20, workspace.at, &options), BQQ_OK);
    CHECK_EQ(bqq_matmul_rows(buffer.at, &in, &to_twice, 0, 20, workspace.at, &options), BQQ_OK);
    for (std::size_t i = 0; i < once.size(); ++i) CHECK_EQ(twice[i], once[i] + once[i]);
    options.precision = 2;
    CHECK_EQ(bqq_matmul(buffer.at, &in, &to_once, &options), BQQ_INVALID_ARGUMENT);
    options.precision = 0, options.reserved = 1;
    CHECK_EQ(bqq_matmul(buffer.at, &in, &to_once, &options), BQQ_INVALID_ARGUMENT);
    options.reserved = 0, options.struct_size = 0;
    CHECK_EQ(bqq_matmul(buffer.at, &in, &to_once, &options), BQQ_INVALID_ARGUMENT);
    std::size_t size = 7;
    CHECK_EQ(bqq_workspace_size(buffer.at, -1, &size), BQQ_INVALID_ARGUMENT);
    CHECK_EQ(size, std::size_t(7));
}

TEST(every_way_equals_the_oracle) { // also where another would be chosen
    for (const Index side : {20, 33, 150, 300})
        for (const Index patch : {0, 64})
            for (const Index batch : {1, 2, 5, 17, 40, 70, 259}) {
                if (side == 300 && batch > 40) continue; // the oracle is slow
                const Index m = side, n = side + 7;
                const int sides = batch % 2 ? 7 : 0;
                const bqq::Matrix q = reference::dressed(reference::random_matrix(m, n, 3, 21, patch, 1), sides);
                const Mat X = reference::random(n, batch, 2, -1, 1);
                const std::vector<float> x(X.v.begin(), X.v.end());
                const Mat expected = reference::multiply(reference::dense(q.view()), X);
                const Aligned buffer = prepared(q);
                for (const int precision : {0, 1})
                    for (const ProductMethod::Kind kind : possible(q.layout, precision))
                        for (const int threads : {1, 3}) {
                            std::vector<float> y(std::size_t(m * batch), NAN);
                            multiply_by(kind, buffer, x.data(), batch, y, {batch, threads, precision});
                            double error = 0;
                            for (std::size_t i = 0; i < y.size(); ++i)
                                error += std::pow(double(y[i]) - expected.v[i], 2);
                            const double bound = precision == 0 ? 1e-10 : 5e-4;
                            CHECK(error <= bound * norm(expected) * norm(expected));
                        }
            }
}

TEST(columns_do_not_depend_on_the_batch) { // that goes the same way
    const Index m = 150, n = 300, batch = 70;
    const Mat X = reference::random(n, batch, 2, -1, 1);
    const std::vector<float> x(X.v.begin(), X.v.end());
    for (const Index patch : {0, 64}) {
        const bqq::Matrix q = reference::dressed(reference::random_matrix(m, n, 2, 50, patch, 1), patch ? 7 : 0);
        const Aligned buffer = prepared(q);
        std::vector<float> whole(std::size_t(m * batch)), some(whole.size());
        for (const int precision : {0, 1})
            for (const ProductMethod::Kind kind : possible(q.layout, precision))
                for (const int threads : {1, 2, 5}) {
                    multiply_by(kind, buffer, x.data(), batch, whole, {batch, threads, precision});
                    for (const Index width : {1, 3, 20, 33, 64})
                        for (const Index c : {0, 1, 3, 6, 37, 58}) {
                            if (c + width > batch) continue;
                            multiply_by(kind, buffer, x.data() + c, width, some, {batch, threads, precision});
                            for (Index i = 0; i < m; ++i)
                                for (Index e = 0; e < width; ++e)
                                    CHECK_EQ(some[std::size_t(i * width + e)], whole[std::size_t(i * batch + c + e)]);
                        }
                }
    }
}

TEST(one_very_wide_block) { // 25,000 additions of groups of four, one after the other, lose two digits
    for (const bool tall : {false, true}) {
        const Index m = tall ? 100000 : 2, n = tall ? 2 : 100000;
        const bqq::Matrix q = reference::random_matrix(m, n, 2, 2, 0, 1);
        const Aligned buffer = prepared(q);
        for (const Index batch : {1, 3, 20}) {
            const Mat X = reference::random(n, batch, 2, -1, 1);
            std::vector<float> x(X.v.begin(), X.v.end()), y(std::size_t(m * batch));
            Mat X32 = X;
            for (std::size_t i = 0; i < x.size(); ++i) X32.v[i] = double(x[i]);
            const Mat expected = reference::multiply(reference::dense(q.view()), X32);
            bqq::matmul(buffer.at, input(x, n, batch), output(y, m, batch), {1});
            double error = 0;
            for (std::size_t i = 0; i < y.size(); ++i) error += std::pow(double(y[i]) - expected.v[i], 2);
            CHECK(std::sqrt(error) <= 5e-6 * norm(expected));
        }
    }
}

TEST(few_block_rows_on_many_threads) { // stage 1 and stage 2 one after the other, both cut by rows
    const Index m = 700, n = 650, batch = 70;
    for (const Index patch : {0, 350}) {
        const bqq::Matrix q = reference::dressed(reference::random_matrix(m, n, 2, 333, patch, 1), patch ? 7 : 0);
        const Aligned buffer = prepared(q);
        const Mat X = reference::random(n, batch, 2, -1, 1);
        std::vector<float> x(X.v.begin(), X.v.end()), one(std::size_t(m * batch)), many(one);
        bqq::matmul(buffer.at, input(x, n, batch), output(one, m, batch), {1});
        for (const int threads : {2, 3, 16}) {
            bqq::matmul(buffer.at, input(x, n, batch), output(many, m, batch), {threads});
            CHECK(many == one);
        }
    }
}

TEST(prepared_from_a_view_or_from_its_transpose_is_the_same) {
    for (const Index m : {1, 7, 33, 130})
        for (const Index n : {1, 16, 65, 129})
            for (const Index l : {1, 8, 21, 40})
                for (const Index patch : {0, 20, 48}) {
                    const bqq::Matrix plain = reference::random_matrix(m, n, 3, l, patch, 1),
                                      q = reference::dressed(plain, l == 8    ? 0
                                                                    : l == 21 ? 7
                                                                              : 6),
                                      t = bqq::transpose(q.view());
                    const std::size_t size = bqq::prepared_size(t.view());
                    CHECK_EQ(bqq::prepared_size(q.view(), true), size);
                    CHECK(!std::memcmp(prepared(q, true).at, prepared(t).at, size));
                    CHECK(!std::memcmp(prepared(t, true).at, prepared(q).at, bqq::prepared_size(q.view())));
                }
}

TEST(an_owner_of_a_prepared_matrix) {
    const Index m = 33, n = 50;
    bqq::Matrix q = reference::random_matrix(m, n, 2, 19, 20, 1);
    const Mat dense = reference::dense(q.view());
    const bqq::Layout layout = q.layout;
    bqq::PreparedMatrix first(q.view(), true);
    q = bqq::Matrix(); // the view may go
    const bqq::PreparedMatrix owner = std::move(first);
    CHECK(owner.layout() == bqq::transposed_layout(layout));
    CHECK_EQ(owner.nbytes(), bqq::prepared_size(bqq::Matrix(layout).view(), true));
    std::vector<float> x(std::size_t(m), 0.5f), y(std::size_t(n), 0.0f), direct(y);
    owner.matmul(input(x, m, 1), output(y, n, 1));
    bqq::matmul(owner.data(), input(x, m, 1), output(direct, n, 1));
    CHECK(y == direct);
    for (Index j = 0; j < n; ++j) CHECK_NEAR(y[std::size_t(j)], 0.5 * reference::col_sum(dense, j), 1e-3);
}

TEST(chosen_blocks_need_little_padding) {
    for (const auto& [m, n] : {std::pair<Index, Index>{632, 590}, {534, 799}, {513, 513}, {1536, 640}, {1024, 1024}})
        for (const Index p : {1, 2}) {
            const bqq::Layout a = bqq::make_layout(m, n, p);
            const double planes = double(a.y_bytes() + a.z_bytes());
            CHECK(double(bqq::prepared_size(bqq::Matrix(a).view())) <= 1.13 * planes + 4096);
        }
}

TEST(a_prepared_matrix_can_be_moved) {
    const bqq::Matrix q = reference::random_matrix(20, 30, 2, 8, 16, 1);
    const std::size_t size = bqq::prepared_size(q.view());
    Aligned first = prepared(q), second(size);
    std::memcpy(second.at, first.at, size);
    std::memset(first.at, 0xAB, size);
    std::vector<float> x(30, 1.0f), y(20);
    bqq::matmul(second.at, input(x, 30, 1), output(y, 20, 1), {1});
    const Mat dense = reference::dense(q.view());
    for (Index i = 0; i < 20; ++i) CHECK_NEAR(y[std::size_t(i)], reference::row_sum(dense, i), 1e-3);
}

TEST(bad_calls_are_errors) {
    const bqq::Matrix q = reference::random_matrix(20, 30, 1, 8, 0, 1);
    const Aligned buffer = prepared(q);
    std::vector<float> x(60), y(40);
    CHECK_THROWS(bqq::matmul(nullptr, input(x, 30, 1), output(y, 20, 1)), Error, "null");
    std::vector<std::uint64_t> junk(64, 1);
    CHECK_THROWS(bqq::matmul(junk.data(), input(x, 30, 1), output(y, 20, 1)), Error,
                 "does not point at a prepared matrix");
    CHECK_THROWS(bqq::matmul(buffer.at, input(x, 29, 1), output(y, 20, 1)), Error, "X has 29 rows, expected n = 30");
    CHECK_THROWS(bqq::matmul(buffer.at, input(x, 30, 1), output(y, 21, 1)), Error, "out has 21 rows, expected m = 20");
    CHECK_THROWS(bqq::matmul(buffer.at, input(x, 30, 2), output(y, 20, 1)), Error, "expected the same number");
    CHECK_THROWS(bqq::prepare(q.view(), buffer.at + 8, 1 << 20), Error, "not 64-byte aligned");
    CHECK_THROWS(bqq::prepare(q.view(), buffer.at, 64), Error, "buffer has 64 bytes");
    CHECK_THROWS(bqq::matmul_rows(buffer.at, input(x, 30, 1), output(y, 20, 1), 5, 21, buffer.at), Error,
                 "rows 5 to 21");
    bqq::matmul(buffer.at, input(x, 30, 0), output(y, 20, 0)); // nothing to do is legal
    CHECK_THROWS(bqq::workspace_size(buffer.at, -1), Error, "batch is -1");
    bqq::MatmulOptions options;
    options.precision = bqq::Precision(7);
    CHECK_THROWS(bqq::matmul(buffer.at, input(x, 30, 1), output(y, 20, 1), options), Error, "precision is 7");
    reinterpret_cast<std::uint64_t*>(buffer.at)[1] = 1; // as an older version would have written it
    CHECK_THROWS(bqq::matmul(buffer.at, input(x, 30, 1), output(y, 20, 1)), Error, "has layout 1");
    CHECK_THROWS(bqq::matmul(buffer.at, input(x, 30, 1), output(y, 20, 1)), Error, "; prepare it again");
}
