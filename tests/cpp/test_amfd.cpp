// The descent in float32 kernels follows the float64 formulas step by step.
#include "check.hpp"
#include "reference.hpp"

#include "kernels/dispatch.hpp"
#include "search/amfd.hpp"

using reference::Mat;
using namespace bqq::detail;
using bqq::Index;

namespace {

Mat read(const float* x, Index rows, Index cols, Index ld) {
    Mat a(rows, cols);
    for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < cols; ++j) a(i, j) = double(x[i * ld + j]);
    return a;
}

void solve_reference(const Mat& X, const Mat& y, const Mat& z, double a[4]) {
    // E[phi phi^T] through finite sums is what test_scales proves; here it is rebuilt from the energy: b and A are its
    // derivatives, and the energy is quadratic in a.
    MeanFieldSystem e;
    const double zero[4] = {0, 0, 0, 0};
    const double base = reference::energy(X, y, z, zero);
    double single[4];
    for (int i = 0; i < 4; ++i) {
        double plus[4] = {0, 0, 0, 0}, minus[4] = {0, 0, 0, 0};
        plus[i] = 1, minus[i] = -1;
        const double up = reference::energy(X, y, z, plus), down = reference::energy(X, y, z, minus);
        e.A[i][i] = (up + down) / 2 - base;
        e.b[i] = (down - up) / 4;
        single[i] = up;
    }
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < i; ++j) {
            double both[4] = {0, 0, 0, 0};
            both[i] = both[j] = 1;
            e.A[i][j] = e.A[j][i] = (reference::energy(X, y, z, both) - single[i] - single[j] + base) / 2;
        }
    solve(e, a);
}

void step_reference(const Mat& X, Mat& y, Mat& y_old, Mat& z, Mat& z_old, double a[4], double T, const AmfdOptions& o) {
    Mat yf = y, zf = z;
    for (std::size_t i = 0; i < y.v.size(); ++i) yf.v[i] += o.zeta * (y.v[i] - y_old.v[i]);
    for (std::size_t i = 0; i < z.v.size(); ++i) zf.v[i] += o.zeta * (z.v[i] - z_old.v[i]);
    const auto g = reference::gradients(X, yf, zf, a);
    const auto move = [&](Mat& x, Mat& old, const Mat& gradient) {
        for (std::size_t i = 0; i < x.v.size(); ++i) {
            const double v = 2 * x.v[i] - old.v[i] - o.eta * (gradient.v[i] + T * (x.v[i] - 0.5));
            old.v[i] = x.v[i];
            x.v[i] = v < 0 ? 0 : v > 1 ? 1 : v;
        }
    };
    move(y, y_old, g.y);
    move(z, z_old, g.z);
    solve_reference(X, y, z, a);
}

// How far 30 to 50 steps of this level may be from the formulas: rounding is amplified by a system near its
// instability, that of bfloat16 operands more than that of float32.
double leeway(const bqq_kernels& kernel) {
    alignas(64) float A[16] = {1 + 1e-4f}, B[16] = {1}, C[16], workspace[gemm_workspace(1, 16, 1)];
    kernel.gemm_rounded(1, 16, 1, A, 16, 1, 2, B, 16, 1, nullptr, 0, nullptr, C, 16, workspace);
    return C[0] == A[0] ? 1 : 100;
}

} // namespace

TEST(fifty_steps_equal_the_formulas) {
    for (const auto& name : isa_available()) {
        const bqq_kernels kernel = kernels_capped(name);
        const double more = leeway(kernel);
        for (const auto& shape : {std::array<Index, 3>{12, 20, 7}, {33, 17, 11}, {5, 40, 4}}) {
            const Index m = shape[0], n = shape[1], l = shape[2];
            const Mat W = reference::random(m, n, 5, -1, 1);
            const std::vector<float> w(W.v.begin(), W.v.end());
            AmfdOptions options;
            options.steps = 50;
            // Work space made for a larger block: leading dimensions must not matter.
            Amfd amfd(kernel, m + 3, n + 9, l);
            amfd.set_target(m, n, w.data(), n, 0, 2);
            amfd.start(options, 42, 3, 1);
            Mat X(m, n), y = read(amfd.y(), m, l, amfd.ldl()), z = read(amfd.z(), l, n, amfd.ldn());
            for (std::size_t i = 0; i < X.v.size(); ++i) X.v[i] = double(w[i]) / 2;
            Mat y_old = y, z_old = z; // y = old - eta (old - 1/2), so old = (y - eta/2) / (1 - eta)
            for (double& v : y_old.v) v = (v - options.eta / 2) / (1 - options.eta);
            for (double& v : z_old.v) v = (v - options.eta / 2) / (1 - options.eta);
            double a[4];
            solve_reference(X, y, z, a);
            for (int i = 0; i < 4; ++i) CHECK_NEAR(amfd.scales()[i], a[i], 2e-4 * more * (1 + std::fabs(a[i])));
            double worst = 0;
            for (int step = 0; step < 50; ++step) {
                const double T = 0.2 - 0.195 * step / 49;
                amfd.step(options, T);
                step_reference(X, y, y_old, z, z_old, a, T, options);
                const Mat y32 = read(amfd.y(), m, l, amfd.ldl()), z32 = read(amfd.z(), l, n, amfd.ldn());
                for (std::size_t i = 0; i < y.v.size(); ++i) worst = std::max(worst, std::fabs(y.v[i] - y32.v[i]));
                for (std::size_t i = 0; i < z.v.size(); ++i) worst = std::max(worst, std::fabs(z.v[i] - z32.v[i]));
            }
            CHECK(worst < 5e-4 * more);
            for (int i = 0; i < 4; ++i) CHECK_NEAR(amfd.scales()[i], a[i], 2e-3 * more * (1 + std::fabs(a[i])));
        }
    }
}

TEST(every_level_follows_the_same_path) {
    const Index m = 24, n = 31, l = 13;
    const Mat W = reference::random(m, n, 6, -1, 1);
    const std::vector<float> w(W.v.begin(), W.v.end());
    AmfdOptions options;
    Mat first;
    for (const auto& name : isa_available()) {
        const bqq_kernels table = kernels_capped(name);
        Amfd amfd(table, m, n, l);
        amfd.set_target(m, n, w.data(), n, 0, 2);
        amfd.start(options, 1, 0, 0);
        for (int step = 0; step < 30; ++step) amfd.step(options, 0.15);
        const Mat y = read(amfd.y(), m, l, amfd.ldl());
        if (first.v.empty()) first = y;
        for (std::size_t i = 0; i < y.v.size(); ++i) CHECK_NEAR(y.v[i], first.v[i], 5e-4 * leeway(table));
    }
}

TEST(a_settled_run_ends_early_and_unsettled_ones_do_not) {
    const Mat W = reference::random(16, 16, 7, -1, 1);
    const std::vector<float> w(W.v.begin(), W.v.end());
    for (const bool stop : {false, true}) {
        AmfdOptions options;
        options.steps = 4000;
        options.stop_when_settled = stop;
        Amfd amfd(kernels(), 16, 16, 8);
        amfd.set_target(16, 16, w.data(), 16, 0, 2);
        amfd.start(options, 1, 0, 0);
        Index done = 0, steps = 0;
        amfd.run(options, [&](Index count) { done += count, ++steps; });
        CHECK_EQ(done, Index(4000)); // steps saved are reported too
        CHECK_EQ(steps < 4000, stop);
        if (stop) CHECK(amfd.softness() < 1e-6);
    }
}
