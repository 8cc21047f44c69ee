// The descent on the device follows the CPU's, step by step.
#include "amfd.cuh"
#include "check.hpp"
#include "device.hpp"
#include "reference.hpp"
#include "search/scales.hpp"
#include "solve4.cuh"

#include "kernels/dispatch.hpp"

#include <algorithm>
#include <cstring>
#include <memory>

using namespace bqq::cuda;
using bqq::Index;
using bqq::detail::Amfd;
using reference::Mat;

namespace {

struct Shape {
    int m, n;
};

// Patches of several shapes in one batch on the device, and the same on the CPU.
class Pair {
  public:
    Pair(const std::vector<Shape>& shapes, int rows, int cols, int l, const AmfdOptions& options, AmfdLaunch launch)
        : rows_(rows), cols_(cols), l_(l), options_(options), launch_(launch), layout_(rows, cols, l),
          state_(shapes.size() * amfd_state_floats(rows, cols, l)),
          partial_(amfd_partial_doubles(int(shapes.size()), rows, cols)), patches_(shapes.size()) {
        std::vector<Patch> patches;
        for (std::size_t i = 0; i < shapes.size(); ++i) {
            const int m = shapes[i].m, n = shapes[i].n;
            const Mat W = reference::random(m, n, 5 + unsigned(i), -1, 1);
            const std::vector<float> w(W.v.begin(), W.v.end());
            targets_.push_back(std::make_unique<device::Array<float>>(w));
            patches.push_back({targets_.back()->at(), n, 0.01 * double(i), 2, Index(i) + 3, std::int32_t(i), m, n, 1});
            cpu_.push_back(std::make_unique<Amfd>(kernels_, rows, cols, l));
            cpu_.back()->set_target(m, n, w.data(), n, 0.01 * double(i), 2);
            cpu_.back()->start(options, 42, Index(i) + 3, Index(i));
        }
        patches_.set(patches);
        batch_ = {int(shapes.size()), rows, cols, l, patches_.at(), state_.at(), partial_.at()};
        device::must(amfd_start(batch_, options, 42, launch, nullptr));
    }

    void steps(Index first, Index count) {
        device::must(amfd_steps(batch_, options_, first, count, launch_, nullptr));
        const double slope = (options_.T_begin - options_.T_end) / double(options_.steps - 1);
        for (auto& cpu : cpu_)
            for (Index i = first; i < first + count; ++i) cpu->step(options_, options_.T_begin - slope * double(i));
    }

    // Largest difference of a variable; scales within `of_scales`, relative to 1 and more.
    double compare(double of_scales) const {
        double worst = 0;
        for (std::size_t i = 0; i < cpu_.size(); ++i) {
            const Amfd& cpu = *cpu_[i];
            const auto state = state_.get(i * layout_.total, layout_.total);
            const float *y = state.data() + layout_.y, *z = state.data() + layout_.z;
            for (Index a = 0; a < cpu.m(); ++a)
                for (Index k = 0; k < l_; ++k)
                    worst = std::max(worst, std::fabs(double(y[a * l_ + k]) - double(cpu.y()[a * cpu.ldl() + k])));
            for (Index k = 0; k < l_; ++k)
                for (Index b = 0; b < cpu.n(); ++b)
                    worst = std::max(worst, std::fabs(double(z[k * cols_ + b]) - double(cpu.z()[k * cpu.ldn() + b])));
            AmfdScalars s;
            std::memcpy(&s, state.data(), sizeof s);
            for (int c = 0; c < 4; ++c)
                CHECK_NEAR(s.a[c], cpu.scales()[c], of_scales * (1 + std::fabs(cpu.scales()[c])));
            CHECK_NEAR(s.soft, cpu.softness(), 10 * of_scales);
        }
        return worst;
    }
    AmfdScalars scalars(std::size_t i) const {
        const auto state = state_.get(i * layout_.total, sizeof(AmfdScalars) / 4);
        AmfdScalars s;
        std::memcpy(&s, state.data(), sizeof s);
        return s;
    }

  private:
    const bqq_kernels kernels_ = bqq::detail::kernels_capped("generic");
    int rows_, cols_, l_;
    AmfdOptions options_;
    AmfdLaunch launch_;
    AmfdLayout layout_;
    device::Array<float> state_;
    device::Array<double> partial_;
    device::Array<Patch> patches_;
    std::vector<std::unique_ptr<device::Array<float>>> targets_;
    std::vector<std::unique_ptr<Amfd>> cpu_;
    AmfdBatch batch_{};
};

__global__ void __launch_bounds__(32) solve_each(const bqq::detail::MeanFieldSystem* systems, double* scales) {
    SHARED(Solve4, room, [1]);
    if (threadIdx.x == 0) room[0].system = systems[blockIdx.x];
    __syncwarp();
    solve4(room[0], scales + 4 * blockIdx.x);
}

constexpr int all_shared = 227 * 1024, none_shared = 24 * 1024;

} // namespace

TEST(fifty_steps_equal_the_cpu) {
    for (const AmfdLaunch launch :
         {AmfdLaunch{false, false, all_shared}, AmfdLaunch{false, false, none_shared}, AmfdLaunch{false, true, 0}}) {
        AmfdOptions options;
        options.steps = 50;
        Pair pair({{12, 20}, {9, 17}}, 12, 20, 7, options, launch);
        CHECK(pair.compare(1e-5) < 1e-6);
        pair.steps(0, 1);
        CHECK(pair.compare(1e-5) < 5e-7);
        pair.steps(1, 4); // several steps a launch
        CHECK(pair.compare(5e-5) < 2e-6);
        pair.steps(5, 45);
        CHECK(pair.compare(2e-3) < 1e-4);
    }
}

