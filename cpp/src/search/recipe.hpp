// What is done for a stack: how many descents, how long, what is kept, what is tried again. Knows nothing of threads
// or devices.
#pragma once

#include "arguments.hpp"
#include "bqq/decompose.hpp"
#include "search/engine.hpp"

namespace bqq::detail {

constexpr Index kMaxSteps = 1000000000;
constexpr float kMaxMagnitude = 1e38f; // leaves scales some room to be larger than what they add up to

struct SearchRecipe {
    AmfdOptions amfd;
    RefineOptions refine;
    Index restarts = 1;    ///< descents, each followed by probe_sweeps(), of which the best is refined
    Index retry_steps = 0; ///< of one more descent where annealing gained little; 0: none
    /// Share of the error. Annealing lowers that of most matrices by a tenth or more. Where it gains less, the order
    /// that a descent finds is better than what annealing does, and a longer descent finds more of it.
    double min_gain = tuning::kMinGain;

    Index probe_sweeps() const { return restarts > 1 ? std::min(tuning::kProbeSweeps, refine.sweeps) : 0; }
    Index retry_work() const { return retry_steps ? retry_steps + refine.sweeps : 0; }
    /// Steps and sweeps of a stack of one block.
    Index work() const { return restarts * (amfd.steps + probe_sweeps()) + refine.sweeps + retry_work(); }
    /// For a block of `size` entries: lowest errors before and after annealing, in units of the residual's deviation.
    bool needs_retry(const AnnealErrors& lowest, double size) const {
        const bool exact = lowest.last <= tuning::kExact * size;
        return retry_steps && !exact && !(lowest.last < (1 - min_gain) * lowest.first);
    }
};

/// What options mean for a layout. Throws Error(invalid_argument) that names the option.
SearchRecipe make_recipe(const DecomposeOptions& options, const Layout& a);

/// Steps of each search of a row that is encoded. Throws as make_recipe.
Index encode_steps(const DecomposeOptions& options);

/// options.damping with its default put in: 0 or more.
double damping_of(const DecomposeOptions& options);

/// Stack i of every block of the engine's batch: bits, and the scales of all stacks up to it. on_steps(count) is told
/// of the work that is saved; the engine tells of what it does.
void search_stack(Engine& engine, const SearchRecipe& recipe, Index i, const OnSteps& on_steps);

/// bqq::decompose with a layout and a recipe of one's own; of the options, those that a recipe does not have.
Matrix decompose(const Layout& layout, const SearchRecipe& recipe, const float* W, Index ldw,
                 const DecomposeOptions& options);

// ---- what a decomposition refuses, on any device ----

void check_leading(const char* name, const float* W, const char* ld_name, Index ldw, Index n);

struct DenseShape {
    Index m, n, ld;
};
/// As check_leading, and all entries are finite and within kMaxMagnitude.
void check_entries(const char* name, const float* W, const char* ld_name, const DenseShape& shape);

/// Throws for an entry that is not finite or beyond kMaxMagnitude.
[[noreturn]] void bad_entry(const char* name, Index a, Index b, float value);

void check_scales(const float* scales, Index count);

} // namespace bqq::detail
