#include "check.hpp"
#include "reference.hpp"

#include "bqq/decompose.hpp"

#include <atomic>
#include <thread>

using bqq::DecomposeOptions;
using bqq::Error;
using bqq::ErrorCode;
using bqq::Index;

namespace {

std::vector<float> random_floats(Index m, Index n, std::uint32_t seed) {
    const auto a = reference::random(m, n, seed, -1, 1);
    return {a.v.begin(), a.v.end()};
}

DecomposeOptions quick(Index patch = 0) {
    DecomposeOptions options;
    options.steps = 60;
    options.refine = 20;
    options.patch = patch;
    return options;
}

bool same(const bqq::Matrix& a, const bqq::Matrix& b) {
    return a.layout == b.layout && a.Y == b.Y && a.Z == b.Z && a.scales == b.scales;
}

} // namespace

TEST(result_is_valid_and_independent_of_threads) {
    const auto W = random_floats(50, 41, 1);
    for (const auto schedule : {bqq::Schedule::adaptive, bqq::Schedule::paper}) {
        DecomposeOptions options = quick(16);
        options.schedule = schedule;
        options.threads = 1;
        const bqq::Matrix one = bqq::decompose(W.data(), 50, 41, 41, 2, options);
        bqq::validate(one.view());
        for (const int threads : {2, 4, 9}) {
            options.threads = threads;
            CHECK(same(one, bqq::decompose(W.data(), 50, 41, 41, 2, options)));
        }
        options.seed = 1;
        CHECK(!same(one, bqq::decompose(W.data(), 50, 41, 41, 2, options)));
    }
}

TEST(blocks_do_not_know_of_each_other) {
    // Changing one block of W leaves the bits of all others as they are: no state passes from patch to patch, in any
    // order.
    auto W = random_floats(48, 32, 2);
    const bqq::Matrix before = bqq::decompose(W.data(), 48, 32, 32, 2, quick(16));
    const auto other = random_floats(48, 32, 3);
    for (Index i = 16; i < 32; ++i)
        for (Index j = 0; j < 16; ++j) W[std::size_t(i * 32 + j)] = other[std::size_t(i * 32 + j)];
    const bqq::Matrix after = bqq::decompose(W.data(), 48, 32, 32, 2, quick(16));
    const bqq::Layout& a = before.layout;
    for (Index block = 0; block < a.blocks(); ++block) {
        const Index size = a.p * a.y_plane_bytes();
        const bool equal =
            !std::memcmp(before.Y.data() + block * size, after.Y.data() + block * size, std::size_t(size));
        CHECK_EQ(equal, block != 1 * a.K + 0);
    }
}

TEST(extend_equals_decompose) {
    const auto W = random_floats(40, 23, 3);
    for (const Index patch : {0, 16}) {
        const bqq::Matrix one = bqq::decompose(W.data(), 40, 23, 23, 1, quick(patch));
        const bqq::Matrix three = bqq::decompose(W.data(), 40, 23, 23, 3, quick(patch));
        CHECK(same(bqq::extend(one.view(), W.data(), 23, 3, quick()), three));
        CHECK(same(bqq::extend(three.view(), W.data(), 23, 3, quick()), three));
        CHECK_THROWS(bqq::extend(three.view(), W.data(), 23, 2, quick()), Error, "p is 2, expected 3");
        double last = 1e300;
        for (const bqq::Matrix* q : {&one, &three}) {
            const double error = bqq::squared_error(q->view(), W.data(), 23);
            CHECK(error < last);
            last = error;
        }
    }
}

