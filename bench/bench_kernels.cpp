// Rates of the product's kernels and of the float gemm on every instruction set of this machine, one thread, operands
// in the first-level cache. Best of many short runs: what a kernel can do, not what a loaded machine gives it.
//
//   cmake -S . -B build -DBQQ_BUILD_BENCH=ON && cmake --build build --target bench_kernels && build/bench_kernels
#include "kernels/dispatch.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <random>

namespace {

template <class T> struct Aligned {
    std::unique_ptr<T[]> memory;
    T* at;
    explicit Aligned(std::size_t count) : memory(new T[count + 64]()) {
        const auto address = reinterpret_cast<std::uintptr_t>(memory.get());
        at = reinterpret_cast<T*>((address + 63) / 64 * 64);
    }
};

// Seconds of one call: the least of 200 runs of 50 calls.
template <class F> double seconds(F&& call) {
    using Clock = std::chrono::steady_clock;
    double least = 1e9;
    for (int run = 0; run < 200; ++run) {
        const auto start = Clock::now();
        for (int i = 0; i < 50; ++i) call();
        least = std::min(least, std::chrono::duration<double>(Clock::now() - start).count() / 50);
    }
    return least;
}

} // namespace

int main() {
    constexpr std::size_t panels = kMaxPanels, blocks = kChunkBlocks, ldx = kUnitColumns * blocks, ldo = 16 * panels;
    std::mt19937 rng(1);
    Aligned<float> x(kMaxVectors * ldx), out(kMaxVectors * ldo);
    Aligned<std::uint8_t> bits(panels * blocks * kUnitBytes), tables(kMaxVectors * blocks * kTableBytes);
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
                std::printf("%-8s %-8s %6zu %22.1f %26.0f\n", name.c_str(), precision ? "int8" : "float32", batch,
                            1e9 * build / double(blocks * batch), double(ldo * ldx * batch) / look * 1e-9);
            }
        constexpr std::size_t n = 96;
        Aligned<float> A(n * n), B(n * n), C(n * n);
        const double gemm = seconds([&] { kernel.gemm(n, n, n, A.at, n, 1, B.at, n, nullptr, 0, nullptr, C.at, n); });
        std::printf("%-8s gemm %zu x %zu x %zu: %.0f G multiply-adds/s\n", name.c_str(), n, n, n,
                    double(n * n * n) / gemm * 1e-9);
    }
    return 0;
}
