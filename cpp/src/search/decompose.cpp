#include "bqq/decompose.hpp"

#include "bits/pack.hpp"
#include "kernels/dispatch.hpp"
#include "parallel.hpp"
#include "search/arrange.hpp"
#include "search/cpu_engine.hpp"
#include "progress.hpp"
#include "search/recipe.hpp"

#include <algorithm>
#include <cmath>

namespace bqq {
namespace {

using namespace detail;

// q holds the planes of the first `first` stacks and room for all; old_scales are those of the first stacks, by block.
struct Job {
    Matrix& q;
    Index first;
    const float* old_scales;
    const float* W;
    Index ldw;
    const SearchRecipe& recipe;
    std::uint64_t seed;

    void write_scales(Index block, const float* scales) const {
        const Index count = q.layout.scales_per_block();
        check_scales(scales, count);
        std::copy_n(scales, count, q.scales.data() + block * count);
    }

    // The stacks of block (j, k) up to p, one after the other on the residual. Returns all scales.
    std::vector<float> search(Index j, Index k, const Target& target, Worker& worker, const OnSteps& on_steps) {
        const Index block = j * q.layout.K + k, per = 3 * first + 1;
        std::vector<float> scales;
        if (first) scales.assign(old_scales + block * per, old_scales + (block + 1) * per);
        CpuEngine engine(q, j, k, std::move(scales), target, seed, worker, on_steps);
        for (Index i = first; i < q.layout.p; ++i) search_stack(engine, recipe, i, on_steps);
        return engine.scales();
    }

    void block(Index j, Index k, const Metric* metric, Worker& worker, const OnSteps& on_steps) {
        const Layout& a = q.layout;
        const Target target{W + j * a.rows * ldw + k * a.cols, ldw, metric ? &metric->patch(k) : nullptr};
        write_scales(j * a.K + k, search(j, k, target, worker, on_steps).data());
    }

    // Block row j in a metric that couples its patches: from left to right, the error of each moved into those behind
    // it; then the scales of all together.
    void block_row(Index j, const Metric& metric, Worker& worker, const OnSteps& on_steps) {
        const Layout& a = q.layout;
        const Index m = a.rows_of(j), per = a.scales_per_block();
        CompensatedRows rows(metric, W + j * a.rows * ldw, ldw, m);
        std::vector<float> row_scales;
        for (Index k = 0; k < a.K; ++k) {
            const Target target{rows.patch(k), rows.ld(), &metric.patch(k)};
            const std::vector<float> scales = search(j, k, target, worker, on_steps);
            row_scales.insert(row_scales.end(), scales.begin(), scales.end());
            if (k + 1 < a.K) rows.compensate(worker.kernels, k, BlockProducts(q.view(), j, k, a.p), scales.data());
        }
        if (a.K > 1)
            solve_scales_in_metric(worker.kernels, q.view(), {j, 0, a.K, a.p}, W + j * a.rows * ldw, ldw,
                                   metric.whole(), row_scales.data());
        for (Index k = 0; k < a.K; ++k) write_scales(j * a.K + k, row_scales.data() + k * per);
    }
};

void solve_all(Matrix& q, Index first, const float* old_scales, const float* W, Index ldw,
               const DecomposeOptions& options, const SearchRecipe& recipe) {
    const Layout& a = q.layout;
    const std::unique_ptr<const Metric> metric = make_metric(a, options);
    const bool by_row = metric && metric->coupled();
    const bqq_kernels& table = kernels();
    const Index tasks = by_row ? a.J : a.blocks();
    const int threads = int(std::min<Index>(resolve_threads(options.threads), tasks));
    Progress progress(options.progress, a.blocks() * (a.p - first) * recipe.work());
    Job job{q, first, old_scales, W, ldw, recipe, options.seed};
    std::vector<std::unique_ptr<Worker>> workers(static_cast<std::size_t>(threads));
    parallel_for(
        tasks, threads,
        [&](Index task, int worker) {
            auto& own = workers[std::size_t(worker)];
            if (!own) own = std::make_unique<Worker>(table, a, recipe.refine.sweeps > 0, metric != nullptr);
            const OnSteps on_steps = [&](Index steps) { progress.advance(steps, worker == 0); };
            if (by_row)
                job.block_row(task, *metric, *own, on_steps);
            else
                job.block(task / a.K, task % a.K, metric.get(), *own, on_steps);
        },
        [&] { progress.poll(); }, &progress.stop);
    progress.finish();
}

} // namespace

Matrix detail::decompose(const Layout& layout, const SearchRecipe& recipe, const float* W, Index ldw,
                         const DecomposeOptions& options) {
    Matrix q(layout);
    check_entries("W", W, "ldw", {layout.m, layout.n, ldw});
    solve_all(q, 0, nullptr, W, ldw, options, recipe);
    return q;
}

Layout make_layout(Index m, Index n, Index p, const DecomposeOptions& options) {
    const bool coupled = options.weight && options.ldweight;
    if (!coupled || options.patch) return make_layout(m, n, p, options.l, options.patch);
    if (options.l) return make_layout(m, n, p, options.l, tuning::kCoupledPatch);
    // The side nearest to that whose blocks waste next to nothing: rows of planes are padded to bytes, sides rounded
    // up.
    double least = INFINITY;
    for (Index side = tuning::kCoupledLeast; side <= tuning::kCoupledMost; ++side)
        least = std::min(least, make_layout(m, n, p, 0, side).bits_per_weight());
    for (Index away = 0;; ++away)
        for (const Index side : {tuning::kCoupledPatch + away, tuning::kCoupledPatch - away}) {
            if (side < tuning::kCoupledLeast || side > tuning::kCoupledMost) continue;
            const Layout a = make_layout(m, n, p, 0, side);
            if (a.bits_per_weight() <= tuning::kCoupledWaste * least) return a;
        }
}

Matrix decompose(const float* W, Index m, Index n, Index ldw, Index p, const DecomposeOptions& options) {
    const Layout a = make_layout(m, n, p, options);
    const SearchRecipe recipe = make_recipe(options, a);
    if (!is_arranged(options)) return detail::decompose(a, recipe, W, ldw, options);
    const Arranged arranged(a, W, ldw, options);
    Matrix q = detail::decompose(a, recipe, arranged.W(), arranged.ldw(), arranged.options());
    arranged.complete(q);
    return q;
}

Matrix extend(const View& q, const float* W, Index ldw, Index p, const DecomposeOptions& options) {
    validate(q);
    Layout a = q.layout;
    if (p < a.p || p > kMaxStacks)
        bad_value("p", p, std::to_string(a.p) + " (what q has) to " + std::to_string(kMaxStacks));
    check_entries("W", W, "ldw", {a.m, a.n, ldw});
    a.p = p;
    if (p == q.layout.p) return Matrix(q);
    const SearchRecipe recipe = make_recipe(options, a);
    Matrix grown(a);
    copy_stacks(q, grown, q.layout.p);
    if (q.is_plain()) {
        solve_all(grown, q.layout.p, q.scales, W, ldw, options, recipe);
        return grown;
    }
    const Arranged arranged(q, W, ldw, options);
    solve_all(grown, q.layout.p, q.scales, arranged.W(), arranged.ldw(), arranged.options(), recipe);
    arranged.complete(grown);
    return grown;
}

} // namespace bqq
