// Every kernel on every instruction set of this machine against float64 loops.
#include "aligned.hpp"
#include "check.hpp"
#include "reference.hpp"

#include "kernels/dispatch.hpp"

#include <cfloat>

using aligned_memory::Elements;
using bqq::Index;
using reference::Mat;

namespace {

// A padded float copy of a matrix: leading dimension a multiple of kPad, zero padding.
struct Padded {
    Index rows, cols, ld;
    std::vector<float> v;
    Padded(const Mat& a, Index extra = 0)
        : rows(a.rows), cols(a.cols), ld((a.cols + kPad - 1) / kPad * kPad + extra * kPad), v(std::size_t(rows * ld)) {
        for (Index i = 0; i < rows; ++i)
            for (Index j = 0; j < cols; ++j) v[std::size_t(i * ld + j)] = float(a(i, j));
    }
    double operator()(Index i, Index j) const { return double(v[std::size_t(i * ld + j)]); }
    float* data() { return v.data(); }
    bool clean() const {
        for (Index i = 0; i < rows; ++i)
            for (Index j = cols; j < ld; ++j)
                if (v[std::size_t(i * ld + j)] != 0) return false;
        return true;
    }
};
Mat values(const Padded& a) {
    Mat m(a.rows, a.cols);
    for (Index i = 0; i < a.rows; ++i)
        for (Index j = 0; j < a.cols; ++j) m(i, j) = a(i, j);
    return m;
}

// Rows of bits, 16 a word.
std::vector<std::uint16_t> packed_bits(const Padded& a) {
    std::vector<std::uint16_t> packed(a.v.size() / kPad, std::uint16_t(0));
    for (std::size_t i = 0; i < a.v.size(); ++i)
        if (a.v[i] != 0) packed[i / kPad] |= std::uint16_t(1u << i % kPad);
    return packed;
}

template <class F> void on_each_isa(F&& f) {
    for (const std::string& name : bqq::detail::isa_available()) f(bqq::detail::kernels_capped(name));
}

std::vector<float> zeros(Index count) { return std::vector<float>(static_cast<std::size_t>(count), 0.0f); }

const Index kSizes[] = {1, 2, 7, 12, 13, 16, 17, 33, 64, 100};

// Error of a float32 sum of `terms` products of size at most `size`.
double bound(Index terms, double size) { return 2.0 * double(terms + 2) * double(FLT_EPSILON) * size; }

} // namespace

TEST(gemm) {
    on_each_isa([](const bqq_kernels& kernel) {
        for (const Index M : kSizes)
            for (const Index N : {1, 16, 31, 48, 65})
                for (const Index K : {1, 5, 64}) {
                    const Padded A(reference::random(M, K, 1, -1, 1)), At(reference::random(K, M, 2, -1, 1));
                    const Padded B(reference::random(K, N, 3, -1, 1)), D(reference::random(M, N, 4, -1, 1), 1);
                    const std::vector<float> bias(std::size_t(M), 0.25f);
                    for (const bool transposed : {false, true})
                        for (const bool plus : {false, true}) {
                            Padded C(Mat(M, N), 2);
                            kernel.gemm(std::size_t(M), std::size_t(B.ld), std::size_t(K),
                                        transposed ? At.v.data() : A.v.data(), transposed ? 1 : std::size_t(A.ld),
                                        transposed ? std::size_t(At.ld) : 1, B.v.data(), std::size_t(B.ld),
                                        plus ? D.v.data() : nullptr, std::size_t(D.ld), plus ? bias.data() : nullptr,
                                        C.data(), std::size_t(C.ld));
                            for (Index i = 0; i < M; ++i)
                                for (Index j = 0; j < N; ++j) {
                                    double sum = plus ? D(i, j) + 0.25 : 0;
                                    for (Index k = 0; k < K; ++k) sum += (transposed ? At(k, i) : A(i, k)) * B(k, j);
                                    CHECK_NEAR(C(i, j), sum, bound(K, 2));
                                }
                        }
                }
    });
}

