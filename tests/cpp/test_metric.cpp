// The weighted objective against dense float64 algebra.
#include "check.hpp"
#include "reference.hpp"

#include "bqq/decompose.hpp"
#include "kernels/dispatch.hpp"
#include "search/metric.hpp"
#include "search/refine.hpp"

#include <cmath>

using namespace bqq::detail;
using bqq::DecomposeOptions;
using bqq::Error;
using bqq::Index;
using reference::Mat;

namespace {

// X^T X of correlated samples, a few directions much larger than the rest.
Mat second_moment(Index n, std::uint32_t seed, double offset = 0) {
    const Mat X = reference::random(3 * n, n, seed, -1, 1), mix = reference::random(n, n, seed + 1, -1, 1);
    Mat samples = reference::multiply(X, mix);
    for (Index i = 0; i < samples.rows; ++i)
        for (Index j = 0; j < n; ++j) samples(i, j) = samples(i, j) * (j % 5 == 0 ? 3 : 1) + offset;
    Mat H(n, n);
    for (Index i = 0; i < n; ++i)
        for (Index j = 0; j < n; ++j)
            for (Index s = 0; s < samples.rows; ++s) H(i, j) += samples(s, i) * samples(s, j);
    return H;
}

std::vector<float> floats(const Mat& a) { return {a.v.begin(), a.v.end()}; }

Mat what_of(const bqq::Matrix& q) {
    std::vector<float> out(std::size_t(q.layout.m * q.layout.n));
    bqq::reconstruct(q.view(), out.data(), q.layout.n, 1);
    Mat w(q.layout.m, q.layout.n);
    w.v.assign(out.begin(), out.end());
    return w;
}

// tr(E H E^T)
double error_in(const Mat& H, const Mat& W, const Mat& What) {
    double sum = 0;
    for (Index a = 0; a < W.rows; ++a)
        for (Index i = 0; i < W.cols; ++i)
            for (Index j = 0; j < W.cols; ++j) sum += (W(a, i) - What(a, i)) * H(i, j) * (W(a, j) - What(a, j));
    return sum;
}

Mat values(const PaddedMatrix& a) {
    Mat m(a.rows, a.cols);
    for (Index i = 0; i < a.rows; ++i)
        for (Index j = 0; j < a.cols; ++j) m(i, j) = double(a.row(i)[j]);
    return m;
}

Mat normalised(Mat H, double damping) {
    double mean = 0;
    for (Index i = 0; i < H.rows; ++i) mean += H(i, i) / double(H.rows);
    for (Index i = 0; i < H.rows; ++i) H(i, i) += damping * mean;
    for (double& v : H.v) v /= mean * (1 + damping);
    return H;
}

Mat part(const Mat& a, Index i, Index j, Index rows, Index cols) {
    Mat out(rows, cols);
    for (Index r = 0; r < rows; ++r)
        for (Index c = 0; c < cols; ++c) out(r, c) = a(i + r, j + c);
    return out;
}

// A^-1 B by Gauss-Jordan with pivoting.
Mat divided(Mat A, Mat B) {
    for (Index k = 0; k < A.rows; ++k) {
        Index pivot = k;
        for (Index i = k; i < A.rows; ++i)
            if (std::fabs(A(i, k)) > std::fabs(A(pivot, k))) pivot = i;
        for (Index j = 0; j < A.cols; ++j) std::swap(A(k, j), A(pivot, j));
        for (Index j = 0; j < B.cols; ++j) std::swap(B(k, j), B(pivot, j));
        const double d = A(k, k);
        for (Index j = 0; j < A.cols; ++j) A(k, j) /= d;
        for (Index j = 0; j < B.cols; ++j) B(k, j) /= d;
        for (Index i = 0; i < A.rows; ++i) {
            const double f = A(i, k);
            if (i == k || f == 0) continue;
            for (Index j = 0; j < A.cols; ++j) A(i, j) -= f * A(k, j);
            for (Index j = 0; j < B.cols; ++j) B(i, j) -= f * B(k, j);
        }
    }
    return B;
}

template <class F> std::string message_of(F&& f) {
    try {
        f();
    } catch (const Error& e) {
        return e.what();
    }
    return "no error";
}

bool contains(const std::string& text, const char* piece) { return text.find(piece) != std::string::npos; }

} // namespace