TEST(patches_larger_than_a_tile_equal_the_cpu) {
    for (const AmfdLaunch launch :
         {AmfdLaunch{false, false, all_shared}, AmfdLaunch{false, false, 100 * 1024}, AmfdLaunch{false, true, 0}}) {
        AmfdOptions options;
        options.steps = 50;
        Pair pair({{70, 131}}, 70, 131, 46, options, launch);
        CHECK(pair.compare(1e-5) < 1e-6);
        pair.steps(0, 3);
        CHECK(pair.compare(5e-5) < 2e-6);
    }
}

TEST(rounded_products_follow_the_same_path) {
    for (const AmfdLaunch launch : {AmfdLaunch{true, false, all_shared}, AmfdLaunch{true, true, 0}}) {
        AmfdOptions options;
        options.steps = 50;
        Pair pair({{33, 29}, {35, 37}}, 35, 37, 18, options, launch);
        CHECK(pair.compare(1e-2) < 1e-6);
        pair.steps(0, 1);
        CHECK(pair.compare(1e-2) < 5e-5);
        pair.steps(1, 9);
        CHECK(pair.compare(5e-2) < 1e-3);
    }
}

TEST(rounded_products_of_wide_tiles) {
    AmfdOptions options;
    options.steps = 50;
    Pair pair({{70, 66}}, 70, 66, 34, options, {true, false, all_shared});
    pair.steps(0, 2);
    CHECK(pair.compare(1e-2) < 1e-4);
}

// The default beyond 512 x 512: a few by phase, many a block each with most of it outside shared memory.
TEST(patches_of_256_equal_the_cpu_as_one_and_as_one_of_many) {
    for (const bool rounded : {false, true})
        for (const int count : {1, 256}) {
            const AmfdLaunch launch = amfd_launch(count, 256, 256, 128, all_shared, 132, rounded);
            CHECK_EQ(launch.by_phase, count == 1);
            AmfdOptions options;
            options.steps = 50;
            Pair pair({{256, 256}}, 256, 256, 128, options, launch);
            CHECK(pair.compare(rounded ? 1e-2 : 1e-5) < 1e-6);
            pair.steps(0, 1);
            CHECK(pair.compare(rounded ? 1e-2 : 5e-5) < (rounded ? 5e-5 : 2e-6));
        }
}

TEST(a_settled_patch_ends_early) {
    for (const AmfdLaunch launch : {AmfdLaunch{false, false, all_shared}, AmfdLaunch{false, true, 0}})
        for (const bool stop : {false, true}) {
            AmfdOptions options;
            options.steps = 60;
            options.T_begin = options.T_end = 0.2;
            options.eta = 0.9; // every variable is at its bound soon
            options.stop_when_settled = stop;
            Pair pair({{4, 4}}, 4, 4, 1, options, launch);
            pair.steps(0, 60);
            const AmfdScalars s = pair.scalars(0);
            CHECK_EQ(s.settled != 0, stop);
            CHECK_EQ(s.steps < 60, stop);
        }
}

TEST(four_by_four_systems_equal_the_cpu_also_where_they_are_singular) {
    std::vector<bqq::detail::MeanFieldSystem> systems;
    for (unsigned seed = 0; seed < 20; ++seed) {
        const Index rank = 4 - seed % 4; // A = B B^T with some rows of B repeated, b in its range
        Mat B = reference::random(4, 4, seed, -1, 1);
        for (Index i = rank; i < 4; ++i)
            for (Index j = 0; j < 4; ++j) B(i, j) = double(i) * B(i - rank, j);
        bqq::detail::MeanFieldSystem e{};
        for (int i = 0; i < 4; ++i)
            for (int j = 0; j < 4; ++j) {
                for (int k = 0; k < 4; ++k) e.A[i][j] += B(i, k) * B(j, k);
                e.b[i] += B(i, j) * double(j + 1);
            }
        systems.push_back(e);
    }
    systems.push_back({}); // all zero
    const device::Array<bqq::detail::MeanFieldSystem> in(systems);
    const device::Array<double> out(4 * systems.size());
    device::must(launch_kernel(solve_each, dim3(unsigned(systems.size())), dim3(32), 0, nullptr, in.at(), out.at()));
    const std::vector<double> got = out.get();
    for (std::size_t i = 0; i < systems.size(); ++i) {
        double expected[4];
        bqq::detail::solve(systems[i], expected);
        for (std::size_t c = 0; c < 4; ++c)
            CHECK_NEAR(got[4 * i + c], expected[c], 1e-8 * (1 + std::fabs(expected[c])));
    }
}

TEST(plans_follow_sizes_and_the_device) {
    const int a100 = 163 * 1024;
    CHECK(!amfd_launch(1000, 128, 128, 64, a100, 108, true).by_phase);
    CHECK(amfd_launch(1, 384, 384, 192, a100, 108, true).by_phase);
    CHECK(!amfd_launch(200, 384, 384, 192, a100, 108, true).by_phase); // enough of them for one block each
    CHECK(amfd_launch(1000, 64, 64, 32, a100, 108, true).shared <= a100 / 2);
    CHECK_EQ(amfd_launch(50, 64, 64, 32, a100, 108, true).shared, a100);
}

TEST(sizes_are_checked) {
    AmfdBatch batch{};
    CHECK_EQ(amfd_start(batch, {}, 0, {}, nullptr), cudaErrorInvalidValue);
}
