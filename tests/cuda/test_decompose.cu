// Whole matrices on the device: as good as the CPU's, valid, repeatable, extended, refused where they should be.
#include "check.hpp"
#include "device.hpp"
#include "engine.cuh"
#include "reference.hpp"

#include "bqq/decompose.hpp"

#include <algorithm>
#include <limits>

using bqq::DecomposeOptions;
using bqq::Index;
using reference::Mat;

namespace {

std::vector<float> smooth(Index m, Index n, unsigned seed) {
    const Mat noise = reference::random(m, n, seed, -1, 1);
    std::vector<float> w(noise.v.size());
    for (Index i = 0; i < m; ++i)
        for (Index j = 0; j < n; ++j)
            w[std::size_t(i * n + j)] =
                float(2 + 0.1 * noise(i, j) + std::sin(0.4 * double(i)) * std::cos(0.3 * double(j)));
    return w;
}
std::vector<float> random_weights(Index m, Index n, unsigned seed) {
    const Mat noise = reference::random(m, n, seed, -1, 1);
    return {noise.v.begin(), noise.v.end()};
}

// The CPU of the comparisons multiplies in float32.
[[maybe_unused]] const int generic = setenv("BQQ_ISA", "generic", 1);

// W with `gap` more floats in each row, on the device.
struct OnDevice {
    device::Array<float> W;
    Index ldw;
    OnDevice(const std::vector<float>& w, Index m, Index n, Index gap = 0)
        : W(std::size_t(m * (n + gap))), ldw(n + gap) {
        std::vector<float> rows(W.size(), std::numeric_limits<float>::quiet_NaN());
        for (Index i = 0; i < m; ++i) std::copy_n(w.data() + i * n, n, rows.data() + i * ldw);
        W.set(rows);
    }
};

// The options that make the CPU's decompose cut W as `a` does.
DecomposeOptions options_of(const bqq::Layout& a, DecomposeOptions options) {
    options.l = a.l, options.patch = std::max(a.rows, a.cols);
    return options;
}

struct Planes {
    device::Array<std::uint8_t> Y, Z;
    device::Array<float> scales;
    explicit Planes(const bqq::Layout& a)
        : Y(std::size_t(a.y_bytes())), Z(std::size_t(a.z_bytes())), scales(std::size_t(a.scales_count())) {}
    bqq::cuda::Result result() const { return {Y.at(), Z.at(), scales.at()}; }
    bqq::View view(const bqq::Layout& a) const { return {a, Y.at(), Z.at(), scales.at()}; }
    bqq::Matrix get(const bqq::Layout& a) const {
        bqq::Matrix q(a);
        q.Y = Y.get(), q.Z = Z.get(), q.scales = scales.get();
        bqq::validate(q.view());
        return q;
    }
};

bqq::Matrix on_device(const std::vector<float>& w, const bqq::Layout& a, const DecomposeOptions& options, Index gap = 0,
                      void* stream = nullptr) {
    const OnDevice W(w, a.m, a.n, gap);
    const Planes planes(a);
    bqq::cuda::decompose(a, W.W.at(), W.ldw, options, planes.result(), stream);
    return planes.get(a);
}

bqq::cuda::Limits with_float32_products() {
    bqq::cuda::Limits limits = bqq::cuda::device_limits();
    limits.rounded = false;
    return limits;
}

bqq::Matrix on_device_by(const bqq::Layout& a, const bqq::detail::SearchRecipe& recipe, const std::vector<float>& w,
                         const DecomposeOptions& options, const bqq::cuda::Limits& limits) {
    const OnDevice W(w, a.m, a.n);
    const Planes planes(a);
    bqq::cuda::decompose_within(limits, {a, recipe}, W.W.at(), W.ldw, options, planes.result(), nullptr);
    return planes.get(a);
}

} // namespace