TEST(gemm_dots) {
    on_each_isa([](const bqq_kernels& kernel) {
        for (const Index M : kSizes)
            for (const Index N : {1, 16, 65}) {
                const Index K = 9;
                const Padded A(reference::random(M, K, 1)), B(reference::random(K, N, 2)),
                    X(reference::random(M, N, 3, -1, 1));
                double sums[2], square = 0, cross = 0;
                kernel.gemm_dots(std::size_t(M), std::size_t(B.ld), std::size_t(K), A.v.data(), std::size_t(A.ld), 1,
                                 B.v.data(), std::size_t(B.ld), X.v.data(), std::size_t(X.ld), sums);
                const Mat P = reference::multiply(values(A), values(B));
                for (Index i = 0; i < M; ++i)
                    for (Index j = 0; j < N; ++j) square += P(i, j) * P(i, j), cross += P(i, j) * X(i, j);
                CHECK_NEAR(sums[0], square, 1e-5 * square);
                CHECK_NEAR(sums[1], cross, 1e-5 * square);
            }
    });
}

TEST(rounded_products) {
    // The oracle is of the operands not rounded at all: the difference is bounded by the rounding.
    on_each_isa([](const bqq_kernels& kernel) {
        for (const Index M : kSizes)
            for (const Index N : {1, 31, 65})
                for (const Index K : {1, 2, 15, 64, 101}) {
                    const Padded A(reference::random(M, K, 1, -1, 1)), At(reference::random(K, M, 2, -1, 1)),
                        B(reference::random(K, N, 3, -1, 1)), D(reference::random(M, N, 4, -1, 1), 1);
                    const std::vector<float> bias(std::size_t(M), 0.25f);
                    const Elements<float> workspace(gemm_workspace(std::size_t(M), std::size_t(B.ld), std::size_t(K)));
                    const double tolerance = std::sqrt(double(K)) * 4 / 256 + bound(K, 2);
                    for (const bool transposed : {false, true}) {
                        Padded C(Mat(M, N), 2);
                        kernel.gemm_rounded(
                            std::size_t(M), std::size_t(B.ld), std::size_t(K), transposed ? At.v.data() : A.v.data(),
                            transposed ? 1 : std::size_t(A.ld), transposed ? std::size_t(At.ld) : 1, 1, B.v.data(),
                            std::size_t(B.ld), 1, transposed ? nullptr : D.v.data(), std::size_t(D.ld),
                            transposed ? nullptr : bias.data(), C.data(), std::size_t(C.ld), workspace.at);
                        double square = 0, cross = 0, sums[2];
                        for (Index i = 0; i < M; ++i)
                            for (Index j = 0; j < N; ++j) {
                                double sum = 0;
                                for (Index k = 0; k < K; ++k) sum += (transposed ? At(k, i) : A(i, k)) * B(k, j);
                                square += sum * sum, cross += sum * D(i, j);
                                CHECK_NEAR(C(i, j), sum + (transposed ? 0 : D(i, j) + 0.25), tolerance);
                            }
                        if (transposed) continue;
                        kernel.gemm_dots_rounded(std::size_t(M), std::size_t(B.ld), std::size_t(K), A.v.data(),
                                                 std::size_t(A.ld), 1, 1, B.v.data(), std::size_t(B.ld), 1, D.v.data(),
                                                 std::size_t(D.ld), sums, workspace.at);
                        CHECK_NEAR(sums[0], square, 0.02 * square + 0.002);
                        CHECK_NEAR(sums[1], cross, 0.02 * std::sqrt(square * double(M * N)) + 0.002);
                    }
                }
    });
}

