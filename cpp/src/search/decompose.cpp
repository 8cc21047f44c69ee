#include "bqq/decompose.hpp"

#include "bits/pack.hpp"
#include "kernels/dispatch.hpp"
#include "parallel.hpp"
#include "search/amfd.hpp"
#include "search/metric.hpp"
#include "search/recipe.hpp"
#include "search/refine.hpp"
#include "search/scales.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>

namespace bqq {
namespace {

using namespace detail;

constexpr Index kCoupledPatch = 128; // making up for the error of the patches before is worth more than large blocks

// Counts steps over all threads; talks to the caller on the calling thread only.
class Progress {
  public:
    Progress(const DecomposeOptions& options, Index total) : report_(options.progress), total_(total) {}
    std::atomic<bool> stop{false}; ///< set by parallel_for once somebody has failed

    void advance(Index steps, bool calling_thread) {
        done_.fetch_add(steps, std::memory_order_relaxed);
        if (stop) throw Error(ErrorCode::cancelled, "stopped");
        if (calling_thread) poll();
    }
    void poll() {
        if (!report_) return;
        const auto now = std::chrono::steady_clock::now();
        if (now - last_ < std::chrono::milliseconds(50)) return;
        last_ = now;
        call(done_);
    }
    void finish() {
        if (report_) call(total_);
    }

