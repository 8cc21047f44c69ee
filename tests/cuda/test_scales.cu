// Sums of the joint solve, residuals and the words of the solver against the CPU.
#include "check.hpp"
#include "words.hpp"

using namespace bqq::cuda;
using bqq::Index;
using reference::Mat;

namespace {

std::vector<float> random_weights(Index m, Index n, unsigned seed) {
    const Mat W = reference::random(m, n, seed, -1, 2);
    return {W.v.begin(), W.v.end()};
}

} // namespace

TEST(planes_to_words_and_back) {
    for (const Index l : {1, 7, 32, 37}) {
        const bqq::Matrix q = reference::random_matrix(29, 43, 2, l, 16, unsigned(l));
        const device::Words words(q, random_weights(29, 43, 1));
        const bqq::Matrix got = words.get();
        CHECK(got.Y == q.Y);
        CHECK(got.Z == q.Z);
    }
}

TEST(sums_and_scales_equal_the_cpu) {
    for (const Index p : {1, 3}) {
        bqq::Matrix q = reference::random_matrix(29, 43, p, 35, 16, 5);
        const std::vector<float> w = random_weights(29, 43, 6);
        const device::Words words(q, w);
        const Index count = 3 * p + 1, blocks = q.layout.blocks();
        const device::Array<std::int64_t> gram(std::size_t(blocks * count * count));
        const device::Array<double> rhs(std::size_t(blocks * (count + 1)));
        device::must(scale_sums(words.batch(), int(p), gram.at(), rhs.at(), nullptr));
        const auto G = gram.get();
        const auto b = rhs.get();
        std::vector<float> all_scales;
        for (Index block = 0; block < blocks; ++block) {
            const Index j = block / q.layout.K, k = block % q.layout.K;
            bqq::detail::JointSystem e(count);
            for (Index i = 0; i < count * count; ++i)
                e.A[std::size_t(i)] = double(G[std::size_t(block * count * count + i)]);
            for (Index i = 0; i < count; ++i) e.b[std::size_t(i)] = b[std::size_t(block * (count + 1) + i)];
            std::vector<double> a(static_cast<std::size_t>(count));
            bqq::detail::solve(e, a.data());
            a.back() += b[std::size_t(block * (count + 1) + count)];
            std::vector<float> expected(static_cast<std::size_t>(count));
            bqq::detail::solve_scales(bqq::detail::BlockProducts(q.view(), j, k, p),
                                      w.data() + j * q.layout.rows * q.layout.n + k * q.layout.cols, q.layout.n,
                                      expected.data());
            for (std::size_t i = 0; i < a.size(); ++i)
                CHECK_NEAR(a[i], double(expected[i]), 1e-6 * (1 + std::fabs(double(expected[i]))));
            all_scales.insert(all_scales.end(), expected.begin(), expected.end());
        }
        // Residuals and what they tell, with those scales.
        const device::Array<float> scales(all_scales);
        const std::size_t size = std::size_t(q.layout.rows * q.layout.cols);
        const device::Array<float> residual(std::size_t(blocks) * size);
        const device::Array<Spread> spreads(static_cast<std::size_t>(blocks));
        device::must(residuals(words.batch(), int(p), scales.at(), residual.at(), spreads.at(), nullptr));
        const auto spread = spreads.get();
        for (Index block = 0; block < blocks; ++block) {
            const Index j = block / q.layout.K, k = block % q.layout.K, m = q.layout.rows_of(j),
                        n = q.layout.cols_of(k);
            std::vector<float> expected(static_cast<std::size_t>(m * n));
            bqq::detail::block_residual(
                bqq::detail::BlockProducts(q.view(), j, k, p), all_scales.data() + block * count,
                w.data() + j * q.layout.rows * q.layout.n + k * q.layout.cols, q.layout.n, expected.data());
            double error = 0, sum = 0, squares = 0;
            float low = expected[0], high = low;
            for (Index a = 0; a < m; ++a) {
                const auto row =
                    residual.get(std::size_t(block) * size + std::size_t(a * q.layout.cols), std::size_t(n));
                for (Index c = 0; c < n; ++c) {
                    const float x = expected[std::size_t(a * n + c)];
                    CHECK_NEAR(row[std::size_t(c)], x, 1e-6);
                    error += double(x) * double(x), sum += double(x), low = std::min(low, x), high = std::max(high, x);
                }
            }
            const double mean = sum / double(m * n);
            for (const float x : expected) squares += (double(x) - mean) * (double(x) - mean);
            const Spread& s = spread[std::size_t(block)];
            CHECK_NEAR(s.error, error, 1e-5 * error);
            CHECK_NEAR(s.mean, mean, 1e-6);
            CHECK_NEAR(s.deviation, std::sqrt(squares / double(m * n)), 1e-6);
            CHECK_NEAR(s.range, double(high) - double(low), 2e-6);
        }
    }
}

TEST(without_stacks_the_residual_is_the_matrix) {
    const bqq::Matrix q = reference::random_matrix(9, 14, 1, 3, 16, 5);
    const std::vector<float> w = random_weights(9, 14, 6);
    const device::Words words(q, w);
    const device::Array<float> residual(w.size());
    const device::Array<Spread> spread(1);
    device::must(residuals(words.batch(), 0, nullptr, residual.at(), spread.at(), nullptr));
    CHECK(residual.get() == w);
    CHECK(spread.get()[0].range > 2);
}

TEST(patches_that_are_not_active_are_left_alone) {
    const bqq::Matrix q = reference::random_matrix(9, 14, 1, 3, 16, 5);
    const device::Words words(q, random_weights(9, 14, 6));
    auto patches = words.patches.get();
    patches[0].active = 0;
    words.patches.set(patches);
    const device::Array<Spread> spread(std::vector<Spread>{{{2, 3, 4}, 1}});
    device::must(residuals(words.batch(), 0, nullptr, nullptr, spread.at(), nullptr));
    CHECK_EQ(spread.get()[0].range, 4.0);
}