// Levels with a bound round to multiples of bound / 4095 and are exact from there on: whole multiples up to the bound,
// of any scale, one huge entry among small ones, all entries at the bound in more than a chunk.
TEST(products_of_multiples_of_the_unit_are_exact) {
    on_each_isa([](const bqq_kernels& kernel) {
        if (!kernel.largest) return;
        for (const double scale : {1.0, 1e27, 1e-20}) // the largest entries: 4e30
            for (const Index K : {1, 2, 127, 128, 129, 300})
                for (const int kind : {0, 1, 2, 3}) {
                    const Index M = 7, N = 21;
                    Padded A(reference::random(M, K, 1, -4095, 4095)), B(reference::random(K, N, 2, -4095, 4095));
                    for (float& v : A.v) v = kind == 0 ? std::nearbyint(v) : kind == 1 ? 4095.0f : 0.0f;
                    for (float& v : B.v) v = kind == 0 ? std::nearbyint(v) : -4095.0f;
                    for (Index i = 0; kind == 2 && i < M; ++i) A.v[std::size_t(i * A.ld)] = i ? 1.0f : 4095.0f;
                    const Padded wholeA = A, wholeB = B;
                    for (float& v : A.v) v = float(double(v) * scale);
                    for (Index k = 0; k < K; ++k) // nobody reads these columns
                        for (Index j = N; j < B.ld; ++j) B.v[std::size_t(k * B.ld + j)] = 1e9f;
                    Padded C(Mat(M, N)), X(Mat(M, N));
                    const float most = kind == 3 ? 0.0f : float(4095 * scale);
                    const Elements<float> workspace(gemm_workspace(std::size_t(M), std::size_t(B.ld), std::size_t(K)),
                                                    NAN);
                    kernel.gemm_rounded(std::size_t(M), std::size_t(B.ld), std::size_t(K), A.v.data(),
                                        std::size_t(A.ld), 1, most, B.v.data(), std::size_t(B.ld), 4095, nullptr, 0,
                                        nullptr, C.data(), std::size_t(C.ld), workspace.at);
                    for (Index i = 0; i < M; ++i)
                        for (Index j = 0; j < N; ++j) {
                            double sum = 0;
                            for (Index k = 0; k < K; ++k) sum += wholeA(i, k) * wholeB(k, j);
                            // what float32 leaves of sums below 2^31, chunk by chunk
                            CHECK_NEAR(C(i, j) / scale, sum, 1e-6 * (std::fabs(sum) + double(K) * 4095 * 4095 / 16));
                        }
                }
    });
}

TEST(rounding_to_the_bound_stays_within_half_a_unit) {
    on_each_isa([](const bqq_kernels& kernel) {
        if (!kernel.largest) return;
        for (const double outlier : {1.0, 1000.0})
            for (const Index K : {3, 64, 130}) {
                const Index M = 19, N = 33;
                Padded A(reference::random(M, K, 1, -1, 1)), C(Mat(M, N));
                const Padded B(reference::random(K, N, 2, -1, 1));
                A.v[std::size_t(4 * A.ld + 1)] = float(outlier);
                const float most = kernel.largest(std::size_t(M), std::size_t(K), std::size_t(A.ld), A.v.data());
                const Elements<float> workspace(gemm_workspace(std::size_t(M), std::size_t(B.ld), std::size_t(K)), NAN);
                kernel.gemm_rounded(std::size_t(M), std::size_t(B.ld), std::size_t(K), A.v.data(), std::size_t(A.ld), 1,
                                    most, B.v.data(), std::size_t(B.ld), 1, nullptr, 0, nullptr, C.data(),
                                    std::size_t(C.ld), workspace.at);
                for (Index i = 0; i < M; ++i)
                    for (Index j = 0; j < N; ++j) {
                        double sum = 0, a = 0, b = 0;
                        for (Index k = 0; k < K; ++k) {
                            sum += A(i, k) * B(k, j);
                            a += std::fabs(A(i, k)), b += std::fabs(B(k, j));
                        }
                        const double half_a = 0.5001 * double(most) / 4095, half_b = 0.5001 / 4095;
                        CHECK_NEAR(C(i, j), sum, half_a * b + half_b * a + double(K) * half_a * half_b);
                    }
            }
    });
}

