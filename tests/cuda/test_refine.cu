// The refinement on the device against the CPU's: same random numbers, so the same flips until rounding tells them
// apart.
#include "check.hpp"
#include "kernels/dispatch.hpp"
#include "refine.cuh"
#include "words.hpp"

#include <cstring>

using namespace bqq::cuda;
using bqq::Index;
using bqq::detail::Refiner;
using reference::Mat;

namespace {

struct Outcome {
    bqq::Matrix q;
    std::vector<RefineScalars> scalars;
};

double mean_of(const std::vector<float>& w) {
    double sum = 0;
    for (const float x : w) sum += double(x);
    return sum / double(w.size());
}

Outcome on_device(const bqq::Matrix& q, const std::vector<float>& w, const RefineOptions& options, int shared,
                  std::int64_t passes_per_launch) {
    const device::Words words(q, w, mean_of(w), 0.5);
    const auto floats = refine_state_floats(int(q.layout.rows), int(q.layout.cols), int(q.layout.l));
    const device::Array<float> state(floats * std::size_t(q.layout.blocks()));
    const RefineBatch batch{words.batch(), 0, state.at()};
    device::must(refine_start(batch, options, 9, shared, nullptr));
    Outcome out{{}, {}};
    for (std::int64_t done = 0; done < AnnealSchedule(options).most_passes(); done += passes_per_launch) {
        device::must(refine_passes(batch, options, passes_per_launch, shared, nullptr));
        out.scalars.clear();
        bool all = true;
        for (Index block = 0; block < q.layout.blocks(); ++block) {
            RefineScalars s;
            const auto bytes = state.get(std::size_t(block) * floats, sizeof s / 4);
            std::memcpy(&s, bytes.data(), sizeof s);
            out.scalars.push_back(s);
            all = all && s.anneal.phase == bqq::cuda::AnnealPhase::done;
        }
        if (all) break;
    }
    const device::Array<AnnealErrors> errors(std::size_t(q.layout.blocks()));
    device::must(refine_errors(batch, errors.at(), nullptr));
    for (std::size_t i = 0; i < out.scalars.size(); ++i) {
        const RefineScalars& s = out.scalars[i];
        CHECK(s.anneal.phase == bqq::cuda::AnnealPhase::done);
        CHECK_EQ(errors.get()[i].first, s.initial_error);
        CHECK_EQ(errors.get()[i].last, s.error);
    }
    out.q = words.get();
    return out;
}

struct OnCpu {
    bqq::Matrix q;
    double initial, error;
    std::vector<double> scales;
};
OnCpu on_cpu(bqq::Matrix q, const std::vector<float>& w, const RefineOptions& options) {
    const bqq_kernels kernels = bqq::detail::kernels_capped("generic");
    const bqq::Layout& a = q.layout;
    Refiner refiner(kernels, a.m, a.n, a.l);
    refiner.set_target(a.m, a.n, w.data(), a.n, 0.5);
    refiner.set_bits(q.Y.data(), a.y_row_bytes(), q.Z.data(), a.z_row_bytes());
    const double error = refiner.run(options, 9, 0, 0, [](Index) {});
    refiner.get_bits(q.Y.data(), a.y_row_bytes(), q.Z.data(), a.z_row_bytes());
    return {q, refiner.initial_error(), error, {refiner.scales(), refiner.scales() + 4}};
}

Mat random_target(Index m, Index n, unsigned seed, bool smooth) {
    Mat W = reference::random(m, n, seed, -1, 1);
    for (Index i = 0; smooth && i < m; ++i)
        for (Index j = 0; j < n; ++j)
            W(i, j) = 0.1 * W(i, j) + std::sin(0.3 * double(i)) * std::cos(0.2 * double(j) + 0.1 * double(i));
    return W;
}

constexpr int all_shared = 227 * 1024, none_shared = 16 * 1024;

// full: seven of eight bits are set at first.
void compare(Index m, Index n, Index l, unsigned seed, Index sweeps, int shared, std::int64_t per_launch,
             bool full = false) {
    const Mat W = random_target(m, n, seed, seed % 2);
    const std::vector<float> w(W.v.begin(), W.v.end());
    bqq::Matrix q = reference::random_matrix(m, n, 1, l, 512, seed);
    for (unsigned more = 1; full && more < 3; ++more) {
        const bqq::Matrix other = reference::random_matrix(m, n, 1, l, 512, seed + more);
        for (std::size_t i = 0; i < q.Y.size(); ++i) q.Y[i] |= other.Y[i];
        for (std::size_t i = 0; i < q.Z.size(); ++i) q.Z[i] |= other.Z[i];
    }
    RefineOptions options;
    options.sweeps = sweeps;
    const OnCpu cpu = on_cpu(q, w, options);
    const Outcome gpu = on_device(q, w, options, shared, per_launch);
    const RefineScalars& s = gpu.scalars[0];
    CHECK_NEAR(s.initial_error, cpu.initial, 1e-5 * cpu.initial);
    CHECK(s.error < 0.98 * cpu.initial);
    CHECK_NEAR(s.error, cpu.error, 1e-4 * cpu.error);
    CHECK(gpu.q.Y == cpu.q.Y);
    CHECK(gpu.q.Z == cpu.q.Z);
    for (std::size_t i = 0; i < 4; ++i) CHECK_NEAR(s.scales[i], cpu.scales[i], 1e-5 * (1 + std::fabs(cpu.scales[i])));
}

} // namespace

TEST(greedy_descent_equals_the_cpu) {
    compare(12, 17, 5, 1, 0, all_shared, 300);
    compare(40, 33, 35, 2, 0, all_shared, 300);
}

TEST(annealing_equals_the_cpu) {
    compare(12, 17, 5, 3, 10, all_shared, 300);
    compare(24, 21, 11, 4, 8, none_shared, 300);
    compare(16, 40, 33, 5, 6, all_shared, 300);
}

// Of one to five words in registers or in memory, with arrays in shared memory or not.
TEST(wide_rows_equal_the_cpu) {
    compare(20, 24, 70, 11, 3, all_shared, 300);
    compare(40, 33, 35, 12, 3, 40 * 1024, 300);
    compare(33, 12, 140, 13, 3, all_shared, 300);
    compare(300, 12, 70, 14, 1, all_shared, 300, true);
}

TEST(launches_do_not_matter) {
    compare(12, 17, 5, 6, 70, all_shared, 3); // past a recount
    compare(12, 17, 5, 6, 10, none_shared, 1);
}

// Counts themselves above 255.
TEST(sides_above_255_count_in_two_parts) {
    compare(5, 400, 3, 8, 2, all_shared, 300, true);
    compare(400, 5, 3, 9, 2, none_shared, 300, true);
}

TEST(patches_of_256_equal_the_cpu) { compare(256, 256, 9, 5, 0, all_shared, 300); }

TEST(a_batch_with_edge_patches_improves_every_patch) {
    const Mat W = random_target(30, 38, 4, true);
    const std::vector<float> w(W.v.begin(), W.v.end());
    const bqq::Matrix q = reference::random_matrix(30, 38, 1, 6, 20, 3);
    RefineOptions options;
    options.sweeps = 20;
    const Outcome out = on_device(q, w, options, all_shared, 50);
    CHECK_EQ(out.scalars.size(), std::size_t(4));
    for (const RefineScalars& s : out.scalars) CHECK(s.error < 0.7 * s.initial_error);
    bqq::validate(out.q.view()); // padding stays zero
}