TEST(patches_and_moves_are_the_schur_complements) {
    const Index m = 6, n = 22;
    bqq::Layout a = bqq::make_layout(m, n, 1, 3, 8);
    CHECK_EQ(a.K, Index(3));
    const Mat H = second_moment(n, 1);
    const std::vector<float> h = floats(H);
    const Metric metric(a, h.data(), n, 0.02);
    CHECK(metric.coupled());
    const Mat D = normalised(H, 0.02), whole = values(metric.whole());
    for (std::size_t i = 0; i < D.v.size(); ++i) CHECK_NEAR(whole.v[i], D.v[i], 1e-5);
    for (Index k = 0; k < a.K; ++k) {
        const Index at = k * a.cols, width = a.cols_of(k), rest = n - at - width;
        const Mat PP = part(D, at, at, width, width), PR = part(D, at, at + width, width, rest),
                  RP = part(D, at + width, at, rest, width), RR = part(D, at + width, at + width, rest, rest);
        const Mat solved = rest ? reference::multiply(PR, divided(RR, RP)) : Mat(width, width);
        const Mat S = values(metric.patch(k));
        for (Index i = 0; i < width; ++i)
            for (Index j = 0; j < width; ++j) CHECK_NEAR(S(i, j), PP(i, j) - solved(i, j), 1e-4);
        // tr(E H E^T) over P and R with the best move equals tr(E_P S E_P^T).
        PaddedMatrix E(m, width);
        const Mat e = reference::random(m, width, 5, -1, 1);
        for (Index r = 0; r < m; ++r)
            for (Index c = 0; c < width; ++c) E.row(r)[c] = float(e(r, c));
        std::vector<float> W(std::size_t(m * (n + kPad)), 0.0f);
        metric.compensate(kernels(), k, E, W.data(), n + kPad);
        Mat full(m, n - at), zero(m, n - at);
        for (Index r = 0; r < m; ++r)
            for (Index c = 0; c < n - at; ++c)
                full(r, c) = c < width ? e(r, c) : -double(W[std::size_t(r * (n + kPad) + at + c)]);
        const double before = error_in(S, e, Mat(m, width)),
                     after = error_in(part(D, at, at, n - at, n - at), full, zero);
        CHECK_NEAR(after, before, 1e-3 * before);
        for (Index r = 0; r < m; ++r)
            for (Index c = 0; c < at + width; ++c) CHECK_EQ(W[std::size_t(r * (n + kPad) + c)], 0.0f);
    }
}

TEST(a_diagonal_is_cut_and_not_coupled) {
    const bqq::Layout a = bqq::make_layout(5, 20, 1, 3, 8);
    std::vector<float> h(20);
    for (std::size_t b = 0; b < 20; ++b) h[b] = float(b);
    const Metric metric(a, h.data(), 0, 0.1);
    CHECK(!metric.coupled());
    const double mean = 9.5, scale = 1 / (mean * 1.1);
    for (Index k = 0; k < a.K; ++k)
        for (Index b = 0; b < a.cols_of(k); ++b)
            for (Index c = 0; c < a.cols_of(k); ++c)
                CHECK_NEAR(double(metric.patch(k).row(b)[c]), b == c ? (double(k * a.cols + b) + 0.95) * scale : 0,
                           1e-6);
}

TEST(scales_in_the_metric_are_a_minimum) {
    for (const Index patch : {0, 9}) {
        const Index m = 14, n = 23, p = 2;
        bqq::Matrix q = reference::random_matrix(m, n, p, 5, patch, 3);
        const bqq::Layout& a = q.layout;
        Mat W = reference::random(m, n, 4, -1, 1);
        for (double& v : W.v) v += 50; // a common offset must not cost digits
        const Mat H = normalised(second_moment(n, 5, 0.5), 0.01);
        const std::vector<float> w = floats(W), h = floats(H);
        PaddedMatrix metric(n, n);
        for (Index i = 0; i < n; ++i)
            for (Index j = 0; j < n; ++j) metric.row(i)[j] = h[std::size_t(i * n + j)];
        std::vector<double> errors;
        std::vector<float> row(std::size_t(a.K * a.scales_per_block()));
        for (Index j = 0; j < a.J; ++j) {
            errors.push_back(solve_scales_in_metric(kernels(), q.view(), {j, 0, a.K, p}, w.data() + j * a.rows * n, n,
                                                    metric, row.data()));
            std::copy(row.begin(), row.end(), q.scales.begin() + j * Index(row.size()));
        }
        double told = 0;
        for (const double e : errors) told += e;
        const double best = error_in(H, W, what_of(q));
        CHECK_NEAR(told, best, 2e-3 * best);
        for (float& scale : q.scales)
            for (const float step : {-0.01f, 0.01f}) {
                const float was = scale;
                scale += step;
                CHECK(error_in(H, W, what_of(q)) > best * (1 - 1e-4));
                scale = was;
            }
    }
}