TEST(largest) {
    on_each_isa([](const bqq_kernels& kernel) {
        if (!kernel.largest) return;
        for (const Index rows : {1, 3})
            for (const Index cols : kSizes)
                for (const double at : {-7.0, 7.0}) {
                    Padded x(reference::random(rows, cols, 1, -1, 1));
                    for (Index i = 0; i < rows; ++i)
                        for (Index j = cols; j < x.ld; ++j) x.v[std::size_t(i * x.ld + j)] = 1e9f;
                    for (Index j = 0; j < cols; ++j) {
                        Padded y = x;
                        y.v[std::size_t((rows - 1) * x.ld + j)] = float(at);
                        CHECK_EQ(kernel.largest(std::size_t(rows), std::size_t(cols), std::size_t(x.ld), y.data()), 7);
                    }
                }
    });
}

TEST(counts_are_exact) {
    on_each_isa([](const bqq_kernels& kernel) {
        for (const Index M : {1, 13, 40})
            for (const Index N : {1, 33})
                for (const Index K : {1, 3, 16, 30, 33, 64, 255, 601}) {
                    const double most = K == 255 ? kMostCount : K == 601 ? 600 : 255;
                    Padded A(reference::random(M, K, 1)), B(reference::random(K, N, 2, 0, most)), C(Mat(M, N));
                    for (float& v : A.v) v = v > 0.5f ? 1.0f : 0.0f;
                    for (float& v : B.v) v = std::floor(v + 0.5f);
                    const Elements<float> workspace(gemm_workspace(std::size_t(M), std::size_t(B.ld), std::size_t(K)));
                    kernel.gemm_counts(std::size_t(M), std::size_t(B.ld), std::size_t(K), packed_bits(A).data(),
                                       std::size_t(A.ld / kPad), B.v.data(), std::size_t(B.ld), std::size_t(most),
                                       C.data(), std::size_t(C.ld), workspace.at);
                    for (Index i = 0; i < M; ++i)
                        for (Index j = 0; j < N; ++j) {
                            double sum = 0;
                            for (Index k = 0; k < K; ++k) sum += A(i, k) * B(k, j);
                            CHECK_EQ(C(i, j), sum);
                        }
                }
    });
}

TEST(counts_of_full_chunks_are_exact) {
    on_each_isa([](const bqq_kernels& kernel) {
        for (const Index K : {255, 256, 257, 512, 1028})
            for (const double count : {0.0, 255.0, 256.0, double(kMostCount)}) {
                const Index M = 5, N = 17;
                Padded A(Mat(M, K, 1)), B(Mat(K, N, count)), C(Mat(M, N));
                const Elements<float> workspace(gemm_workspace(std::size_t(M), std::size_t(B.ld), std::size_t(K)));
                kernel.gemm_counts(std::size_t(M), std::size_t(B.ld), std::size_t(K), packed_bits(A).data(),
                                   std::size_t(A.ld / kPad), B.v.data(), std::size_t(B.ld), std::size_t(count),
                                   C.data(), std::size_t(C.ld), workspace.at);
                for (Index i = 0; i < M; ++i)
                    for (Index j = 0; j < N; ++j) CHECK_EQ(C(i, j), double(K) * count);
            }
    });
}

TEST(extrapolate) {
    on_each_isa([](const bqq_kernels& kernel) {
        for (const Index rows : {1, 5, 64})
            for (const Index cols : kSizes) {
                Padded x(reference::random(rows, cols, 1)), old(reference::random(rows, cols, 2));
                Padded f(Mat(rows, cols)), g(Mat(rows, cols));
                std::vector<float> row = zeros(rows), row_sq = row, col = zeros(x.ld), col_sq = col;
                const bqq_sums sums{row.data(), row_sq.data(), col.data(), col_sq.data()};
                kernel.extrapolate(std::size_t(rows), std::size_t(cols), std::size_t(x.ld), x.data(), old.data(), 4,
                                   -0.5f, 0.75f, f.data(), g.data(), &sums);
                CHECK(f.clean());
                CHECK(g.clean());
                Mat expected(rows, cols), squares(rows, cols);
                for (Index i = 0; i < rows; ++i)
                    for (Index j = 0; j < cols; ++j) {
                        const double v = x(i, j) + 4 * (x(i, j) - old(i, j));
                        expected(i, j) = v, squares(i, j) = v * v;
                        CHECK_NEAR(f(i, j), v, 2e-6);
                        CHECK_NEAR(g(i, j), -0.5 * v + 0.75, 2e-6);
                    }
                for (Index i = 0; i < rows; ++i) {
                    CHECK_NEAR(row[std::size_t(i)], reference::row_sum(expected, i), bound(cols, 6));
                    CHECK_NEAR(row_sq[std::size_t(i)], reference::row_sum(squares, i), bound(cols, 30));
                }
                for (Index j = 0; j < cols; ++j) {
                    CHECK_NEAR(col[std::size_t(j)], reference::col_sum(expected, j), bound(rows, 6));
                    CHECK_NEAR(col_sq[std::size_t(j)], reference::col_sum(squares, j), bound(rows, 30));
                }
                const bqq_sums none{nullptr, nullptr, nullptr, nullptr};
                kernel.extrapolate(std::size_t(rows), std::size_t(cols), std::size_t(x.ld), x.data(), old.data(), 4,
                                   -0.5f, 0.75f, nullptr, g.data(), &none);
                CHECK(g.clean());
            }
    });
}

