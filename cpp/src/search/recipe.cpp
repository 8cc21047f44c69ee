#include "search/recipe.hpp"

#include <algorithm>
#include <cmath>

namespace bqq::detail {
namespace {

void check_count(const char* name, Index value, Index least, const char* range) {
    if (value < least || value > kMaxSteps) bad_value(name, value, range + std::to_string(kMaxSteps));
}

int effort_of(const DecomposeOptions& options) {
    const int effort = int(options.effort);
    if (effort < 0 || effort > 2) bad_value("effort", effort, "0 (standard), 1 (fast) or 2 (best)");
    return effort;
}

} // namespace

SearchRecipe make_recipe(const DecomposeOptions& options, const Layout& a) {
    const int effort = effort_of(options);
    check_count("steps", options.steps, 0, "0 (the default) to ");
    check_count("refine", options.refine, kRefineOfEffort, "-2 (the effort's), -1 (none), 0 (the default) to ");
    const bool coupled = options.weight && options.ldweight;
    const tuning::EffortTuning& given = (coupled ? tuning::kCoupledEfforts : tuning::kEfforts)[effort];
    SearchRecipe recipe;
    recipe.refine.sweeps =
        given.sweeps * tuning::kSweepsInner / std::clamp(a.l, tuning::kSweepsInner, tuning::kSweepsInnerMost);
    switch (options.schedule) {
    case Schedule::paper:
        recipe.amfd.steps = tuning::kPaperSteps;
        recipe.refine.sweeps = options.refine == kRefineOfEffort ? given.sweeps : 0;
        break;
    case Schedule::adaptive:
        recipe.amfd.robust = recipe.amfd.stop_when_settled = true;
        recipe.amfd.steps = given.steps;
        recipe.restarts = given.restarts;
        if (!options.steps && (!options.refine || options.refine == kRefineOfEffort))
            recipe.retry_steps = given.retry_steps;
        break;
    default:
        bad_value("schedule", Index(options.schedule), "0 (adaptive) or 1 (paper)");
    }
    if (double(a.l - 1) * double(a.rows + a.cols) > tuning::kWideInner * double(a.rows) * double(a.cols))
        recipe.retry_steps *= tuning::kWideRetry, recipe.min_gain = tuning::kWideMinGain;
    if (options.steps) recipe.amfd.steps = options.steps;
    if (options.refine > 0) recipe.refine.sweeps = options.refine;
    if (options.refine == -1 || a.l > tuning::kMaxRefinedInner) recipe.refine.sweeps = 0;
    if (!recipe.refine.sweeps) recipe.restarts = 1, recipe.retry_steps = 0;
    return recipe;
}

Index encode_steps(const DecomposeOptions& options) {
    check_count("steps", options.steps, 0, "0 (the default) to ");
    return options.steps ? options.steps : tuning::kEncodeSteps[effort_of(options)];
}

double damping_of(const DecomposeOptions& options) {
    return options.damping == 0 ? tuning::kDamping : std::max(options.damping, 0.0);
}

void search_stack(Engine& engine, const SearchRecipe& recipe, Index i, const OnSteps& on_steps) {
    constexpr Index next = kMaxStacks + 1; // random numbers of their own for each trial
    const Index count = Index(engine.sizes().size());
    const std::vector<Spread> spread = engine.begin_stack(i);
    std::vector<double> best(std::size_t(count), INFINITY);
    std::vector<AnnealErrors> lowest(std::size_t(count), {INFINITY, INFINITY});
    const auto keep_better = [&](const Selection& blocks) {
        const std::vector<double> now = engine.errors(blocks);
        Selection better;
        for (std::size_t x = 0; x < blocks.size(); ++x) {
            double& least = best[std::size_t(blocks[x])];
            if (now[x] >= least) continue;
            least = now[x];
            better.push_back(blocks[x]);
        }
        if (!better.empty()) engine.exchange(better, Best::keep);
    };
    const auto anneal = [&](const Selection& blocks, RefineOptions options, Index sweeps, Index trial, bool probe) {
        options.sweeps = sweeps;
        const std::vector<AnnealErrors> errors = engine.anneal(blocks, options, trial);
        for (std::size_t x = 0; x < blocks.size(); ++x) {
            AnnealErrors& least = lowest[std::size_t(blocks[x])];
            if (probe) least.first = std::min(least.first, errors[x].first);
            least.last = std::min(least.last, errors[x].last);
        }
        keep_better(blocks);
    };

    Selection all, active, retried;
    for (Index b = 0; b < count; ++b) {
        all.push_back(b);
        if (spread[std::size_t(b)].range != 0)
            active.push_back(b); // else nothing is left to explain: the stack stays zero
    }
    engine.exchange(all, Best::keep); // the stack of zeros, should no error be a number: residuals near 1e38
    if (active.size() < all.size()) {
        keep_better(all);
        on_steps((count - Index(active.size())) * recipe.work());
        std::fill(best.begin(), best.end(), INFINITY);
        if (active.empty()) return engine.exchange(all, Best::restore);
    }
    const Index restarts = recipe.restarts, sweeps = recipe.refine.sweeps;
    for (Index start = 0; start < restarts; ++start) {
        const Index trial = i + start * next;
        engine.descend(active, recipe.amfd, trial);
        if (restarts > 1)
            anneal(active, recipe.refine, recipe.probe_sweeps(), trial + restarts * next, true);
        else
            keep_better(active);
    }
    if (restarts > 1) engine.exchange(active, Best::restore);
    if (sweeps) anneal(active, recipe.refine, sweeps, i, restarts == 1);
    for (const Index b : active)
        if (recipe.needs_retry(lowest[std::size_t(b)], engine.sizes()[std::size_t(b)])) retried.push_back(b);
    on_steps(Index(active.size() - retried.size()) * recipe.retry_work());
    if (!retried.empty()) {
        AmfdOptions longer = recipe.amfd;
        longer.steps = recipe.retry_steps;
        RefineOptions gentle;
        gentle.anneal = tuning::kRetryAnneal;
        engine.descend(retried, longer, i + 2 * restarts * next);
        keep_better(retried);
        anneal(retried, gentle, sweeps, i + (2 * restarts + 1) * next, false);
    }
    engine.exchange(all, Best::restore);
}

void check_leading(const char* name, const float* W, const char* ld_name, Index ldw, Index n) {
    if (!W) bad_argument(std::string(name) + " is a null pointer");
    if (ldw < n) bad_value(ld_name, ldw, "n = " + std::to_string(n) + " or more");
}

void check_entries(const char* name, const float* W, const char* ld_name, const DenseShape& shape) {
    check_leading(name, W, ld_name, shape.ld, shape.n);
    for (Index a = 0; a < shape.m; ++a)
        for (Index b = 0; b < shape.n; ++b)
            if (!(std::fabs(W[a * shape.ld + b]) <= kMaxMagnitude)) bad_entry(name, a, b, W[a * shape.ld + b]);
}

void bad_entry(const char* name, Index a, Index b, float value) {
    bad_argument(std::string(name) + "[" + std::to_string(a) + ", " + std::to_string(b) + "] is " +
                 (std::isnan(value)   ? "NaN, expected finite values"
                  : std::isinf(value) ? "infinite, expected finite values"
                                      : "beyond 1e38, its scales would not fit float32"));
}

void check_scales(const float* scales, Index count) {
    for (Index i = 0; i < count; ++i)
        if (!std::isfinite(scales[i]))
            bad_argument("W is too large: a scale of its approximation does not fit float32");
}

} // namespace bqq::detail