TEST(scales_of_stacks_that_repeat_each_other_stay_small) {
    for (const Index patch : {0, 9})
        for (const double tilt : {0.0, 1e-3}) {
            const Index m = 14, n = 23, p = 3;
            bqq::Matrix q = reference::random_matrix(m, n, p, 5, patch, 3);
            const bqq::Layout& a = q.layout;
            for (Index block = 0; block < a.blocks(); ++block)
                for (Index i = 1; i < p; ++i) { // stack 0 again and again
                    auto* y = q.Y.data() + block * p * a.y_plane_bytes();
                    auto* z = q.Z.data() + block * p * a.z_plane_bytes();
                    std::copy_n(y, a.y_plane_bytes(), y + i * a.y_plane_bytes());
                    std::copy_n(z, a.z_plane_bytes(), z + i * a.z_plane_bytes());
                }
            const Mat W = reference::random(m, n, 4, -1, 1);
            const Mat H = normalised(second_moment(n, 5, tilt), 0.01);
            const std::vector<float> w = floats(W), h = floats(H);
            PaddedMatrix metric(n, n);
            for (Index i = 0; i < n; ++i)
                for (Index j = 0; j < n; ++j) metric.row(i)[j] = h[std::size_t(i * n + j)];
            const auto error = [&](Index stacks) {
                bqq::Matrix part = bqq::prefix(q.view(), stacks);
                std::vector<float> row(std::size_t(a.K * part.layout.scales_per_block()));
                for (Index j = 0; j < a.J; ++j) {
                    solve_scales_in_metric(kernels(), part.view(), {j, 0, a.K, stacks}, w.data() + j * a.rows * n, n,
                                           metric, row.data());
                    for (const float scale : row) CHECK(std::fabs(scale) < 10);
                    std::copy(row.begin(), row.end(), part.scales.begin() + j * Index(row.size()));
                }
                return error_in(H, W, what_of(part));
            };
            const double one = error(1), three = error(3);
            CHECK_NEAR(three, one, 1e-3 * one);
        }
}

TEST(refinement_in_the_metric_keeps_its_error_and_ends_where_no_flip_helps) {
    const Index m = 13, n = 37, l = 6; // 37: two chunks of coupled columns
    bqq::Matrix q = reference::random_matrix(m, n, 1, l, 0, 3);
    const bqq::Layout& a = q.layout;
    const Mat W = reference::random(m, n, 4, 1, 3), H = normalised(second_moment(n, 7), 0.01);
    const std::vector<float> w = floats(W), h = floats(H);
    RefineOptions options;
    for (const Index sweeps : {1, 40}) {
        options.sweeps = sweeps;
        Refiner refiner(kernels(), m + 1, n + 4, l, true);
        refiner.set_target(m, n, w.data(), n, 2, h.data(), n);
        refiner.set_bits(q.Y.data(), a.y_row_bytes(), q.Z.data(), a.z_row_bytes());
        const double kept = 4 * refiner.run(options, 1, 0, 0, [](Index) {});
        refiner.get_bits(q.Y.data(), a.y_row_bytes(), q.Z.data(), a.z_row_bytes());
        bqq::validate(q.view());
        PaddedMatrix metric(n, n);
        for (Index i = 0; i < n; ++i)
            for (Index j = 0; j < n; ++j) metric.row(i)[j] = h[std::size_t(i * n + j)];
        solve_scales_in_metric(kernels(), q.view(), {0, 0, 1, 1}, w.data(), n, metric, q.scales.data());
        const double best = error_in(H, W, what_of(q));
        CHECK_NEAR(kept, best, 2e-3 * best);
        for (auto* plane : {&q.Y, &q.Z})
            for (std::size_t byte = 0; byte < plane->size(); ++byte)
                for (int b = 0; b < 8; ++b) {
                    const Index row_bytes = plane == &q.Y ? a.y_row_bytes() : a.z_row_bytes();
                    if (Index(byte) % row_bytes * 8 + b >= (plane == &q.Y ? l : n)) continue;
                    (*plane)[byte] ^= std::uint8_t(1u << b);
                    CHECK(error_in(H, W, what_of(q)) > best * (1 - 1e-3));
                    (*plane)[byte] ^= std::uint8_t(1u << b);
                }
    }
}