TEST(update) {
    on_each_isa([](const bqq_kernels& kernel) {
        for (const Index rows : {1, 5, 33})
            for (const Index cols : kSizes)
                for (const int by_row : {0, 1}) {
                    Padded x(reference::random(rows, cols, 1)), old(reference::random(rows, cols, 2)),
                        grad(reference::random(rows, cols, 3, -3, 3));
                    for (Index i = 0; i < rows; ++i) // padding of a gradient is not promised to be clean
                        for (Index j = cols; j < grad.ld; ++j) grad.v[std::size_t(i * grad.ld + j)] = 7;
                    const Padded P(reference::random(1, by_row ? rows : cols, 4)),
                        Q(reference::random(1, by_row ? rows : cols, 5));
                    const Padded before = x, before_old = old;
                    std::vector<float> row = zeros(rows), row_sq = row, col = zeros(x.ld), col_sq = col;
                    const bqq_sums sums{row.data(), row_sq.data(), col.data(), col_sq.data()};
                    const float moved =
                        kernel.update(std::size_t(rows), std::size_t(cols), std::size_t(x.ld), x.data(), old.data(),
                                      grad.data(), -2, 4, 0.06f, 0.1f, P.v.data(), Q.v.data(), by_row, &sums);
                    double most = 0;
                    for (Index i = 0; i < rows; ++i)
                        for (Index j = 0; j < cols; ++j) {
                            const double v = before(i, j), w = before_old(i, j), f = v + 4 * (v - w);
                            const double G =
                                -2 * grad(i, j) + (1 - 2 * f) * P(0, by_row ? i : j) + Q(0, by_row ? i : j);
                            double next = 2 * v - w - 0.06 * (G + 0.1 * (v - 0.5));
                            next = next < 0 ? 0 : next > 1 ? 1 : next;
                            CHECK_NEAR(x(i, j), next, 2e-6);
                            CHECK_EQ(old(i, j), v);
                            most = std::max(most, std::fabs(next - v));
                        }
                    CHECK_NEAR(moved, most, 2e-6);
                    CHECK(x.clean());
                    CHECK(old.clean());
                    const Mat now = values(x);
                    for (Index i = 0; i < rows; ++i)
                        CHECK_NEAR(row[std::size_t(i)], reference::row_sum(now, i), bound(cols, 1));
                    for (Index j = 0; j < cols; ++j)
                        CHECK_NEAR(col[std::size_t(j)], reference::col_sum(now, j), bound(rows, 1));
                }
    });
}

TEST(transpose) {
    on_each_isa([](const bqq_kernels& kernel) {
        for (const Index rows : kSizes)
            for (const Index cols : kSizes) {
                const Padded A(reference::random(rows, cols, 1));
                Padded B(Mat(cols, rows, 9));
                B.v.assign(B.v.size(), 9.0f);
                kernel.transpose(std::size_t(rows), std::size_t(cols), A.v.data(), std::size_t(A.ld), B.data(),
                                 std::size_t(B.ld));
                CHECK(B.clean());
                for (Index i = 0; i < rows; ++i)
                    for (Index j = 0; j < cols; ++j) CHECK_EQ(B(j, i), A(i, j));
            }
    });
}