TEST(refinement_never_hurts_and_paper_has_none) {
    for (std::uint32_t seed = 0; seed < 5; ++seed) {
        const auto W = random_floats(30, 26, seed);
        const auto error = [&](bqq::Schedule schedule, Index refine) {
            DecomposeOptions options;
            options.steps = 150;
            options.schedule = schedule;
            options.refine = refine;
            return bqq::squared_error(bqq::decompose(W.data(), 30, 26, 26, 1, options).view(), W.data(), 26);
        };
        const double none = error(bqq::Schedule::adaptive, -1);
        for (const Index sweeps : {1, 10, 200}) CHECK(error(bqq::Schedule::adaptive, sweeps) <= none);
        CHECK(error(bqq::Schedule::adaptive, 200) < none);
        CHECK_EQ(error(bqq::Schedule::paper, 0), error(bqq::Schedule::paper, -1));
    }
}

TEST(a_strided_matrix_is_read_in_place) {
    const auto W = random_floats(20, 30, 4);
    std::vector<float> corner;
    for (Index i = 0; i < 20; ++i) corner.insert(corner.end(), &W[std::size_t(i * 30)], &W[std::size_t(i * 30)] + 17);
    CHECK(
        same(bqq::decompose(W.data(), 20, 17, 30, 1, quick()), bqq::decompose(corner.data(), 20, 17, 17, 1, quick())));
}

TEST(constant_matrices_are_exact) {
    for (const float value : {0.0f, -0.1f, 3e30f, 1e-38f}) {
        const std::vector<float> W(35, value);
        const bqq::Matrix q = bqq::decompose(W.data(), 5, 7, 7, 2, quick(3));
        std::vector<float> out(35);
        bqq::reconstruct(q.view(), out.data(), 7);
        CHECK(out == W);
    }
}

TEST(progress_counts_up_to_the_total_on_the_calling_thread) {
    const auto W = random_floats(64, 64, 5);
    for (const int threads : {1, 2}) {
        DecomposeOptions options = quick(16);
        options.steps = 500;
        options.refine = 40;
        options.threads = threads;
        Index last = 0, total = 0;
        bool ordered = true;
        const auto caller = std::this_thread::get_id();
        options.progress = [&](Index done, Index all) {
            ordered = ordered && done >= last && done <= all && std::this_thread::get_id() == caller;
            last = done, total = all;
            return true;
        };
        bqq::decompose(W.data(), 64, 64, 64, 2, options);
        CHECK(ordered);
        CHECK_EQ(last, total);
        CHECK_EQ(total, Index(16 * 2 * (500 + 40)));
    }
}

TEST(progress_can_cancel) {
    const auto W = random_floats(64, 64, 5);
    for (const int threads : {1, 2}) {
        DecomposeOptions options = quick(32);
        options.steps = 1000000000;
        options.threads = threads;
        options.progress = [](Index, Index) { return false; };
        try {
            bqq::decompose(W.data(), 64, 64, 64, 1, options);
            CHECK(false);
        } catch (const Error& e) {
            CHECK(e.code() == ErrorCode::cancelled);
            CHECK(std::strstr(e.what(), "stopped by the progress callback"));
        }
    }
}

TEST(bad_input_names_the_argument) {
    auto W = random_floats(4, 5, 6);
    CHECK_THROWS(bqq::decompose(nullptr, 4, 5, 5, 1), Error, "W is a null pointer");
    CHECK_THROWS(bqq::decompose(W.data(), 4, 5, 4, 1), Error, "ldw is 4, expected n = 5");
    DecomposeOptions options;
    options.steps = -1;
    CHECK_THROWS(bqq::decompose(W.data(), 4, 5, 5, 1, options), Error, "steps is -1");
    options = {};
    options.refine = -3;
    CHECK_THROWS(bqq::decompose(W.data(), 4, 5, 5, 1, options), Error, "refine is -3");
    options = {};
    options.effort = bqq::Effort(3);
    CHECK_THROWS(bqq::decompose(W.data(), 4, 5, 5, 1, options), Error, "effort is 3");
    options = {};
    options.schedule = bqq::Schedule(9);
    CHECK_THROWS(bqq::decompose(W.data(), 4, 5, 5, 1, options), Error, "schedule is 9");
    W[13] = INFINITY;
    CHECK_THROWS(bqq::decompose(W.data(), 4, 5, 5, 1), Error, "W[2, 3] is infinite");
    W[7] = NAN;
    CHECK_THROWS(bqq::decompose(W.data(), 4, 5, 5, 1), Error, "W[1, 2] is NaN");
}