  private:
    void call(Index done) {
        if (report_(done, total_)) return;
        throw Error(ErrorCode::cancelled, "stopped by the progress callback after " + std::to_string(done) + " of " +
                                              std::to_string(total_) + " steps");
    }
    const std::function<bool(Index, Index)>& report_;
    const Index total_;
    std::atomic<Index> done_{0};
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

struct Spread {
    double mean, deviation, range;
};
Spread spread_of(const std::vector<float>& x) {
    double sum = 0, low = x[0], high = x[0];
    for (const float v : x) sum += v, low = std::min(low, double(v)), high = std::max(high, double(v));
    const double mean = sum / double(x.size());
    double squares = 0;
    for (const float v : x) squares += (v - mean) * (v - mean);
    return {mean, std::sqrt(squares / double(x.size())), high - low};
}

// What one thread works with.
struct Worker {
    const bqq_kernels& kernels;
    Amfd amfd;
    std::unique_ptr<Refiner> refiner;
    Worker(const bqq_kernels& table, const Layout& a, bool refine, bool weighted)
        : kernels(table), amfd(table, a.rows, a.cols, a.l) {
        if (refine) refiner = std::make_unique<Refiner>(table, a.rows, a.cols, a.l, weighted);
    }
};

// The planes of one stack of one block.
struct Stack {
    std::uint8_t *Y, *Z;
    Index y_row, z_row, y_bytes, z_bytes;
    Stack(Matrix& q, Index block, Index i)
        : Y(q.Y.data() + (block * q.layout.p + i) * q.layout.y_plane_bytes()),
          Z(q.Z.data() + (block * q.layout.p + i) * q.layout.z_plane_bytes()), y_row(q.layout.y_row_bytes()),
          z_row(q.layout.z_row_bytes()), y_bytes(q.layout.y_plane_bytes()), z_bytes(q.layout.z_plane_bytes()) {}
};

struct Bits {
    std::vector<std::uint8_t> Y, Z;
    explicit Bits(const Stack& stack) : Y(stack.Y, stack.Y + stack.y_bytes), Z(stack.Z, stack.Z + stack.z_bytes) {}
    void restore(const Stack& stack) const {
        std::copy(Y.begin(), Y.end(), stack.Y);
        std::copy(Z.begin(), Z.end(), stack.Z);
    }
};

// One block of W and what its error is measured in: H NULL is the plain sum of squares.
struct Target {
    const float* W;
    Index ldw;
    const PaddedMatrix* H;
};

// Stacks of block (j, k) of q up to p, one after the other on the residual. `scales` holds those of the stacks there
// are and receives those of all.
void solve_block(Matrix& q, Index j, Index k, std::vector<float>& scales, const Target& target, const Plan& plan,
                 std::uint64_t seed, Worker& worker, const std::function<void(Index)>& on_steps) {
    const Layout& a = q.layout;
    const Index m = a.rows_of(j), n = a.cols_of(k), block = j * a.K + k;
    std::vector<float> residual(std::size_t(m * n));
    for (Index i = Index(scales.size()) / 3; i < a.p; ++i) {
        block_residual(BlockProducts(q.view(), j, k, i), scales.data(), target.W, target.ldw, residual.data());
        scales.resize(std::size_t(3 * i + 4));
        const auto solve_scales_now = [&] {
            if (target.H)
                return solve_scales_in_metric(worker.kernels, q.view(), j, k, k + 1, i + 1, target.W, target.ldw,
                                              *target.H, scales.data());
            return solve_scales(BlockProducts(q.view(), j, k, i + 1), target.W, target.ldw, scales.data());
        };
        const Spread spread = spread_of(residual);
        if (spread.range == 0) { // nothing left to explain: the stack stays zero
            solve_scales_now();
            on_steps(plan.work());
            continue;
        }
        Stack stack(q, block, i);
        double error = 0;
        std::vector<float> best_scales;
        std::unique_ptr<Bits> best;
        // Takes over the bits of the stack if they are better than the best so far, else puts those back.
        const auto keep_better = [&] {
            const double now = solve_scales_now();
            if (!best || now < error) {
                error = now, best_scales = scales, best = std::make_unique<Bits>(stack);
            } else {
                best->restore(stack), scales = best_scales;
            }
        };
        worker.amfd.set_target(m, n, residual.data(), n, spread.mean,
                               plan.robust ? 6 * spread.deviation : spread.range);
        if (plan.refine.sweeps)
            worker.refiner->set_target(m, n, residual.data(), n, spread.deviation,
                                       target.H ? target.H->row(0) : nullptr, target.H ? target.H->ld : 0);
        double descended = INFINITY, annealed = INFINITY; // lowest errors before and after annealing, as it sees them
        const auto refine = [&](RefineOptions options, Index sweeps, Index trial) {
            options.sweeps = sweeps;
            worker.refiner->set_bits(stack.Y, stack.y_row, stack.Z, stack.z_row);
            annealed = std::min(annealed, worker.refiner->run(options, seed, block, trial, on_steps));
            worker.refiner->get_bits(stack.Y, stack.y_row, stack.Z, stack.z_row);
            keep_better();
        };
        const auto descend = [&](const AmfdOptions& options, Index trial) {
            worker.amfd.start(options, seed, block, trial);
            worker.amfd.run(options, on_steps);
            pack_bits(m, a.l, worker.amfd.y(), worker.amfd.ldl(), stack.Y, stack.y_row);
            pack_bits(a.l, n, worker.amfd.z(), worker.amfd.ldn(), stack.Z, stack.z_row);
        };
        constexpr Index next = kMaxStacks + 1; // random numbers of their own for each trial
        for (Index start = 0; start < plan.starts; ++start) {
            const Index trial = i + start * next;
            descend(plan.amfd, trial);
            if (plan.starts > 1) {
                refine(plan.refine, plan.trial(), trial + plan.starts * next);
                descended = std::min(descended, worker.refiner->initial_error());
            } else {
                keep_better();
            }
        }
        if (!plan.refine.sweeps) continue;
        refine(plan.refine, plan.refine.sweeps, i);
        if (plan.starts == 1) descended = worker.refiner->initial_error();
        if (!plan.goes_deeper(descended, annealed, double(m * n))) {
            on_steps(plan.more());
            continue;
        }
        AmfdOptions longer = plan.amfd;
        longer.steps = plan.deeper;
        descend(longer, i + 2 * plan.starts * next);
        const Bits found(stack);
        keep_better();
        found.restore(stack);
        refine(plan.gentle(), plan.refine.sweeps, i + (2 * plan.starts + 1) * next);
    }
}

void check_matrix(const float* W, Index m, Index n, Index ldw) {
    if (!W) bad_argument("W is a null pointer");
    if (ldw < n) bad_argument("ldw is " + std::to_string(ldw) + ", expected n = " + std::to_string(n) + " or more");
    for (Index a = 0; a < m; ++a)
        for (Index b = 0; b < n; ++b)
            if (!(std::fabs(W[a * ldw + b]) <= kMaxMagnitude)) bad_entry(a, b, W[a * ldw + b]);
}

// q holds the planes of the first `first` stacks and room for all; old_scales are those of the first stacks, by block.
struct Job {
    Matrix& q;
    Index first;
    const float* old_scales;
    const float* W;
    Index ldw;
    const Plan& plan;
    std::uint64_t seed;

    std::vector<float> scales_before(Index block) const {
        if (!first) return {};
        return {old_scales + block * (3 * first + 1), old_scales + (block + 1) * (3 * first + 1)};
    }
    void write_scales(Index block, const float* scales) const {
        const Index count = q.layout.scales_per_block();
        check_scales(scales, count);
        std::copy_n(scales, count, q.scales.data() + block * count);
    }

    void block(Index j, Index k, const Metric* metric, Worker& worker, const std::function<void(Index)>& on_steps) {
        const Layout& a = q.layout;
        std::vector<float> scales = scales_before(j * a.K + k);
        solve_block(q, j, k, scales, {W + j * a.rows * ldw + k * a.cols, ldw, metric ? &metric->patch(k) : nullptr},
                    plan, seed, worker, on_steps);
        write_scales(j * a.K + k, scales.data());
    }