TEST(bilinear) {
    on_each_isa([](const bqq_kernels& kernel) {
        for (const Index rows : kSizes)
            for (const Index cols : kSizes) {
                const Padded M(reference::random(rows, cols, 1, -1, 1)), a(reference::random(1, rows, 2, -1, 1)),
                    b(reference::random(1, cols, 3, -1, 1));
                double sum = 0;
                for (Index i = 0; i < rows; ++i)
                    for (Index j = 0; j < cols; ++j) sum += a(0, i) * M(i, j) * b(0, j);
                CHECK_NEAR(kernel.bilinear(std::size_t(rows), std::size_t(cols), std::size_t(M.ld), a.v.data(),
                                           M.v.data(), b.v.data()),
                           sum, double(rows) * bound(cols, 1));
            }
    });
}

TEST(column_dots_and_affine) {
    on_each_isa([](const bqq_kernels& kernel) {
        for (const Index rows : {1, 5, 40})
            for (const Index cols : {3, 16, 48, 100}) {
                const Padded A(reference::random(rows, cols, 1, -1, 1)), B(reference::random(rows, cols, 2, -1, 1), 1),
                    w(reference::random(1, rows, 3, -1, 1));
                const Padded a(reference::random(1, cols, 4)), b(reference::random(1, cols, 5)),
                    c(reference::random(1, cols, 6));
                for (const bool weighted : {false, true})
                    for (const bool paired : {false, true}) {
                        std::vector<float> out = zeros(A.ld);
                        kernel.column_dots(std::size_t(rows), std::size_t(A.ld), weighted ? w.v.data() : nullptr,
                                           A.v.data(), std::size_t(A.ld), paired ? B.v.data() : nullptr,
                                           std::size_t(B.ld), out.data());
                        for (Index j = 0; j < A.ld; ++j) {
                            double sum = 0;
                            for (Index i = 0; j < cols && i < rows; ++i)
                                sum += (weighted ? w(0, i) : 1) * A(i, j) * (paired ? B(i, j) : 1);
                            CHECK_NEAR(out[std::size_t(j)], sum, bound(rows, 1));
                        }
                    }
                std::vector<float> out = zeros(rows * A.ld);
                kernel.column_affine(std::size_t(rows), std::size_t(A.ld), A.v.data(), a.v.data(), w.v.data(),
                                     b.v.data(), c.v.data(), out.data());
                for (Index i = 0; i < rows; ++i)
                    for (Index j = 0; j < cols; ++j)
                        CHECK_NEAR(out[std::size_t(i * A.ld + j)], a(0, j) * A(i, j) + b(0, j) * w(0, i) + c(0, j),
                                   1e-6);
            }
    });
}

TEST(axpy) {
    on_each_isa([](const bqq_kernels& kernel) {
        Padded x(reference::random(1, 80, 1)), y(reference::random(1, 80, 2));
        const Padded before = y;
        kernel.axpy(std::size_t(x.ld), -1.5f, x.v.data(), y.data());
        for (Index j = 0; j < 80; ++j) CHECK_NEAR(y(0, j), before(0, j) - 1.5 * x(0, j), 1e-6);
    });
}

