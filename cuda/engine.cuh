// The search on the GPU: a batch of blocks at once, behind the recipe that the CPU follows too.
#pragma once

#include "amfd.cuh"
#include "bqq/cuda.hpp"
#include "device.cuh"
#include "progress.hpp"
#include "refine.cuh"
#include "search/recipe.hpp"

namespace bqq::cuda {

using detail::Selection;

/// What all batches of a call share.
struct Job {
    const Layout& layout;
    Index first;     ///< stacks that are there already
    const View* old; ///< theirs; NULL if there are none
    const float* W;
    Index ldw;
    std::uint64_t seed;
    cudaStream_t stream;
    Limits limits;
    const detail::OnSteps& on_steps;
};

class GpuEngine final : public detail::Engine {
  public:
    /// Memory for up to `room` blocks.
    GpuEngine(const Job& job, Index room);
    /// Bytes on the device for a block.
    static std::size_t bytes(const Layout& layout);

    /// Goes to blocks [begin, begin + count).
    void open(Index begin, Index count);
    /// Their bits and scales, to out.
    void close(const Result& out);

    std::vector<detail::Spread> begin_stack(Index i) override;
    void descend(const Selection& blocks, const AmfdOptions& options, Index trial) override;
    std::vector<AnnealErrors> anneal(const Selection& blocks, const RefineOptions& options, Index trial) override;
    std::vector<double> errors(const Selection& blocks) override;
    void exchange(const Selection& blocks, detail::Best what) override;

  private:
    // Blocks that are searched together, where their bits are, and the place of each in the batch.
    struct Search {
        std::vector<Patch> targets;
        WordBatch words;
        int stack;
        std::vector<int> where; ///< empty: the batch itself
        Index count() const { return Index(targets.size()); }
    };

    static std::size_t state_floats(const Layout& a);
    Index per(Index stacks) const { return 3 * stacks + 1; }
    WordBatch words(const Buffer<Patch>& patches) const {
        return {count_, rows_, cols_, l_, int(a_.p), patches.at(), Y_.at(), Z_.at()};
    }
    WordBatch best() const { return {count_, rows_, cols_, l_, 1, originals_.at(), best_Y_.at(), best_Z_.at()}; }
    std::vector<int> places(const Selection& blocks, bool packed) const;
    void put_back(const Search& s);
    void load_old();
    std::vector<Spread> spreads(int stacks, bool keep_residual);
    Search select(const Selection& blocks, Index trial, const std::function<double(const detail::Spread&)>& divisor);
    void copy(const WordBatch& from, int stack, const std::vector<int>& where, const WordBatch& to, int to_stack);
    template <class Launch, class Count>
    void until_still(Index blocks, Index most, Index counted, Index chunk, Launch&& launch, Count&& count);

    const Job& job_;
    const Layout& a_;
    const int rows_, cols_, l_, lw_;
    Index begin_ = 0, active_ = 0;
    int count_ = 0, stack_ = 0;
    std::vector<Patch> patches_, targets_; ///< W itself; the residual of the stack at work
    std::vector<Spread> spread_;
    Buffer<Patch> originals_, searching_;
    Buffer<std::uint32_t> Y_, Z_, best_Y_, best_Z_, few_Y_, few_Z_;
    Buffer<float> residual_;
    Buffer<Spread> spread_room_;
    Buffer<float> scales_;
    Buffer<std::int64_t> gram_;
    Buffer<double> rhs_;
    Buffer<int> where_;
    Buffer<AnnealErrors> errors_;
    Buffer<int> moving_;
    Buffer<float> state_;
    Buffer<double> partial_;
    Buffer<std::uint8_t> planes_Y_, planes_Z_;
    std::vector<float> host_scales_, best_scales_; ///< [count][3 stacks + 1] of the stacks there are
};

/// What is to be made, and how.
struct Task {
    const Layout& layout;
    const detail::SearchRecipe& recipe;
    const View* old = nullptr; ///< what there is already of the first stacks
};

/// decompose and extend of bqq/cuda.hpp with the limits of the device and the recipe named. Of the options, those that
/// a recipe does not have.
void decompose_within(const Limits& limits, const Task& task, const float* W, Index ldw,
                      const DecomposeOptions& options, const Result& out, cudaStream_t stream);

} // namespace bqq::cuda