    // Block row j in a metric that couples its patches: from left to right, the error of each moved into those behind
    // it; then the scales of all together.
    void block_row(Index j, const Metric& metric, Worker& worker, const std::function<void(Index)>& on_steps) {
        const Layout& a = q.layout;
        const Index m = a.rows_of(j), ldx = a.n + 2 * kPad, per = a.scales_per_block();
        std::vector<float> X(std::size_t(m * ldx)), row_scales, together(std::size_t(a.K * per));
        for (Index r = 0; r < m; ++r) std::copy_n(W + (j * a.rows + r) * ldw, a.n, X.data() + r * ldx);
        for (Index k = 0; k < a.K; ++k) {
            std::vector<float> scales = scales_before(j * a.K + k);
            const float* corner = X.data() + k * a.cols;
            solve_block(q, j, k, scales, {corner, ldx, &metric.patch(k)}, plan, seed, worker, on_steps);
            row_scales.insert(row_scales.end(), scales.begin(), scales.end());
            if (k + 1 == a.K) break;
            PaddedMatrix E(m, a.cols_of(k));
            std::vector<float> residual(std::size_t(m * E.cols));
            block_residual(BlockProducts(q.view(), j, k, a.p), scales.data(), corner, ldx, residual.data());
            for (Index r = 0; r < m; ++r) std::copy_n(residual.data() + r * E.cols, E.cols, E.row(r));
            metric.compensate(worker.kernels, k, E, X.data(), ldx);
        }
        if (a.K > 1) {
            solve_scales_in_metric(worker.kernels, q.view(), j, 0, a.K, a.p, W + j * a.rows * ldw, ldw, metric.whole(),
                                   together.data());
            row_scales = together;
        }
        for (Index k = 0; k < a.K; ++k) write_scales(j * a.K + k, row_scales.data() + k * per);
    }
};

void solve_all(Matrix& q, Index first, const float* old_scales, const float* W, Index ldw,
               const DecomposeOptions& options, const Plan& plan) {
    const Layout& a = q.layout;
    if (options.weight && options.ldweight && options.ldweight < a.n)
        bad_argument("ldweight is " + std::to_string(options.ldweight) + ", expected n = " + std::to_string(a.n) +
                     " or more, or 0 for a diagonal");
    const std::unique_ptr<const Metric> metric =
        options.weight ? std::make_unique<const Metric>(a, options.weight, options.ldweight, options.damping) : nullptr;
    const bool by_row = metric && metric->coupled();
    const bqq_kernels& table = kernels();
    const Index tasks = by_row ? a.J : a.blocks();
    const int threads = int(std::min<Index>(resolve_threads(options.threads), tasks));
    Progress progress(options, a.blocks() * (a.p - first) * plan.work());
    Job job{q, first, old_scales, W, ldw, plan, options.seed};
    std::vector<std::unique_ptr<Worker>> workers(static_cast<std::size_t>(threads));
    parallel_for(
        tasks, threads,
        [&](Index task, int worker) {
            auto& own = workers[std::size_t(worker)];
            if (!own) own = std::make_unique<Worker>(table, a, plan.refine.sweeps > 0, metric != nullptr);
            const std::function<void(Index)> on_steps = [&](Index steps) { progress.advance(steps, worker == 0); };
            if (by_row)
                job.block_row(task, *metric, *own, on_steps);
            else
                job.block(task / a.K, task % a.K, metric.get(), *own, on_steps);
        },
        [&] { progress.poll(); }, &progress.stop);
    progress.finish();
}

} // namespace

Matrix detail::decompose(const Layout& layout, const Plan& plan, const float* W, Index ldw,
                         const DecomposeOptions& options) {
    Matrix q(layout);
    check_matrix(W, layout.m, layout.n, ldw);
    solve_all(q, 0, nullptr, W, ldw, options, plan);
    return q;
}

Matrix decompose(const float* W, Index m, Index n, Index ldw, Index p, const DecomposeOptions& options) {
    const bool coupled = options.weight && options.ldweight;
    const Layout a = make_layout(m, n, p, options.l, coupled && !options.patch ? kCoupledPatch : options.patch);
    return detail::decompose(a, make_plan(options, a), W, ldw, options);
}

Matrix extend(const View& q, const float* W, Index ldw, Index p, const DecomposeOptions& options) {
    validate(q);
    Layout a = q.layout;
    if (p < a.p || p > kMaxStacks)
        bad_argument("p is " + std::to_string(p) + ", expected " + std::to_string(a.p) + " (what q has) to " +
                     std::to_string(kMaxStacks));
    check_matrix(W, a.m, a.n, ldw);
    a.p = p;
    Matrix grown(a);
    copy_stacks(q, grown, q.layout.p);
    if (p == q.layout.p)
        std::copy_n(q.scales, a.scales_count(), grown.scales.data());
    else
        solve_all(grown, q.layout.p, q.scales, W, ldw, options, make_plan(options, a));
    return grown;
}

} // namespace bqq
