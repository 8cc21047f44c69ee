// The search on the CPU: one block at a time on one thread.
#pragma once

#include "search/amfd.hpp"
#include "search/engine.hpp"
#include "search/metric.hpp"
#include "search/refine.hpp"

#include <memory>

namespace bqq::detail {

/// What one thread works with: buffers for the blocks of a layout.
struct Worker {
    const bqq_kernels& kernels;
    Amfd amfd;
    std::unique_ptr<Refiner> refiner; ///< NULL: no refinement is wanted
    Worker(const bqq_kernels& table, const Layout& a, bool refine, bool weighted)
        : kernels(table), amfd(table, a.rows, a.cols, a.l),
          refiner(refine ? std::make_unique<Refiner>(table, a.rows, a.cols, a.l, weighted) : nullptr) {}
};

/// One block of W and what its error is measured in: H NULL is the plain sum of squares.
struct Target {
    const float* W;
    Index ldw;
    const PaddedMatrix* H;
};

class CpuEngine final : public Engine {
  public:
    /// Block (j, k) of q, whose planes are read and written; `scales`: of the stacks there are.
    CpuEngine(Matrix& q, Index j, Index k, std::vector<float> scales, const Target& target, std::uint64_t seed,
              Worker& worker, const OnSteps& on_steps);

    const std::vector<float>& scales() const { return scales_; } ///< of all stacks so far

    std::vector<Spread> begin_stack(Index i) override;
    void descend(const Selection& blocks, const AmfdOptions& options, Index trial) override;
    std::vector<AnnealErrors> anneal(const Selection& blocks, const RefineOptions& options, Index trial) override;
    std::vector<double> errors(const Selection& blocks) override;
    void exchange(const Selection& blocks, Best what) override;

  private:
    Matrix& q_;
    const Index j_, k_, m_, n_, block_;
    const Target target_;
    const std::uint64_t seed_;
    Worker& worker_;
    const OnSteps& on_steps_;
    Index stack_ = 0;
    Spread spread_{};
    std::uint8_t *Y_ = nullptr, *Z_ = nullptr; ///< planes of the stack
    std::vector<float> scales_, best_scales_, residual_;
    std::vector<std::uint8_t> best_Y_, best_Z_;
};

} // namespace bqq::detail