TEST(sweeps_and_starts_of_the_efforts) {
    const auto W = random_floats(8, 8, 1);
    const auto work = [&](bqq::Schedule schedule, bqq::Effort effort, Index refine) {
        DecomposeOptions options = quick();
        options.schedule = schedule, options.effort = effort, options.refine = refine, options.threads = 1;
        Index all = 0;
        options.progress = [&](Index, Index total) { return all = total, true; };
        bqq::decompose(W.data(), 8, 8, 8, 1, options);
        return all - 60; // quick() asks for 60 steps
    };
    using bqq::Effort;
    using bqq::Schedule;
    CHECK_EQ(work(Schedule::adaptive, Effort::fast, 0), Index(1500));
    CHECK_EQ(work(Schedule::adaptive, Effort::fast, -1), Index(0));
    CHECK_EQ(work(Schedule::paper, Effort::fast, 0), Index(0));
    CHECK_EQ(work(Schedule::adaptive, Effort::best, 30), Index(3 * 60 + 5 * 30)); // four descents, each tried
    CHECK_EQ(work(Schedule::adaptive, Effort::best, -1), Index(0));
}

TEST(a_longer_descent_where_annealing_gains_little) {
    // Few bits explain nearly all, the descent finds them: nothing is left to anneal.
    const Index m = 40, n = 36, rank = 4;
    std::mt19937 rng(3);
    std::normal_distribution<float> noise(0, 0.01f);
    std::vector<int> y(std::size_t(m * rank)), z(std::size_t(rank * n));
    for (auto* bits : {&y, &z})
        for (int& bit : *bits) bit = int(rng() & 1);
    std::vector<float> W(std::size_t(m * n));
    for (Index a = 0; a < m; ++a)
        for (Index b = 0; b < n; ++b) {
            int sum = 0;
            for (Index k = 0; k < rank; ++k) sum += y[std::size_t(a * rank + k)] * z[std::size_t(k * n + b)];
            W[std::size_t(a * n + b)] = float(sum) + noise(rng);
        }
    const auto error = [&](Index steps, Index refine) {
        DecomposeOptions options;
        options.steps = steps, options.refine = refine, options.threads = 1;
        options.l = 5;
        return bqq::squared_error(bqq::decompose(W.data(), m, n, n, 1, options).view(), W.data(), n, 1);
    };
    const double plain = error(2000, -1), annealed = error(2000, 20000), longer = error(0, 0);
    CHECK(annealed > 0.94 * plain); // the case that is meant
    CHECK(longer <= annealed && annealed <= plain);
}

TEST(more_latents_take_a_longer_descent) {
    const Index m = 48, n = 48;
    const auto W = random_floats(m, n, 5);
    const auto total = [&](Index l) {
        DecomposeOptions options;
        options.l = l, options.threads = 1;
        Index all = 0;
        options.progress = [&](Index, Index work) { return all = work, false; };
        CHECK_THROWS(bqq::decompose(W.data(), m, n, n, 1, options), bqq::Error, "stopped");
        return all;
    };
    CHECK_EQ(total(29) - total(24), Index(0)); // the default l is 24
    CHECK_EQ(total(32) - total(24), Index(20000));
    const auto error = [&](Index steps, Index refine) {
        DecomposeOptions options;
        options.steps = steps, options.refine = refine, options.threads = 1, options.l = 40;
        return bqq::squared_error(bqq::decompose(W.data(), m, n, n, 2, options).view(), W.data(), n, 1);
    };
    CHECK(error(0, 0) < 0.98 * error(2000, 20000));
}