TEST(correlate) {
    on_each_isa([](const bqq_kernels& kernel) {
        for (const Index L : {1, 16, 50})
            for (const bool with_X : {false, true}) {
                const Index rows = 7;
                Padded bits(reference::random(rows, L, 1)), X(reference::random(rows, L, 2, -1, 1)),
                    c(reference::random(rows, L, 3, 0, 9)), nu(reference::random(1, L, 4, 0, 9)),
                    held(reference::random(1, L, 5));
                for (float& v : bits.v) v = v > 0.5f ? 1.0f : 0.0f;
                const Padded P = c, x(reference::random(1, rows, 6));
                const double r = -0.7, s = 0.3, size = 21;
                const bqq_atoms atoms{nu.v.data(), held.v.data(), float(r), float(s), float(size)};
                kernel.correlate(&atoms, std::size_t(rows), std::size_t(c.ld), bits.v.data(),
                                 with_X ? X.v.data() : nullptr, with_X ? x.v.data() : nullptr, c.data());
                for (Index a = 0; a < rows; ++a) {
                    double rho = 0, w = 0;
                    for (Index k = 0; k < L; ++k) rho += bits(a, k), w += bits(a, k) * nu(0, k);
                    for (Index q = 0; q < L; ++q) {
                        const double minus = r * r * P(a, q) + r * s * w + (r * s * nu(0, q) + size * s * s) * rho;
                        const double plus = with_X ? r * X(a, q) + s * x(0, a) : 0;
                        CHECK_NEAR(c(a, q), plus - minus - held(0, q), 1e-5 * (10 + rho * 30));
                    }
                }
            }
    });
}

TEST(project) {
    on_each_isa([](const bqq_kernels& kernel) {
        for (const Index rows : {1, 5, 40})
            for (const Index L : {3, 16, 48, 100}) {
                Padded bits(reference::random(rows, L, 1));
                for (float& v : bits.v) v = v > 0.5f ? 1.0f : 0.0f;
                const Padded X(reference::random(rows, L, 2, -1, 1)), x(reference::random(1, rows, 3, -1, 1));
                Padded sums(reference::random(1, L, 4)), dots(reference::random(1, L, 5));
                const Padded first = sums, second = dots;
                kernel.project(std::size_t(rows), std::size_t(bits.ld), bits.v.data(), X.v.data(), x.v.data(),
                               sums.data(), dots.data());
                CHECK(sums.clean());
                CHECK(dots.clean());
                for (Index q = 0; q < L; ++q) {
                    double sum = first(0, q), dot = second(0, q);
                    for (Index a = 0; a < rows; ++a) sum += x(0, a) * bits(a, q), dot += X(a, q) * bits(a, q);
                    CHECK_NEAR(sums(0, q), sum, bound(rows, 1));
                    CHECK_NEAR(dots(0, q), dot, bound(rows, 1));
                }
            }
    });
}

TEST(add_pairs) {
    on_each_isa([](const bqq_kernels& kernel) {
        for (const Index L : {1, 5, 16, 17, 50, 100}) {
            const Index ld = (L + kPad - 1) / kPad * kPad;
            const auto whole = [&](std::uint32_t seed, double unit) {
                Mat a = reference::random(L, L, seed, 0, 200), b(ld, L);
                for (Index k = 0; k < L; ++k)
                    for (Index q = 0; q < L; ++q) b(k, q) = std::floor(a(k, q)) * unit;
                return Padded(b);
            };
            Padded pairs = whole(1, 0.5), gram = whole(2, 1);
            const Padded moved = pairs, before = gram, other = whole(3, 1);
            std::vector<float> sums(std::size_t(ld), 9.0f), dots = sums;
            kernel.add_pairs(std::size_t(ld), pairs.data(), gram.data(), other.v.data(), sums.data(), dots.data());
            CHECK(gram.clean());
            for (const float v : pairs.v) CHECK_EQ(v, 0);
            for (Index q = 0; q < ld; ++q) {
                double sum = 0, dot = 0;
                for (Index k = 0; q < L && k < L; ++k) {
                    CHECK_EQ(gram(k, q), before(k, q) + moved(k, q) + moved(q, k));
                    sum += gram(k, q), dot += gram(k, q) * other(k, q);
                }
                CHECK_EQ(sums[std::size_t(q)], sum);
                CHECK_NEAR(dots[std::size_t(q)], dot, bound(L, 400 * 200));
            }
        }
    });
}