TEST(with_float32_products_the_bits_are_those_of_the_cpu) {
    const Index m = 14, n = 11;
    const auto w = random_weights(m, n, 3);
    const bqq::Layout a = bqq::make_layout(m, n, 2, 0, 12);
    DecomposeOptions options;
    options.steps = 15, options.refine = 3, options.patch = 12;
    const bqq::Matrix cpu = bqq::decompose(w.data(), m, n, n, 2, options);
    const bqq::Matrix gpu = on_device_by(a, bqq::detail::make_recipe(options, a), w, options, with_float32_products());
    CHECK(gpu.Y == cpu.Y);
    CHECK(gpu.Z == cpu.Z);
    for (std::size_t i = 0; i < cpu.scales.size(); ++i)
        CHECK_NEAR(gpu.scales[i], cpu.scales[i], 1e-6 * (1 + std::fabs(double(cpu.scales[i]))));
}

// Tensor cores round products to bfloat16, the CPU of this comparison does not: the bits differ.
TEST(errors_agree_with_the_cpu_within_the_noise_of_seeds) {
    const Index m = 24, n = 20;
    const bqq::Layout a = bqq::make_layout(m, n, 1, 14); // wide: many blocks get a longer descent
    for (const bool is_smooth : {true, false}) {
        const auto w = is_smooth ? smooth(m, n, 1) : random_weights(m, n, 2);
        bqq::detail::SearchRecipe recipe = bqq::detail::make_recipe({}, a);
        recipe.amfd.steps = 60, recipe.refine.sweeps = 20, recipe.retry_steps = 180, recipe.min_gain = 0.9;
        double cpu = 0, gpu = 0, least = 1e30, most = 0;
        for (std::uint64_t seed = 0; seed < 3; ++seed) {
            DecomposeOptions options;
            options.seed = seed;
            const double c =
                bqq::squared_error(bqq::detail::decompose(a, recipe, w.data(), n, options).view(), w.data(), n);
            const double g =
                bqq::squared_error(on_device_by(a, recipe, w, options, bqq::cuda::device_limits()).view(), w.data(), n);
            cpu += c / 3, gpu += g / 3, least = std::min(least, c), most = std::max(most, c);
        }
        CHECK_NEAR(gpu, cpu, most - least);
    }
}

// A limit that some blocks pass and some do not. All blocks at once or one at a time; where few are left, several
// thread blocks to each of them.
TEST(blocks_where_annealing_gains_little_get_a_longer_descent_as_on_the_cpu) {
    const Index m = 13, n = 11;
    const auto w = random_weights(m, n, 9);
    const bqq::Layout a = bqq::make_layout(m, n, 2, 3, 6);
    const bqq::cuda::Limits whole = with_float32_products();
    bqq::cuda::Limits one_by_one = whole, by_phase = whole;
    one_by_one.memory = 1;
    by_phase.shared = 24 << 10, by_phase.processors = int(a.blocks());
    for (const auto& [starts, limits] : {std::pair{1, whole}, {2, whole}, {1, one_by_one}, {1, by_phase}}) {
        DecomposeOptions options;
        bqq::detail::SearchRecipe recipe = bqq::detail::make_recipe(options, a);
        recipe.amfd.steps = 5, recipe.refine.sweeps = 1, recipe.retry_steps = 10, recipe.min_gain = 0.7;
        recipe.restarts = starts;
        const bqq::Matrix cpu = bqq::detail::decompose(a, recipe, w.data(), n, options);
        Index last = 0;
        options.progress = [&](Index done, Index all) {
            CHECK(done >= last && done <= all);
            last = done;
            return true;
        };
        const bqq::Matrix gpu = on_device_by(a, recipe, w, options, limits);
        options.progress = nullptr;
        CHECK_EQ(last, a.blocks() * a.p * recipe.work());
        CHECK(gpu.Y == cpu.Y);
        CHECK(gpu.Z == cpu.Z);
        recipe.retry_steps = 0;
        const bqq::Matrix without = bqq::detail::decompose(a, recipe, w.data(), n, options);
        Index gone = 0;
        for (Index b = 0; b < a.blocks(); ++b) {
            const auto plane = cpu.Y.begin() + b * a.p * a.y_plane_bytes();
            gone += !std::equal(plane, plane + a.y_plane_bytes(), without.Y.begin() + b * a.p * a.y_plane_bytes());
        }
        CHECK(gone > 0 && gone < a.blocks());
    }
}

