// The ways of a product (ProductMethod) against each other: one thread, hot caches, CPU time, the ways by turns.
//
//   build/bench_methods check      is the chosen way within 1.25 of the best one? A table over shapes, stacks,
//                                  classes and batches; exit code 1 if not
//   build/bench_methods calibrate  measures what each way costs: lines for cpp/src/kernels/tuning.hpp
//
// At the instruction set in use: BQQ_ISA=avx2 build/bench_methods ... for a lower one. Minutes; a second argument
// "quick" takes few and small cases, to see that it runs. Built by -DBQQ_BUILD_BENCH=ON.
#include "bqq/prepared.hpp"
#include "kernels/dispatch.hpp"
#include "product/method.hpp"
#include "product/tuning.hpp"

#include <array>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <random>
#include <string>
#include <vector>

namespace {

using namespace bqq;
using namespace bqq::detail;

constexpr int kKinds = 4;
constexpr const char* kKindNames[kKinds] = {"tables", "lanes", "tiles", "dense"};
constexpr const char* kClassNames[kPrecisions] = {"float32", "fast"};
constexpr double kLimit = 1.25;

/// Seconds of one product of each kind; infinite where it is not possible, or soon seen to be far behind.
using Times = std::array<double, kKinds>;

double cpu_seconds() { return double(std::clock()) / CLOCKS_PER_SEC; }

double median(std::vector<double> v) {
    const auto middle = v.begin() + std::ptrdiff_t(v.size() / 2);
    std::nth_element(v.begin(), middle, v.end());
    return *middle;
}

Matrix random_matrix(const Layout& a) {
    Matrix q(a);
    std::mt19937 rng(1);
    const auto fill = [&](std::vector<std::uint8_t>& plane, Index row_bytes, Index bits) {
        for (std::size_t i = 0; i < plane.size(); ++i) {
            const bool last = Index(i) % row_bytes == row_bytes - 1;
            plane[i] = std::uint8_t(rng() & (last && bits % 8 ? (1u << bits % 8) - 1 : 255u));
        }
    };
    fill(q.Y, a.y_row_bytes(), a.l);
    fill(q.Z, a.z_row_bytes(), a.cols);
    for (float& s : q.scales) s = float(rng() % 2001) / 1000 - 1;
    return q;
}

// A prepared matrix with inputs and results for up to `most` columns.
class Products {
  public:
    Products(const Layout& a, Index most)
        : q_(random_matrix(a).view()), x_(std::size_t(a.n * most), 0.0f), y_(std::size_t(a.m * most)) {
        std::mt19937 rng(2);
        for (float& x : x_) x = float(rng() % 2001) / 1000 - 1;
    }
    const Layout& layout() const { return q_.layout(); }

    void multiply(ProductMethod::Kind kind, Precision precision, Index batch) {
        const Layout& a = layout();
        MatmulOptions options;
        options.threads = 1, options.precision = precision;
        const ProductMethod method(kernels(), kind, precision, batch);
        matmul_by(method, q_.data(), {x_.data(), Dtype::f32, a.n, batch, batch, 1},
                  {y_.data(), Dtype::f32, a.m, batch, batch, 1}, options);
    }

    // Medians of `rounds` turns of a millisecond at least. A way that takes more than `far` times as long as the best
    // is left out, but for `kept`.
    Times times(Precision precision, Index batch, int rounds, double far = 2, int kept = -1) {
        Times first;
        for (int kind = 0; kind < kKinds; ++kind) first[std::size_t(kind)] = once(kind, precision, batch);
        const double best = *std::min_element(first.begin(), first.end());
        Times result;
        result.fill(HUGE_VAL);
        std::array<std::vector<double>, kKinds> all;
        for (int round = 0; round < rounds; ++round)
            for (std::size_t kind = 0; kind < kKinds; ++kind)
                if (first[kind] < far * best || int(kind) == kept)
                    all[kind].push_back(turn(int(kind), precision, batch));
        for (std::size_t kind = 0; kind < kKinds; ++kind)
            if (!all[kind].empty()) result[kind] = median(all[kind]);
        return result;
    }

