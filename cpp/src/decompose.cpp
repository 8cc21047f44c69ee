#include "bqq/decompose.hpp"

#include "amfd.hpp"
#include "kernels/dispatch.hpp"
#include "pack.hpp"
#include "parallel.hpp"
#include "scales.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>

namespace bqq {
namespace {

using namespace detail;

constexpr Index kMaxSteps = 1000000000;
constexpr float kMaxMagnitude = 1e38f; // leaves scales some room to be larger than what they add up to

[[noreturn]] void bad_argument(const std::string& text) { throw Error(ErrorCode::invalid_argument, text); }

struct Plan {
    AmfdOptions amfd;
    bool robust; ///< divide by six standard deviations instead of the range
};

Plan make_plan(const DecomposeOptions& options) {
    Plan plan;
    switch (options.schedule) {
    case Schedule::paper:
        plan.robust = false;
        plan.amfd.steps = 50000;
        break;
    case Schedule::adaptive:
        plan.robust = true;
        plan.amfd.steps = 2000;
        plan.amfd.stop_when_settled = true;
        break;
    default:
        bad_argument("schedule is " + std::to_string(int(options.schedule)) + ", expected 0 (adaptive) or 1 (paper)");
    }
    if (options.steps < 0 || options.steps > kMaxSteps)
        bad_argument("steps is " + std::to_string(options.steps) + ", expected 1 to " + std::to_string(kMaxSteps));
    if (options.steps) plan.amfd.steps = options.steps;
    return plan;
}

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

// Stacks [first, p) of block (j, k) of q, one after the other on the residual. `scales` holds those of the stacks there
// are and receives those of all; q's own scales are written at the end.
void solve_block(Matrix& q, Index j, Index k, std::vector<float> scales, const float* corner, Index ldw,
                 const Plan& plan, std::uint64_t seed, Amfd& amfd, const std::function<void(Index)>& on_step) {
    const Layout& a = q.layout;
    const Index m = a.rows_of(j), n = a.cols_of(k), block = j * a.K + k;
    std::vector<float> residual(std::size_t(m * n));
    for (Index i = Index(scales.size()) / 3; i < a.p; ++i) {
        block_residual(BlockProducts(q.view(), j, k, i), scales.data(), corner, ldw, residual.data());
        const Spread spread = spread_of(residual);
        if (spread.range > 0) {
            const double divisor = plan.robust ? 6 * spread.deviation : spread.range;
            amfd.set_target(m, n, residual.data(), n, spread.mean, divisor);
            amfd.start(plan.amfd, seed, block, i);
            amfd.run(plan.amfd, on_step);
            std::uint8_t* Y = q.Y.data() + (block * a.p + i) * a.y_plane_bytes();
            std::uint8_t* Z = q.Z.data() + (block * a.p + i) * a.z_plane_bytes();
            pack_bits(m, a.l, amfd.y(), amfd.ldl(), Y, a.y_row_bytes());
            pack_bits(a.l, n, amfd.z(), amfd.ldn(), Z, a.z_row_bytes());
        } else {
            on_step(plan.amfd.steps); // nothing left to explain: the stack stays zero
        }
        scales.resize(std::size_t(3 * i + 4));
        solve_scales(BlockProducts(q.view(), j, k, i + 1), corner, ldw, scales.data());
    }
    for (const float scale : scales)
        if (!std::isfinite(scale)) bad_argument("W is too large: a scale of its approximation does not fit float32");
    std::copy(scales.begin(), scales.end(), q.scales.data() + block * a.scales_per_block());
}

void check_matrix(const float* W, Index m, Index n, Index ldw) {
    if (!W) bad_argument("W is a null pointer");
    if (ldw < n) bad_argument("ldw is " + std::to_string(ldw) + ", expected n = " + std::to_string(n) + " or more");
    for (Index a = 0; a < m; ++a)
        for (Index b = 0; b < n; ++b)
            if (!(std::fabs(W[a * ldw + b]) <= kMaxMagnitude))
                bad_argument("W[" + std::to_string(a) + ", " + std::to_string(b) + "] is " +
                             (std::isnan(W[a * ldw + b])   ? "NaN, expected finite values"
                              : std::isinf(W[a * ldw + b]) ? "infinite, expected finite values"
                                                           : "beyond 1e38, its scales would not fit float32"));
}

// q holds the planes of the first `first` stacks and room for all; old_scales are those of the first stacks, by block.
void solve_all(Matrix& q, Index first, const float* old_scales, const float* W, Index ldw,
               const DecomposeOptions& options) {
    const Layout& a = q.layout;
    const Plan plan = make_plan(options);
    const bqq_kernels& table = kernels();
    const int threads = int(std::min<Index>(resolve_threads(options.threads), a.blocks()));
    Progress progress(options, a.blocks() * (a.p - first) * plan.amfd.steps);
    std::vector<std::unique_ptr<Amfd>> workers(static_cast<std::size_t>(threads));
    parallel_for(
        a.blocks(), threads,
        [&](Index block, int worker) {
            auto& amfd = workers[std::size_t(worker)];
            if (!amfd) amfd = std::make_unique<Amfd>(table, a.rows, a.cols, a.l);
            const Index j = block / a.K, k = block % a.K;
            std::vector<float> scales;
            if (first) scales.assign(old_scales + block * (3 * first + 1), old_scales + (block + 1) * (3 * first + 1));
            solve_block(q, j, k, std::move(scales), W + j * a.rows * ldw + k * a.cols, ldw, plan, options.seed, *amfd,
                        [&](Index steps) { progress.advance(steps, worker == 0); });
        },
        [&] { progress.poll(); }, &progress.stop);
    progress.finish();
}

} // namespace

Matrix decompose(const float* W, Index m, Index n, Index ldw, Index p, const DecomposeOptions& options) {
    Matrix q(make_layout(m, n, p, options.l, options.patch));
    check_matrix(W, m, n, ldw);
    solve_all(q, 0, nullptr, W, ldw, options);
    return q;
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
        solve_all(grown, q.layout.p, q.scales, W, ldw, options);
    return grown;
}

} // namespace bqq