TEST(the_same_call_gives_the_same_bits_on_any_stream_and_stride) {
    const auto w = smooth(11, 15, 3);
    const bqq::Layout a = bqq::make_layout(11, 15, 1, 3, 8);
    DecomposeOptions options;
    options.steps = 6, options.refine = 2;
    const bqq::Matrix one = on_device(w, a, options);
    cudaStream_t stream = nullptr;
    device::must(cudaStreamCreate(&stream));
    const bqq::Matrix two = on_device(w, a, options, 5, stream);
    device::must(cudaStreamDestroy(stream));
    CHECK(one.Y == two.Y);
    CHECK(one.Z == two.Z);
    CHECK(one.scales == two.scales);
}

TEST(blocks_that_fill_48_KB_with_static_and_dynamic_shared_memory) {
    DecomposeOptions options;
    options.steps = 1, options.refine = 1;
    for (const Index side : {44, 59, 60}) {
        const auto w = smooth(side, side, 3);
        const bqq::Matrix q = on_device(w, bqq::make_layout(side, side, 1), options);
        CHECK(q.scales[3] > 0);
    }
}

TEST(default_blocks_of_a_large_matrix) {
    const Index m = 768, n = 256;
    DecomposeOptions options;
    options.steps = 2, options.refine = -1, options.l = 9;
    const auto w = smooth(m, n, 5);
    const bqq::Layout a = bqq::make_layout(m, n, 1, options.l);
    CHECK_EQ(a.rows, 256);
    CHECK_EQ(a.cols, 256);
    const double gpu = bqq::squared_error(on_device(w, a, options).view(), w.data(), n);
    const double cpu = bqq::squared_error(bqq::decompose(w.data(), m, n, n, 1, options).view(), w.data(), n);
    CHECK_NEAR(gpu, cpu, 0.02 * cpu);
}

TEST(extending_equals_asking_for_more_at_once) {
    const auto w = smooth(9, 7, 4);
    const bqq::Layout one = bqq::make_layout(9, 7, 1, 3, 8), two = bqq::make_layout(9, 7, 2, 3, 8);
    DecomposeOptions options;
    options.steps = 6, options.refine = 2;
    const OnDevice W(w, 9, 7);
    const Planes first(one), grown(two);
    bqq::cuda::decompose(one, W.W.at(), W.ldw, options, first.result(), nullptr);
    bqq::cuda::extend(first.view(one), two, W.W.at(), W.ldw, options, grown.result(), nullptr);
    const bqq::Matrix q = on_device(w, two, options), grown_host = grown.get(two);
    CHECK(grown_host.Y == q.Y);
    CHECK(grown_host.Z == q.Z);
    CHECK(grown_host.scales == q.scales);
}

TEST(several_starts_and_both_schedules) {
    const auto w = smooth(8, 6, 5);
    const bqq::Layout a = bqq::make_layout(8, 6, 1, 3, 12);
    DecomposeOptions options;
    options.steps = 12, options.refine = 2;
    const double standard = bqq::squared_error(on_device(w, a, options).view(), w.data(), 6);
    options.effort = bqq::Effort::best;
    CHECK(bqq::squared_error(on_device(w, a, options).view(), w.data(), 6) < 1.3 * standard);
    options.schedule = bqq::Schedule::paper, options.refine = 0;
    const double cpu =
        bqq::squared_error(bqq::decompose(w.data(), 8, 6, 6, 1, options_of(a, options)).view(), w.data(), 6);
    CHECK(bqq::squared_error(on_device(w, a, options).view(), w.data(), 6) < 1.5 * cpu);
}

TEST(a_constant_matrix_and_a_single_entry) {
    DecomposeOptions options;
    options.steps = 10, options.refine = 2;
    const std::vector<float> w(30, 2.5f);
    const bqq::Matrix q = on_device(w, bqq::make_layout(5, 6, 2, 3, 4), options);
    CHECK_NEAR(bqq::squared_error(q.view(), w.data(), 6), 0, 1e-10);
    const bqq::Matrix one = on_device({-3.0f}, bqq::make_layout(1, 1, 1), options);
    CHECK_NEAR(one.scales[3], -3, 1e-6);
}