  private:
    double turn(int kind, Precision precision, Index batch) {
        const double start = cpu_seconds();
        for (int calls = 1;; ++calls) {
            multiply(ProductMethod::Kind(kind), precision, batch);
            const double spent = cpu_seconds() - start;
            if (spent > 1e-3) return spent / calls;
        }
    }
    double once(int kind, Precision precision, Index batch) {
        if (!ProductMethod::possible(kernels(), layout(), precision, ProductMethod::Kind(kind))) return HUGE_VAL;
        multiply(ProductMethod::Kind(kind), precision, batch); // caches
        return std::min(turn(kind, precision, batch), turn(kind, precision, batch));
    }

    PreparedMatrix q_;
    std::vector<float> x_, y_;
};

struct Shape {
    Index m, n, patch;
};

// ---- check ----

int check(bool quick) {
    const std::vector<Shape> shapes =
        quick ? std::vector<Shape>{{96, 96, 0}}
              : std::vector<Shape>{{100, 100, 0},     {384, 384, 0},   {1536, 384, 0},    {1024, 1024, 64},
                                   {1024, 1024, 128}, {2048, 2048, 0}, {4096, 4096, 4096}};
    const std::vector<Index> batches =
        quick ? std::vector<Index>{1, 8} : std::vector<Index>{1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 64, 100, 256};
    std::printf("%-8s %-14s %2s %6s  %8s %8s %8s %8s us  chosen, time over that of the best\n", "class", "shape/patch",
                "p", "batch", kKindNames[0], kKindNames[1], kKindNames[2], kKindNames[3]);
    double worst = 1;
    std::string where = "none";
    for (const Shape& shape : shapes)
        for (const Index p : {1, 2, 3, 4}) {
            Products products(make_layout(shape.m, shape.n, p, 0, shape.patch), batches.back());
            for (int precision = 0; precision < kPrecisions; ++precision)
                for (const Index batch : batches) {
                    if (shape.m > 2048 && (p != 2 || batch > 64)) continue; // seconds each
                    const ProductMethod method(kernels(), products.layout(), Precision(precision), batch);
                    Times times;
                    double ratio = HUGE_VAL; // the lowest of three: a disturbed one is higher
                    for (int turn = 0; turn < 3 && ratio > kLimit; ++turn) {
                        times = products.times(Precision(precision), batch, quick ? 1 : 5, 2, method.kind);
                        ratio = std::min(ratio, times[method.kind] / *std::min_element(times.begin(), times.end()));
                    }
                    char name[64];
                    std::snprintf(name, sizeof name, "%ldx%ld/%ld", long(shape.m), long(shape.n),
                                  long(products.layout().rows));
                    std::printf("%-8s %-14s %2ld %6ld ", kClassNames[precision], name, long(p), long(batch));
                    for (const double t : times)
                        std::isfinite(t) ? std::printf(" %8.1f", 1e6 * t) : std::printf(" %8s", "-");
                    std::printf("     %s %.2f%s\n", kKindNames[method.kind], ratio, ratio > kLimit ? " !" : "");
                    std::fflush(stdout);
                    if (ratio > worst)
                        worst = ratio, where = std::string(name) + ", p = " + std::to_string(p) + ", " +
                                               kClassNames[precision] + ", batch " + std::to_string(batch);
                }
        }
    std::printf("%s, worst choice: %.2f (%s): <= %.2f %s\n", isa_in_use(), worst, where.c_str(), kLimit,
                worst <= kLimit ? "met" : "missed");
    return worst <= kLimit ? 0 : 1;
}

// ---- calibrate ----

// One measurement of a way: how often it pays each member of its cost, and what it took.
struct Sample {
    std::array<double, 4> effort;
    double picoseconds, weight; // weight: the square of how near it came to the best way
};

// The cost without negative members that fits best by relative errors, one member after the other.
bqq_cost fit(const std::vector<Sample>& samples) {
    std::array<double, 4> cost{};
    for (int round = 0; round < 20000; ++round)
        for (std::size_t i = 0; i < 4; ++i) {
            double up = 0, down = 0;
            for (const Sample& s : samples) {
                double rest = 1; // of the time, relative, without member i
                for (std::size_t k = 0; k < 4; ++k)
                    if (k != i) rest -= cost[k] * s.effort[k] / s.picoseconds;
                const double x = s.effort[i] / s.picoseconds;
                up += s.weight * x * rest, down += s.weight * x * x;
            }
            cost[i] = down > 0 ? std::max(0.0, up / down) : 0;
        }
    return {cost[0], cost[1], cost[2], cost[3]};
}

void print(const char* name, const bqq_cost& float32, const bqq_cost& fast) {
    const auto text = [](const bqq_cost& c) {
        char text[96];
        std::snprintf(text, sizeof text, "{%.3g, %.0f, %.0f, %.3g}", c.bit, c.input, c.end, c.more);
        return std::string(c.bit > 0 ? text : "{}");
    };
    std::printf("    {%s, %s}, // %s\n", text(float32).c_str(), text(fast).c_str(), name);
}

// The costs of all ways at this level, from products of small and large blocks.
int calibrate(bool quick) {
    const std::vector<Shape> shapes =
        quick ? std::vector<Shape>{{96, 96, 0}}
              : std::vector<Shape>{{100, 100, 0},   {384, 384, 0},      {1024, 1024, 64},  {1024, 1024, 128},
                                   {2048, 2048, 0}, {2048, 2048, 2048}, {4096, 4096, 4096}};
    const std::vector<Index> batches =
        quick ? std::vector<Index>{1, 8}
              : std::vector<Index>{1, 2, 3, 4, 6, 8, 11, 13, 16, 17, 20, 24, 29, 32, 40, 48, 64, 100, 256};
    std::vector<Sample> samples[kKinds][kPrecisions];
    for (const Shape& shape : shapes)
        for (const Index p : {1, 3}) {
            Products products(make_layout(shape.m, shape.n, p, 0, shape.patch), batches.back());
            for (int precision = 0; precision < kPrecisions; ++precision)
                for (const Index batch : batches) {
                    if (shape.m > 2048 && (p > 1 || batch > 64)) continue; // seconds each
                    const Times times = products.times(Precision(precision), batch, quick ? 1 : 5, 3);
                    const double best = *std::min_element(times.begin(), times.end());
                    for (std::size_t kind = 0; kind < kKinds; ++kind)
                        if (std::isfinite(times[kind]))
                            samples[kind][precision].push_back(
                                {ProductMethod::effort(kernels(), products.layout(), Precision(precision),
                                                       ProductMethod::Kind(kind), batch),
                                 1e12 * times[kind], std::pow(best / times[kind], 2)});
                }
        }
    std::string level = isa_in_use(), cpu = "this CPU", line;
    level[0] = char(std::toupper(level[0]));
    for (std::ifstream info("/proc/cpuinfo"); std::getline(info, line);)
        if (line.compare(0, 10, "model name") == 0) cpu = line.substr(line.find(':') + 2);
    std::printf("// %s, BQQ_ISA=%s build/bench_methods calibrate\n", cpu.c_str(), isa_in_use());
    std::printf("constexpr bqq_costs kCosts%s = {\n", level.c_str());
    for (std::size_t kind = 0; kind < kKinds; ++kind)
        print(kKindNames[kind], fit(samples[kind][0]), fit(samples[kind][1]));
    std::printf("};\n");
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    const std::string what = argc > 1 ? argv[1] : "";
    const bool quick = argc > 2 && !std::strcmp(argv[2], "quick");
    if (what == "check") return check(quick);
    if (what != "calibrate") {
        std::fprintf(stderr, "usage: %s check|calibrate [quick]\n", argv[0]);
        return 2;
    }
    return calibrate(quick);
}
