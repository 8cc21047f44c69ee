// What searches: a batch of blocks of one matrix, one stack at a time. The CPU's engine has one block, the GPU's many.
// An engine does what it is told and reports errors; what to do, and what to keep, is the recipe's.
#pragma once

#include "bqq/matrix.hpp"
#include "search/schedule.hpp"

#include <functional>

namespace bqq::detail {

/// Blocks of a batch by number, ascending.
using Selection = std::vector<Index>;
/// Told of steps and sweeps as they are done, of all blocks together; often, with 0 too. May throw to stop.
using OnSteps = std::function<void(Index)>;

enum class Best { keep, restore };

class Engine {
  public:
    virtual ~Engine() = default;
    /// Entries of each block of the batch.
    const std::vector<double>& sizes() const { return sizes_; }

    /// Goes to stack i: what the stacks before it leave over is the target of what follows.
    virtual std::vector<Spread> begin_stack(Index i) = 0;
    /// A descent from the random numbers of (seed, block, trial), rounded: new bits.
    virtual void descend(const Selection& blocks, const AmfdOptions& options, Index trial) = 0;
    /// Anneals the bits.
    virtual std::vector<AnnealErrors> anneal(const Selection& blocks, const RefineOptions& options, Index trial) = 0;
    /// Solves the scales of all stacks up to this one, exactly; the squared errors of W.
    virtual std::vector<double> errors(const Selection& blocks) = 0;
    /// keep: bits, and scales of the last errors(), become the best of these blocks. restore: the best ones take the
    /// place of those at hand.
    virtual void exchange(const Selection& blocks, Best what) = 0;

  protected:
    std::vector<double> sizes_;
};

} // namespace bqq::detail