TEST(progress_counts_up_to_the_total_and_can_stop) {
    const auto w = smooth(4, 3, 6);
    const bqq::Layout a = bqq::make_layout(4, 3, 1, 1, 5);
    DecomposeOptions options;
    options.steps = 130, options.refine = 1;
    Index last = 0, total = 0;
    options.progress = [&](Index done, Index all) {
        CHECK(done >= last && done <= all);
        last = done, total = all;
        return true;
    };
    (void)on_device(w, a, options);
    CHECK_EQ(last, total);
    CHECK_EQ(total, a.blocks() * (130 + 1));
    options.progress = [](Index, Index) { return false; };
    CHECK_THROWS(on_device(w, a, options), bqq::Error, "stopped by the progress callback");
}

TEST(bad_input_is_refused_with_its_place) {
    auto w = smooth(6, 5, 7);
    const bqq::Layout a = bqq::make_layout(6, 5, 1);
    DecomposeOptions options;
    options.steps = 5, options.refine = -1;
    w[13] = std::numeric_limits<float>::quiet_NaN();
    CHECK_THROWS(on_device(w, a, options), bqq::Error, "W[2, 3] is NaN");
    w[11] = 2e38f;
    CHECK_THROWS(on_device(w, a, options), bqq::Error, "W[2, 1] is beyond 1e38");
    w[11] = w[13] = 0;
    const Planes planes(a);
    const OnDevice W(w, 6, 5);
    CHECK_THROWS(bqq::cuda::decompose(a, nullptr, 5, options, planes.result(), nullptr), bqq::Error, "W is a null");
    CHECK_THROWS(bqq::cuda::decompose(a, W.W.at(), 4, options, planes.result(), nullptr), bqq::Error, "ldw is 4");
    CHECK_THROWS(bqq::cuda::decompose(a, W.W.at(), 5, options, {}, nullptr), bqq::Error, "null pointer");
    options.weight = w.data();
    CHECK_THROWS(on_device(w, a, options), bqq::Error, "weight is not supported");
}

TEST(product_of_what_was_found) {
    const Index m = 20, n = 26;
    const auto w = smooth(m, n, 8);
    const bqq::Layout a = bqq::make_layout(m, n, 2, 0, 16);
    DecomposeOptions options;
    options.steps = 5, options.refine = -1;
    const OnDevice W(w, m, n);
    const Planes planes(a);
    bqq::cuda::decompose(a, W.W.at(), W.ldw, options, planes.result(), nullptr);
    const Mat what = reference::dense(planes.get(a).view());
    for (const bool transposed : {false, true}) {
        const Index in = transposed ? m : n, out = transposed ? n : m;
        const device::Array<unsigned char> prepared(bqq::cuda::prepared_size(a, transposed)),
            workspace(bqq::cuda::workspace_size(a, transposed, 1));
        bqq::cuda::prepare(planes.view(a), transposed, prepared.at(), prepared.size(), nullptr);
        const device::Array<float> x(std::vector<float>(std::size_t(in), 1.0f)), y(static_cast<std::size_t>(out));
        bqq::cuda::matmul({a, transposed, prepared.at()}, {x.at(), bqq::Dtype::f32, in, 1, 1, 1},
                          {y.at(), bqq::Dtype::f32, out, 1, 1, 1}, workspace.at(), workspace.size(), nullptr);
        const auto got = y.get();
        for (Index i = 0; i < out; ++i) {
            double sum = 0;
            for (Index j = 0; j < in; ++j) sum += transposed ? what(j, i) : what(i, j);
            CHECK_NEAR(got[std::size_t(i)], sum, 1e-4);
        }
        CHECK_THROWS(bqq::cuda::matmul({a, transposed, prepared.at()}, {x.at(), bqq::Dtype::f32, in + 1, 1, 1, 1},
                                       {y.at(), bqq::Dtype::f32, out, 1, 1, 1}, workspace.at(), workspace.size(),
                                       nullptr),
                     bqq::Error, " rows");
        CHECK_THROWS(bqq::cuda::matmul({a, transposed, prepared.at()}, {x.at(), bqq::Dtype::f32, in, 1, 1, 1},
                                       {y.at(), bqq::Dtype::f32, out, 1, 1, 1}, workspace.at(), 0, nullptr),
                     bqq::Error, "workspace has 0 bytes");
    }
}