TEST(an_identity_weight_changes_nothing_but_rounding) {
    const Index n = 24;
    const Mat W = reference::random(20, n, 8, -1, 1);
    const std::vector<float> w = floats(W), ones(std::size_t(n), 2.0f);
    std::vector<float> identity(std::size_t(n * n), 0.0f);
    for (Index i = 0; i < n; ++i) identity[std::size_t(i * n + i)] = 2;
    DecomposeOptions options;
    options.steps = 300, options.refine = 400, options.threads = 1;
    const double plain = bqq::squared_error(bqq::decompose(w.data(), 20, n, n, 2, options).view(), w.data(), n, 1);
    for (const Index ld : {Index(0), n}) {
        options.weight = ld ? identity.data() : ones.data(), options.ldweight = ld;
        const double weighted =
            bqq::squared_error(bqq::decompose(w.data(), 20, n, n, 2, options).view(), w.data(), n, 1);
        CHECK_NEAR(weighted, plain, 0.1 * plain); // the bits take another path
    }
}

TEST(a_weight_lowers_the_weighted_error) {
    const Index m = 30, n = 44;
    const Mat W = reference::random(m, n, 8, -1, 1), H = second_moment(n, 9);
    const std::vector<float> w = floats(W), h = floats(H);
    std::vector<float> diagonal;
    for (Index i = 0; i < n; ++i) diagonal.push_back(float(H(i, i)));
    const auto run = [&](Index patch, const float* weight, Index ld, int threads) {
        DecomposeOptions options;
        options.steps = 300, options.refine = 400, options.patch = patch;
        options.weight = weight, options.ldweight = ld, options.threads = threads;
        return bqq::decompose(w.data(), m, n, n, 2, options);
    };
    for (const Index patch : {0, 15}) {
        const double plain = error_in(H, W, what_of(run(patch, nullptr, 0, 1)));
        const bqq::Matrix one = run(patch, h.data(), n, 1), two = run(patch, h.data(), n, 2);
        CHECK(one.Y == two.Y && one.Z == two.Z && one.scales == two.scales);
        CHECK(error_in(H, W, what_of(one)) < 0.6 * plain);
        CHECK(error_in(H, W, what_of(run(patch, diagonal.data(), 0, 2))) < plain);
    }
}

TEST(extend_in_a_metric_keeps_the_old_bits) {
    const Index m = 20, n = 26;
    const Mat W = reference::random(m, n, 8, -1, 1), H = second_moment(n, 9);
    const std::vector<float> w = floats(W), h = floats(H);
    DecomposeOptions options;
    options.steps = 200, options.refine = 200, options.patch = 13, options.weight = h.data(), options.ldweight = n;
    const bqq::Matrix one = bqq::decompose(w.data(), m, n, n, 1, options);
    const bqq::Matrix two = bqq::extend(one.view(), w.data(), n, 2, options);
    const bqq::Matrix back = bqq::prefix(two.view(), 1);
    CHECK(back.Y == one.Y && back.Z == one.Z);
    CHECK(error_in(H, W, what_of(two)) < 0.6 * error_in(H, W, what_of(one)));
}

TEST(weights_that_are_none) {
    const bqq::Layout a = bqq::make_layout(4, 3, 1, 1, 0);
    const auto metric = [&](std::vector<float> h, Index ld, double damping = 0.01) {
        return message_of([&] { Metric(a, h.data(), ld, damping); });
    };
    CHECK(contains(metric({1, 0, 0, 0, 1, 0, 0, 0, 1}, 3), "no error"));
    CHECK(contains(metric({1, 2, 0, 2, 1, 0, 0, 0, 1}, 3), "not positive definite"));
    CHECK(contains(metric({1, 0.5, 0, 0, 1, 0, 0, 0, 1}, 3), "not symmetric: [0, 1]"));
    CHECK(contains(metric({1, 0, 0, 0, NAN, 0, 0, 0, 1}, 3), "[1, 1] is nan"));
    CHECK(contains(metric({1, INFINITY, 0, 0, 1, 0, 0, 0, 1}, 3), "[0, 1] is inf"));
    CHECK(contains(metric({1, 0, 0, 0, -1, 0, 0, 0, 1}, 3), "diagonal position 1"));
    CHECK(contains(metric({1, -1, 1}, 0), "diagonal position 1"));
    CHECK(contains(metric({0, 0, 0}, 0), "is zero"));
    CHECK(contains(metric({1, 0, 1}, 0, 0), "position 1 and no damping"));
    CHECK(contains(metric({1, 0, 1}, 0), "no error"));
    CHECK(contains(metric({1, 1, 1, 1, 1, 1, 1, 1, 1}, 3, 0), "more damping"));
    CHECK(contains(metric({1, 1, 1, 1, 1, 1, 1, 1, 1}, 3), "no error"));
    CHECK(contains(metric({1, 1, 1}, 0, -1), "damping is -1"));
}
