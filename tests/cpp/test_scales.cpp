// The 4 x 4 mean-field system and the joint solve against brute force over all binary states.
#include "check.hpp"
#include "reference.hpp"

#include "bqq/decompose.hpp"
#include "search/scales.hpp"

using reference::Mat;
using namespace bqq::detail;
using bqq::Index;

namespace {

const double kScales[4] = {0.7, -0.3, 0.45, 0.2};

MeanFieldSums sums_of(const Mat& X, const Mat& y, const Mat& z) {
    MeanFieldSums q{};
    const Mat yz = reference::multiply(y, z);
    q.m = double(X.rows), q.n = double(X.cols);
    for (Index i = 0; i < X.rows; ++i)
        for (Index j = 0; j < X.cols; ++j) {
            q.yz_yz += yz(i, j) * yz(i, j), q.X_yz += X(i, j) * yz(i, j), q.X += X(i, j);
            q.X_sy += X(i, j) * reference::row_sum(y, i), q.X_sz += X(i, j) * reference::col_sum(z, j);
            q.sy_yz += reference::row_sum(y, i) * yz(i, j), q.sz_yz += reference::col_sum(z, j) * yz(i, j);
        }
    for (Index i = 0; i < X.rows; ++i) q.sy_sy += reference::row_sum(y, i) * reference::row_sum(y, i);
    for (Index j = 0; j < X.cols; ++j) q.sz_sz += reference::col_sum(z, j) * reference::col_sum(z, j);
    for (Index k = 0; k < y.cols; ++k) {
        double cy = 0, cy2 = 0, cz = 0, cz2 = 0;
        for (Index i = 0; i < X.rows; ++i) cy += y(i, k), cy2 += y(i, k) * y(i, k);
        for (Index j = 0; j < X.cols; ++j) cz += z(k, j), cz2 += z(k, j) * z(k, j);
        q.cy += cy, q.cz += cz, q.cy2 += cy2, q.cz2 += cz2;
        q.cy_cz += cy * cz, q.cy2_cz2 += cy2 * cz2, q.cy2_cz += cy2 * cz, q.cy_cz2 += cy * cz2;
    }
    return q;
}

} // namespace

TEST(energy_equals_the_expectation_over_all_states) {
    for (std::uint32_t seed = 0; seed < 5; ++seed) {
        const Mat X = reference::random(3, 3, seed, -1, 1), y = reference::random(3, 2, 10 + seed),
                  z = reference::random(2, 3, 20 + seed);
        CHECK_NEAR(reference::energy(X, y, z, kScales), reference::brute_force_energy(X, y, z, kScales), 1e-10);
    }
}

TEST(gradients_equal_those_of_the_expectation) {
    // The expectation is linear in each mean, so the difference of its two ends is its derivative, exactly.
    const Mat X = reference::random(3, 3, 1, -1, 1), y = reference::random(3, 2, 2), z = reference::random(2, 3, 3);
    const auto g = reference::gradients(X, y, z, kScales);
    for (std::size_t i = 0; i < y.v.size(); ++i) {
        Mat one = y, zero = y;
        one.v[i] = 1, zero.v[i] = 0;
        const double up = reference::brute_force_energy(X, one, z, kScales);
        CHECK_NEAR(g.y.v[i], up - reference::brute_force_energy(X, zero, z, kScales), 1e-10);
    }
    for (std::size_t i = 0; i < z.v.size(); ++i) {
        Mat one = z, zero = z;
        one.v[i] = 1, zero.v[i] = 0;
        const double up = reference::brute_force_energy(X, y, one, kScales);
        CHECK_NEAR(g.z.v[i], up - reference::brute_force_energy(X, y, zero, kScales), 1e-10);
    }
}