TEST(anneal) {
    on_each_isa([](const bqq_kernels& kernel) {
        for (const Index L : {1, 5, 16, 17, 50, 64, 81, 140})
            for (const double T : {0.0, 0.3, 3.0})
                for (const bool with_counts : {false, true}) {
                    // A Gram matrix, correlations and exponential numbers; the scalar loop visits bits one by one.
                    const Index rows = 3, width = 20;
                    const Mat Phi = reference::random(L, width, 7, -1, 1);
                    Mat M(L, L);
                    for (Index k = 0; k < L; ++k)
                        for (Index q = 0; q < L; ++q)
                            for (Index b = 0; b < width; ++b) M(k, q) -= Phi(k, b) * Phi(q, b);
                    Padded gram(M), bits(reference::random(rows, L, 8)), c(reference::random(rows, L, 9, -5, 5)),
                        X(reference::random(rows, width, 11, -1, 1));
                    const Index ld = gram.ld;
                    Padded atoms(Mat(L, width)), pairs(Mat(ld, L));
                    std::vector<float> diagonal(std::size_t(ld), INFINITY), before = zeros(ld);
                    for (Index k = 0; k < L; ++k) diagonal[std::size_t(k)] = -gram.v[std::size_t(k * ld + k)];
                    for (float& x : bits.v) x = x > 0.5f ? 1.0f : 0.0f;
                    const Padded pool(reference::random(1, 40 + ld, 10, 0, 4));
                    std::uint64_t state = 5, expected_state = 5;

                    std::vector<std::uint16_t> packed = packed_bits(bits);
                    const Mat first = values(bits);
                    Mat b = first, cc = values(c), expected_atoms(L, width);
                    std::size_t flips = 0;
                    bool close = false; // a gain within rounding of its threshold decides either way
                    for (Index a = 0; a < rows; ++a) {
                        expected_state = expected_state * 6364136223846793005u + 1442695040888963407u;
                        const Index place = Index((expected_state >> 40) % 40);
                        const Mat was = b;
                        for (Index k = 0; k < L; ++k) {
                            const double d = 1 - 2 * b(a, k), gain = 2 * d * cc(a, k) + M(k, k);
                            const double margin = gain + T * pool(0, place + k);
                            close = close || std::fabs(margin) < 1e-4;
                            if (margin <= 0) continue;
                            ++flips;
                            b(a, k) = 1 - b(a, k);
                            for (Index q = 0; q < L; ++q) cc(a, q) += d * M(k, q);
                        }
                        for (Index k = 0; k < L; ++k) {
                            const double d = b(a, k) - was(a, k);
                            for (Index q = 0; q < width; ++q) expected_atoms(k, q) += d * X(a, q);
                        }
                    }
                    std::vector<std::uint32_t> flipped(std::size_t(ld), 0u);
                    bqq_anneal problem{};
                    problem.rows = std::size_t(rows), problem.ld = std::size_t(ld);
                    problem.bits = bits.data(), problem.packed = packed.data(), problem.c = c.data(),
                    problem.M = gram.v.data();
                    problem.diagonal = diagonal.data(), problem.T = float(T), problem.pool = pool.v.data();
                    problem.pool_size = 40, problem.state = &state, problem.X = X.v.data();
                    problem.atoms = atoms.data(), problem.ldx = std::size_t(X.ld), problem.before = before.data();
                    problem.flipped = flipped.data();
                    if (with_counts) problem.pairs = pairs.data();
                    const std::size_t done = kernel.anneal(&problem);
                    CHECK_EQ(state, expected_state);
                    if (close) continue;
                    CHECK_EQ(done, flips);
                    CHECK(bits.clean());
                    CHECK(packed == packed_bits(bits));
                    for (Index a = 0; a < rows; ++a)
                        for (Index k = 0; k < L; ++k) {
                            CHECK_EQ(bits(a, k), b(a, k));
                            CHECK_NEAR(c(a, k), cc(a, k), 1e-4);
                        }
                    for (Index k = 0; k < L; ++k) {
                        for (Index q = 0; q < width; ++q) CHECK_NEAR(atoms(k, q), expected_atoms(k, q), 1e-5);
                        for (Index q = 0; q < L; ++q) {
                            double more = 0;
                            for (Index a = 0; with_counts && a < rows; ++a)
                                more += b(a, k) * b(a, q) - first(a, k) * first(a, q);
                            CHECK_EQ(pairs(k, q) + pairs(q, k), more);
                        }
                    }
                }
    });
}
