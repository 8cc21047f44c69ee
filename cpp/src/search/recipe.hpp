// What the options of a decomposition mean, and what it refuses: shared by the CPU's and the GPU's.
#pragma once

#include "arguments.hpp"
#include "bqq/decompose.hpp"
#include "search/amfd.hpp"
#include "search/refine.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace bqq::detail {

constexpr Index kMaxSteps = 1000000000, kMaxRefined = 4096; // refinement keeps l x l arrays
constexpr float kMaxMagnitude = 1e38f; // leaves scales some room to be larger than what they add up to

// What is done for one stack.
struct Plan {
    AmfdOptions amfd;
    RefineOptions refine;
    bool robust;      ///< divide by six standard deviations instead of the range
    Index starts = 1; ///< descents, each followed by trial() sweeps, of which the best is refined
    Index deeper = 0; ///< steps of one more descent where annealing gained little; 0: none
    /// Share of the error. Annealing lowers that of most matrices by a tenth or more. Where it gains less, the order
    /// that a descent finds is better than what annealing does, and a longer descent finds more of it.
    double little = 0.06;
    Index trial() const { return starts > 1 ? std::min<Index>(2000, refine.sweeps) : 0; }
    Index more() const { return deeper ? deeper + refine.sweeps : 0; }
    Index work() const { return starts * (amfd.steps + trial()) + refine.sweeps + more(); }
    /// For a block of `size` entries: lowest errors before and after annealing, in units of the residual's deviation.
    bool goes_deeper(double descended, double annealed, double size) const {
        const bool exact = annealed <= 1e-9 * size;
        return deeper && !exact && !(annealed < (1 - little) * descended);
    }

    /// Refinement that keeps what a long descent found.
    RefineOptions gentle() const {
        RefineOptions options = refine;
        options.T_first = 0.6, options.melting = 0.01, options.cooling = 0.5;
        return options;
    }
};

inline void check_count(const char* name, Index value, Index least, const char* range) {
    if (value < least || value > kMaxSteps)
        bad_argument(std::string(name) + " is " + std::to_string(value) + ", expected " + range +
                     std::to_string(kMaxSteps));
}

inline Plan make_plan(const DecomposeOptions& options, const Layout& a) {
    const Index l = a.l;
    const struct {
        Index steps, sweeps, starts, deeper;
    } efforts[] = {{2000, 20000, 1, 10000}, {1000, 1500, 1, 0}, {2000, 64000, 4, 20000}};
    const int effort = int(options.effort);
    if (effort < 0 || effort > 2)
        bad_argument("effort is " + std::to_string(effort) + ", expected 0 (standard), 1 (fast) or 2 (best)");
    check_count("steps", options.steps, 0, "0 (the default) to ");
    check_count("refine", options.refine, kRefineOfEffort, "-2 (the effort's), -1 (none), 0 (the default) to ");
    const bool own = options.refine && options.refine != kRefineOfEffort;
    Plan plan;
    // Larger blocks need fewer: their bits see more of the others in each.
    plan.refine.sweeps = efforts[effort].sweeps * 64 / std::clamp<Index>(l, 64, 256);
    switch (options.schedule) {
    case Schedule::paper:
        plan.robust = false;
        plan.amfd.steps = 50000;
        plan.refine.sweeps = options.refine == kRefineOfEffort ? efforts[effort].sweeps : 0;
        break;
    case Schedule::adaptive:
        plan.robust = true;
        plan.amfd.steps = efforts[effort].steps;
        plan.amfd.stop_when_settled = true;
        plan.starts = efforts[effort].starts;
        if (!options.steps && !own) plan.deeper = efforts[effort].deeper;
        break;
    default:
        bad_argument("schedule is " + std::to_string(int(options.schedule)) + ", expected 0 (adaptive) or 1 (paper)");
    }
    // With more latents than the default a long descent is worth more than annealing.
    if (double(l - 1) * double(a.rows + a.cols) > 1.2 * double(a.rows) * double(a.cols))
        plan.deeper *= 3, plan.little = 0.3;
    if (options.steps) plan.amfd.steps = options.steps;
    if (own) plan.refine.sweeps = std::max<Index>(options.refine, 0);
    if (l > kMaxRefined) plan.refine.sweeps = 0;
    if (!plan.refine.sweeps) plan.starts = 1, plan.deeper = 0;
    return plan;
}

/// bqq::decompose with a layout and a plan of one's own; of the options, those that a plan does not have.
Matrix decompose(const Layout& layout, const Plan& plan, const float* W, Index ldw, const DecomposeOptions& options);

/// Throws for an entry that is not finite or beyond kMaxMagnitude.
[[noreturn]] inline void bad_entry(Index a, Index b, float value) {
    bad_argument("W[" + std::to_string(a) + ", " + std::to_string(b) + "] is " +
                 (std::isnan(value)   ? "NaN, expected finite values"
                  : std::isinf(value) ? "infinite, expected finite values"
                                      : "beyond 1e38, its scales would not fit float32"));
}

inline void check_scales(const float* scales, Index count) {
    for (Index i = 0; i < count; ++i)
        if (!std::isfinite(scales[i]))
            bad_argument("W is too large: a scale of its approximation does not fit float32");
}

} // namespace bqq::detail