TEST(system_equals_the_expectation_over_all_states) {
    for (std::uint32_t seed = 0; seed < 3; ++seed) {
        const Mat X = reference::random(3, 3, seed, -1, 1), y = reference::random(3, 2, 10 + seed),
                  z = reference::random(2, 3, 20 + seed);
        double A[4][4] = {}, b[4] = {};
        reference::for_states(y, z, [&](const Mat& Y, const Mat& Z, double probability) {
            double a1[4][4], b1[4];
            reference::basis_products(X, Y, Z, a1, b1);
            for (int i = 0; i < 4; ++i) {
                b[i] += probability * b1[i];
                for (int j = 0; j < 4; ++j) A[i][j] += probability * a1[i][j];
            }
        });
        const MeanFieldSystem e = mean_field_system(sums_of(X, y, z));
        for (int i = 0; i < 4; ++i) {
            CHECK_NEAR(e.b[i], b[i], 1e-10);
            for (int j = 0; j < 4; ++j) CHECK_NEAR(e.A[i][j], A[i][j], 1e-10);
        }
        double a[4];
        solve(e, a);
        const double best = reference::energy(X, y, z, a);
        for (int i = 0; i < 4; ++i)
            for (const double step : {-1e-3, 1e-3}) {
                double other[4] = {a[0], a[1], a[2], a[3]};
                other[i] += step;
                CHECK(reference::energy(X, y, z, other) > best);
            }
    }
}

TEST(singular_systems_have_small_finite_answers) {
    const Mat X = reference::random(4, 4, 1, -1, 1);
    for (const double fill : {0.0, 1.0}) {
        double a[4];
        solve(mean_field_system(sums_of(X, Mat(4, 2, fill), Mat(2, 4, fill))), a);
        double mean = 0;
        for (const double x : X.v) mean += x / 16;
        CHECK_NEAR(reference::model(Mat(4, 2, fill), Mat(2, 4, fill), a)(0, 0), mean, 1e-9);
        for (const double x : a) CHECK(std::fabs(x) < 1);
    }
}

TEST(joint_solve_is_a_minimum_of_the_true_error) {
    for (const Index p : {1, 2, 5}) {
        bqq::Matrix q = reference::random_matrix(13, 9, p, 4, 0, 7);
        const Mat W = reference::random(13, 9, 8, -1, 3);
        const std::vector<float> w(W.v.begin(), W.v.end());
        const auto error = [&] { return bqq::squared_error(q.view(), w.data(), 9, 1); };
        const double returned = solve_scales(BlockProducts(q.view(), 0, 0, p), w.data(), 9, q.scales.data());
        const double best = error();
        CHECK_NEAR(returned, best, 1e-9 * best);
        for (float& scale : q.scales)
            for (const float step : {-1e-2f, 1e-2f}) {
                const float keep = scale;
                scale += step;
                CHECK(error() > best);
                scale = keep;
            }
    }
}

TEST(joint_solve_recovers_exact_scales_and_survives_duplicates) {
    bqq::Matrix q = reference::random_matrix(20, 17, 2, 6, 0, 3);
    const Mat W = reference::dense(q.view());
    const std::vector<float> w(W.v.begin(), W.v.end());
    std::vector<float> scales(7);
    CHECK(solve_scales(BlockProducts(q.view(), 0, 0, 2), w.data(), 17, scales.data()) < 1e-8);
    for (std::size_t i = 0; i < scales.size(); ++i) CHECK_NEAR(scales[i], q.scales[i], 1e-5);
    // A stack twice: the system is singular, the error must stay zero and the scales finite.
    const bqq::Layout& a = q.layout;
    std::copy_n(q.Y.begin(), a.y_plane_bytes(), q.Y.begin() + a.y_plane_bytes());
    std::copy_n(q.Z.begin(), a.z_plane_bytes(), q.Z.begin() + a.z_plane_bytes());
    const Mat V = reference::dense(q.view());
    const std::vector<float> v(V.v.begin(), V.v.end());
    CHECK(solve_scales(BlockProducts(q.view(), 0, 0, 2), v.data(), 17, scales.data()) < 1e-6);
    for (const float x : scales) CHECK(std::isfinite(x) && std::fabs(x) < 10);
}
