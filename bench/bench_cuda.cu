// Times of the kernels on a GPU: a descent step, a pass of the refinement, products. Medians of events on a stream.
//
//   cmake -S . -B build -DBQQ_CUDA=ON -DBQQ_BUILD_BENCH=ON && cmake --build build --target bench_cuda &&
//   build/bench_cuda
//
// `bench_cuda small` takes sizes that an emulated device can do; `bench_cuda solver 128 132` (side, patches) and
// `bench_cuda product 4096 2 256 1` (side, p, patch, batch) one case, as for a profiler.
#include "amfd.cuh"
#include "device.cuh"
#include "matmul.cuh"
#include "refine.cuh"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

using namespace bqq::cuda;
using bqq::Dtype;
using bqq::Index;

namespace {

// Microseconds of one call: the median of `runs` after a warm-up.
template <class F> double microseconds(int runs, F&& call) {
    cudaEvent_t begin, end;
    check(cudaEventCreate(&begin), "cudaEventCreate"), check(cudaEventCreate(&end), "cudaEventCreate");
    std::vector<float> times;
    for (int run = -2; run < runs; ++run) {
        check(cudaEventRecord(begin, nullptr), "cudaEventRecord");
        call();
        check(cudaEventRecord(end, nullptr), "cudaEventRecord");
        check(cudaEventSynchronize(end), "cudaEventSynchronize");
        float milliseconds = 0;
        check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
        if (run >= 0) times.push_back(1000 * milliseconds);
    }
    (void)cudaEventDestroy(begin), (void)cudaEventDestroy(end);
    std::nth_element(times.begin(), times.begin() + runs / 2, times.end());
    return double(times[std::size_t(runs / 2)]);
}

std::vector<float> noise(std::size_t count) {
    std::mt19937 rng(1);
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<float> x(count);
    for (float& v : x) v = uniform(rng);
    return x;
}

std::vector<std::uint8_t> bytes(std::size_t count) {
    std::mt19937 rng(2);
    std::vector<std::uint8_t> x(count);
    for (std::uint8_t& v : x) v = std::uint8_t(rng());
    return x;
}

// `count` patches of a side: descent steps by both kinds of products, refinement passes.
void solver(int side, int count, const Limits& limits, int steps, int runs) {
    const int l = std::max(1, side / 2);
    const Buffer<float> W(Index(count) * side * side);
    W.set(noise(std::size_t(count) * std::size_t(side) * std::size_t(side)), nullptr);
    std::vector<Patch> list;
    for (int i = 0; i < count; ++i)
        list.push_back({W.at() + std::size_t(i) * std::size_t(side * side), side, 0, 3.5, i, 0, side, side, 1});
    const Buffer<Patch> patches(count);
    patches.set(list, nullptr);
    const std::size_t floats = std::max(amfd_state_floats(side, side, l), refine_state_floats(side, side, l));
    const Buffer<float> state(Index(floats) * count);
    const Buffer<double> partial(Index(amfd_partial_doubles(count, side, side)));
    const Buffer<std::uint32_t> Y(Index(count) * side * words_of(l)), Z(Index(count) * side * words_of(l));
    const WordBatch words{count, side, side, l, 1, patches.at(), Y.at(), Z.at()};
    const AmfdBatch batch{count, side, side, l, patches.at(), state.at(), partial.at()};
    AmfdOptions descent;
    for (const bool rounded : {false, true}) {
        const AmfdLaunch plan = amfd_launch(count, side, side, l, limits.shared, limits.processors, rounded);
        check(amfd_start(batch, descent, 1, plan, nullptr), "amfd_start");
        const double us =
            microseconds(runs, [&] { check(amfd_steps(batch, descent, 0, steps, plan, nullptr), "amfd_steps"); });
        const double flop = 8.0 * side * side * l * count;
        std::printf("descent     %4d x %-4d x %5d  %-9s %-6s %9.2f us a step of all %9.3f us a patch %8.1f GFLOP/s\n",
                    side, side, count, rounded ? "bfloat16" : "float32", plan.by_phase ? "phases" : "block", us / steps,
                    us / steps / count, flop * steps / us / 1000);
        check(amfd_round(batch, words, 0, nullptr), "amfd_round");
    }
    const RefineBatch refine{words, 0, state.at()};
    RefineOptions options;
    options.sweeps = 1000000; // it stays in the heat
    check(refine_start(refine, options, 1, limits.shared, nullptr), "refine_start");
    const double us = microseconds(
        runs, [&] { check(refine_passes(refine, options, steps, limits.shared, nullptr), "refine_passes"); });
    std::printf("refinement  %4d x %-4d x %5d  %16s %9.2f us a pass of all %9.3f us a patch\n", side, side, count, "",
                us / steps, us / steps / count);
}

// An m x m matrix in blocks of at most `patch`; `copies` of it in turn, so that small ones do not stay in the cache.
void product(Index m, Index p, Index patch, Index batch, Dtype dtype, int copies, int runs) {
    const bqq::Layout a = bqq::make_layout(m, m, p, 0, patch);
    const Planes planes(a, false);
    const Buffer<std::uint8_t> Y(a.y_bytes()), Z(a.z_bytes());
    const Buffer<float> scales(a.scales_count());
    Y.set(bytes(std::size_t(a.y_bytes())), nullptr), Z.set(bytes(std::size_t(a.z_bytes())), nullptr);
    scales.set(noise(std::size_t(a.scales_count())), nullptr);
    std::vector<std::unique_ptr<Buffer<unsigned char>>> prepared;
    for (int i = 0; i < copies; ++i) {
        prepared.push_back(std::make_unique<Buffer<unsigned char>>(Index(planes.bytes())));
        check(prepare(a, Y.at(), Z.at(), scales.at(), false, prepared.back()->at(), nullptr), "prepare");
    }
    ProductLaunch plan;
    plan.terms = dtype == Dtype::f32 ? 3 : 2;
    const Buffer<unsigned char> x(4 * m * batch), out(4 * m * batch),
        workspace(Index(matmul_workspace(planes, batch, plan)));
    x.clear(nullptr);
    int turn = 0;
    const double us = microseconds(runs, [&] {
        check(matmul(planes, prepared[std::size_t(turn++ % copies)]->at(), {x.at(), dtype, m, batch, batch, 1},
                     {out.at(), dtype, m, batch, batch, 1}, plan, workspace.at(), nullptr),
              "matmul");
    });
    std::printf(
        "product     %5d^2 p %d patch %4d batch %4d %s %s %9.2f us  %7.1f GB/s of planes  %8.1f G bit operations/s\n",
        int(m), int(p), int(patch), int(batch), dtype == Dtype::f32 ? "float32" : "float16",
        copies > 1 ? "cold" : "hot ", us, double(planes.bytes()) / us / 1000,
        2 * double(a.p * a.l * a.J * a.K) * double(a.rows) * double(batch) / us / 1000);
}

int run(const std::vector<std::string>& words) {
    const Limits limits = device_limits();
    std::printf("%d multiprocessors, %d bytes of shared memory for a block\n", limits.processors, limits.shared);
    const auto number = [&](std::size_t i) { return std::stoi(words.at(i)); };
    if (!words.empty() && words[0] == "solver") {
        solver(number(1), number(2), limits, number(1) > 128 ? 20 : 100, 15);
        return 0;
    }
    if (!words.empty() && words[0] == "product") {
        for (const Dtype dtype : {Dtype::f32, Dtype::f16})
            product(number(1), number(2), number(3), number(4), dtype, 1, 60);
        return 0;
    }
    if (!words.empty()) {
        solver(8, 2, limits, 2, 2);
        product(16, 2, 8, 3, Dtype::f32, 2, 2);
        return 0;
    }
    const int runs = 15;
    for (const int side : {64, 128})
        for (const int waves : {1, 8}) solver(side, waves * limits.processors, limits, 100, runs);
    for (const int side : {256, 384})
        for (const int count : {1, limits.processors}) solver(side, count, limits, 20, runs);
    for (const int copies : {1, 32})
        for (const Index p : {1, 2, 4})
            for (const Index batch : {1, 4, 16, 64, 256})
                for (const Dtype dtype : {Dtype::f32, Dtype::f16})
                    for (const Index patch : {128, 256}) product(4096, p, patch, batch, dtype, copies, 4 * runs);
    for (const Index batch : {1, 16, 256}) product(4096, 2, 4096, batch, Dtype::f16, 32, 4 * runs);
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    try {
        return run({argv + 1, argv + argc});
    } catch (const std::exception& e) {
        std::fprintf(stderr, "%s\n", e.what());
        return 1;
    }
}
