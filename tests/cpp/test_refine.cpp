#include "check.hpp"
#include "reference.hpp"

#include "bqq/decompose.hpp"
#include "kernels/dispatch.hpp"
#include "search/refine.hpp"
#include "search/scales.hpp"

using namespace bqq::detail;
using bqq::Index;

namespace {

const double kDivisor = 3;

struct Problem {
    bqq::Matrix q;
    std::vector<float> W;
    Problem(Index m, Index n, Index p, Index l) : q(reference::random_matrix(m, n, p, l, 0, 3)) {
        const auto w = reference::random(m, n, 4, 1, 3);
        W.assign(w.v.begin(), w.v.end());
    }
    double solve() {
        return solve_scales(BlockProducts(q.view(), 0, 0, q.layout.p), W.data(), q.layout.n, q.scales.data());
    }
    double refine(const RefineOptions& options, std::uint64_t seed = 1) {
        const bqq::Layout& a = q.layout;
        Refiner refiner(kernels(), a.rows + 2, a.cols + 5, a.l);
        refiner.set_target(a.m, a.n, W.data(), a.n, kDivisor);
        refiner.set_bits(q.Y.data(), a.y_row_bytes(), q.Z.data(), a.z_row_bytes());
        const double error = refiner.run(options, seed, 0, 0, [&](Index done) { sweeps += int(done); });
        refiner.get_bits(q.Y.data(), a.y_row_bytes(), q.Z.data(), a.z_row_bytes());
        bqq::validate(q.view());
        return error * kDivisor * kDivisor;
    }
    int sweeps = 0;
};

} // namespace

TEST(the_error_it_keeps_is_the_exact_one) {
    for (const Index m : {19, 300})
        for (const Index l : {1, 7, 20}) {
            Problem problem(m, 14, 1, l);
            RefineOptions options;
            options.sweeps = 30;
            const double before = problem.solve(), kept = problem.refine(options), after = problem.solve();
            CHECK_NEAR(kept, after, 2e-5 * before);
            CHECK(after < before);
            CHECK_EQ(problem.sweeps, 30);
        }
}

TEST(it_ends_where_no_single_flip_helps) {
    Problem problem(9, 11, 1, 8);
    RefineOptions options;
    options.sweeps = 20;
    problem.refine(options);
    problem.solve();
    // With the scales as they are, every single flip raises the error.
    const double best = bqq::squared_error(problem.q.view(), problem.W.data(), 11, 1);
    const bqq::Layout& a = problem.q.layout;
    for (auto* plane : {&problem.q.Y, &problem.q.Z})
        for (std::size_t byte = 0; byte < plane->size(); ++byte)
            for (int b = 0; b < 8; ++b) {
                const Index row_bytes = plane == &problem.q.Y ? a.y_row_bytes() : a.z_row_bytes();
                const Index used = plane == &problem.q.Y ? a.l : a.cols;
                if (Index(byte) % row_bytes * 8 + b >= used) continue;
                (*plane)[byte] ^= std::uint8_t(1u << b);
                CHECK(bqq::squared_error(problem.q.view(), problem.W.data(), 11, 1) > best * (1 - 1e-4));
                (*plane)[byte] ^= std::uint8_t(1u << b);
            }
}

TEST(the_same_seed_gives_the_same_bits) {
    RefineOptions options;
    options.sweeps = 15;
    Problem a(20, 20, 1, 10), b(20, 20, 1, 10), c(20, 20, 1, 10);
    a.refine(options, 5), b.refine(options, 5), c.refine(options, 6);
    CHECK(a.q.Y == b.q.Y && a.q.Z == b.q.Z);
    CHECK(a.q.Y != c.q.Y);
}

TEST(a_long_anneal_beats_a_quench) {
    const auto error = [](Index sweeps) {
        Problem problem(40, 40, 1, 20);
        RefineOptions options;
        options.sweeps = sweeps;
        problem.refine(options);
        return problem.solve();
    };
    CHECK(error(5000) < 0.97 * error(1));
}
