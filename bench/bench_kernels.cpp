// Rates of the product's kernels and of the float gemm on every instruction set of this machine, one thread, operands
// in the first-level cache. Best of many short runs: what a kernel can do, not what a loaded machine gives it. How
// whole products go by them: bench_methods.cpp.
//
//   cmake -S . -B build -DBQQ_BUILD_BENCH=ON && cmake --build build --target bench_kernels && build/bench_kernels
#include "kernels/dispatch.hpp"
#include "kernels/tuning.hpp"
#include "memory.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <vector>

namespace {

template <class T> using Elements = bqq::detail::AlignedArray<T>;

// Seconds of one call: the least of some runs of some calls.
template <class F> double seconds(F&& call, int runs = 200, int calls = 50) {
    using Clock = std::chrono::steady_clock;
    double least = 1e9;
    for (int run = 0; run < runs; ++run) {
        const auto start = Clock::now();
        for (int i = 0; i < calls; ++i) call();
        least = std::min(least, std::chrono::duration<double>(Clock::now() - start).count() / calls);
    }
    return least;
}

// G bits/s of dense, four words of inner elements, columns of a group of panels.
double count_rate(const bqq_kernels& kernel, const std::uint8_t* bits, float* out) {
    constexpr std::size_t columns = 32, words = 4;
    const std::uint32_t first[] = {0, words}, block[] = {0, 1, 2, 3};
    const std::vector<std::uint32_t> z(columns * words, 0x5A3C96F0);
    const std::vector<float> zeros(columns);
    const float r = 1;
    bqq_dense tile{};
    tile.panels = kMaxPanels, tile.columns = columns, tile.stacks = 1, tile.first = first, tile.block = block;
    tile.bits = bits, tile.stride = kMaxPanels * kUnitBytes, tile.z = z.data(), tile.ldz = columns;
    tile.r = &r, tile.column = zeros.data(), tile.out = out, tile.ldo = kMaxPanels * kPanelRows;
    return double(tile.ldo * columns * words * 32) / seconds([&] { kernel.dense(&tile); }) * 1e-9;
}

// G bit additions/s of the kernels with columns in the lanes, tables and all: one chunk of `rows` rows.
double lanes_rate(const bqq_lanes& kernel, std::size_t width, std::size_t rows, const float* x,
                  const std::uint8_t* bits) {
    const std::size_t panels = rows / kPanelRows, block = kernel.entries * width * kernel.element;
    const std::size_t step = std::clamp<std::size_t>(kLaneTableBlock / block, 1, kernel.chunk);
    const Elements<std::uint8_t> tables(step * block), sums(rows * width * kernel.element);
    const Elements<float> scale(2 * width), out(rows * width);
    return double(rows * width * kernel.chunk * kUnitColumns) * 1e-9 /
           seconds(
               [&] {
                   kernel.begin(kernel.chunk, width, x, scale.at);
                   for (std::size_t b = 0; b < kernel.chunk; b += step) {
                       kernel.tables(step, width, x + b * kUnitColumns * width, scale.at, tables.at);
                       for (std::size_t q = 0; q < panels; q += kMaxPanels)
                           kernel.lookup(kMaxPanels, step, bits + (b * kMaxPanels + q * kernel.chunk) * kUnitBytes,
                                         kMaxPanels * kUnitBytes, width, tables.at,
                                         sums.at + q * kPanelRows * width * kernel.element, b == 0);
                   }
                   kernel.end(rows, width, sums.at, scale.at, out.at, 1);
               },
               20, 5);
}

} // namespace

int main() {
    constexpr std::size_t panels = kMaxPanels, blocks = kChunkBlocks, ldx = kUnitColumns * blocks, ldo = 16 * panels;
    std::mt19937 rng(1);
    Elements<float> x(kMaxVectors * ldx), out(32 * ldo);
    Elements<std::uint8_t> bits(panels * blocks * kUnitBytes), tables(kMaxVectors * blocks * kTableBytes);
    Elements<float> wide(128 * 32 * kUnitColumns);
    Elements<std::uint8_t> many(128 * 32 * kUnitBytes);
    for (std::size_t i = 0; i < 128 * 32 * kUnitColumns; ++i) wide.at[i] = float(rng() % 2001) / 1000 - 1;
    for (std::size_t i = 0; i < 128 * 32 * kUnitBytes; ++i) many.at[i] = std::uint8_t(rng());
    for (std::size_t i = 0; i < kMaxVectors * ldx; ++i) x.at[i] = float(rng() % 2001) / 1000 - 1;
    for (std::size_t i = 0; i < panels * blocks * kUnitBytes; ++i) bits.at[i] = std::uint8_t(rng());
    std::printf("%-8s %-8s %6s %22s %26s\n", "level", "class", "batch", "tables, ns a block",
                "lookup, G bit additions/s");
    for (const std::string& name : bqq::detail::isa_available()) {
        const bqq_kernels kernel = bqq::detail::kernels_capped(name);
        for (int precision = 0; precision < kPrecisions; ++precision)
            for (const std::size_t batch : {1, 2, 4, 8}) {
                const bqq_product& product = kernel.product[precision];
                const double build = seconds([&] { product.tables(blocks, batch, x.at, ldx, tables.at); });
                const double look = seconds([&] {
                    product.lookup(panels, blocks, bits.at, panels * kUnitBytes, batch, tables.at, out.at, ldo, 1);
                });
                std::printf("%-8s %-8s %6zu %22.1f %26.0f\n", name.c_str(), precision ? "fast" : "float32", batch,
                            1e9 * build / double(blocks * batch), double(ldo * ldx * batch) / look * 1e-9);
            }
        for (int precision = 0; precision < kPrecisions; ++precision)
            for (const std::size_t vectors : {1, 2}) {
                const std::size_t width = vectors * kernel.lanes[precision].lanes;
                std::printf("%-8s %-8s %6zu lanes, 128, 256, 2048 rows %12.0f %5.0f %5.0f\n", name.c_str(),
                            precision ? "fast" : "float32", width,
                            lanes_rate(kernel.lanes[precision], width, 128, wide.at, many.at),
                            lanes_rate(kernel.lanes[precision], width, 256, wide.at, many.at),
                            lanes_rate(kernel.lanes[precision], width, 2048, wide.at, many.at));
            }
        constexpr std::size_t n = 96;
        Elements<float> A(n * n), B(n * n), C(n * n);
        const double gemm = seconds([&] { kernel.gemm(n, n, n, A.at, n, 1, B.at, n, nullptr, 0, nullptr, C.at, n); });
        std::printf("%-8s gemm, G multiply-adds/s (%zu x %zu x %zu): %.0f; bits counted for a dense tile, G/s: ",
                    name.c_str(), n, n, n, double(n * n * n) / gemm * 1e-9);
        if (kernel.dense)
            std::printf("%.0f\n", count_rate(kernel, bits.at, out.at));
        else
            std::printf("none\n");
    }
    return 0;
}
