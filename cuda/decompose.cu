// A whole matrix on the device: stacks one after the other on the residual, all blocks at once; cpp/src/decompose.cpp
// is the twin.
#include "decompose.cuh"

#include "amfd.cuh"
#include "refine.cuh"

#include <chrono>
#include <memory>

namespace bqq::cuda {
namespace {

using detail::bad_argument;
using detail::Plan;

constexpr Index steps_per_launch = 128, passes_per_launch = 64;
constexpr Index next = kMaxStacks + 1; // random numbers of their own for each trial

struct Progress {
    const std::function<bool(Index, Index)>& report;
    const Index total;
    Index done = 0;
    std::chrono::steady_clock::time_point last = std::chrono::steady_clock::now();

    void advance(Index steps) {
        done += steps;
        const auto now = std::chrono::steady_clock::now();
        if (!report || now - last < std::chrono::milliseconds(50)) return;
        last = now;
        call(done);
    }
    void call(Index steps) const {
        if (report && !report(steps, total))
            throw Error(ErrorCode::cancelled, "stopped by the progress callback after " + std::to_string(steps) +
                                                  " of " + std::to_string(total) + " steps");
    }
};

// What all batches of a call share.
struct Job {
    const Layout& layout;
    const Plan& plan;
    Index first; ///< stacks that are there already
    const View* old;
    const float* W;
    Index ldw;
    std::uint64_t seed;
    cudaStream_t stream;
    Limits limits;
    Progress& progress;
};

// Up to `room` blocks at a time: their memory on the device, and the search.
class Batch {
  public:
    Batch(const Job& job, Index room)
        : job_(job), a_(job.layout), rows_(int(a_.rows)), cols_(int(a_.cols)), l_(int(a_.l)), lw_(words_of(l_)),
          targets_(room), originals_(room), Y_(room * a_.p * a_.rows * lw_), Z_(room * a_.p * a_.cols * lw_),
          best_Y_(room * a_.rows * lw_), best_Z_(room * a_.cols * lw_), few_Y_(room * a_.rows * lw_),
          few_Z_(room * a_.cols * lw_), residual_(room * a_.rows * a_.cols), spread_(room),
          scales_(room * (3 * a_.p + 1)), gram_(room * (3 * a_.p + 1) * (3 * a_.p + 1)), rhs_(room * (3 * a_.p + 2)),
          where_(room), errors_(room), moving_(1), state_(room * Index(state_floats(a_))),
          partial_(Index(amfd_partial_doubles(int(room), rows_, cols_, l_))),
          planes_Y_(room * a_.p * a_.y_plane_bytes()), planes_Z_(room * a_.p * a_.z_plane_bytes()) {}

    static std::size_t state_floats(const Layout& a) {
        return std::max(amfd_state_floats(int(a.rows), int(a.cols), int(a.l)),
                        a.l <= detail::kMaxRefined ? refine_state_floats(int(a.rows), int(a.cols), int(a.l)) : 0);
    }
    static std::size_t bytes(const Layout& a) {
        const std::size_t sides = std::size_t(a.rows + a.cols), words = sides * std::size_t(words_of(int(a.l)));
        return 4 * state_floats(a) + 4 * std::size_t(a.rows * a.cols) + 4 * words * std::size_t(a.p + 2) +
               std::size_t(a.p * (a.y_plane_bytes() + a.z_plane_bytes())) +
               8 * std::size_t((3 * a.p + 2) * (3 * a.p + 2));
    }

    /// Blocks [begin, begin + count), to out.
    void run(Index begin, Index count, const Result& out) {
        begin_ = begin, count_ = int(count);
        std::vector<Patch> patches;
        for (Index block = begin; block < begin + count; ++block) {
            const Index j = block / a_.K, k = block % a_.K;
            patches.push_back({job_.W + j * a_.rows * job_.ldw + k * a_.cols, job_.ldw, 0, 1, block, 0,
                               int(a_.rows_of(j)), int(a_.cols_of(k)), 1});
        }
        originals_.set(patches, job_.stream);
        Y_.clear(job_.stream), Z_.clear(job_.stream);
        load_old();
        for (Index i = job_.first; i < a_.p; ++i) stack(int(i), patches);
        check(planes_of_words(words(originals_), int(a_.p), planes_Y_.at(), planes_Z_.at(), job_.stream),
              "planes_of_words");
        const std::size_t y = std::size_t(a_.p * a_.y_plane_bytes()), z = std::size_t(a_.p * a_.z_plane_bytes());
        check(cudaMemcpyAsync(out.Y + std::size_t(begin) * y, planes_Y_.at(), std::size_t(count) * y,
                              cudaMemcpyDeviceToDevice, job_.stream),
              "cudaMemcpyAsync");
        check(cudaMemcpyAsync(out.Z + std::size_t(begin) * z, planes_Z_.at(), std::size_t(count) * z,
                              cudaMemcpyDeviceToDevice, job_.stream),
              "cudaMemcpyAsync");
        for (Index b = 0; b < count; ++b) detail::check_scales(host_scales_.data() + b * per(a_.p), per(a_.p));
        check(cudaMemcpyAsync(out.scales + begin * per(a_.p), host_scales_.data(), 4 * host_scales_.size(),
                              cudaMemcpyHostToDevice, job_.stream),
              "cudaMemcpyAsync");
        check(cudaStreamSynchronize(job_.stream), "cudaStreamSynchronize");
    }

  private:
    static Index per(Index p) { return 3 * p + 1; }

    WordBatch words(const Buffer<Patch>& patches) const {
        return {count_, rows_, cols_, l_, int(a_.p), patches.at(), Y_.at(), Z_.at()};
    }

    void load_old() {
        host_scales_.assign(std::size_t(count_), 0.0f);
        if (!job_.first) return;
        const View& q = *job_.old;
        host_scales_.resize(std::size_t(count_ * per(job_.first)));
        check(cudaMemcpyAsync(host_scales_.data(), q.scales + begin_ * per(job_.first), 4 * host_scales_.size(),
                              cudaMemcpyDeviceToHost, job_.stream),
              "cudaMemcpyAsync");
        check(cudaStreamSynchronize(job_.stream), "cudaStreamSynchronize");
        check(words_of_planes(words(originals_), int(job_.first), q.Y + begin_ * job_.first * a_.y_plane_bytes(),
                              q.Z + begin_ * job_.first * a_.z_plane_bytes(), job_.stream),
              "words_of_planes");
    }

    std::vector<Spread> spreads(int stacks, bool keep_residual) {
        scales_.set(host_scales_, job_.stream);
        check(residuals(words(originals_), stacks, scales_.at(), keep_residual ? residual_.at() : nullptr, spread_.at(),
                        job_.stream),
              "residuals");
        return spread_.get(count_, job_.stream);
    }

    // Exact scales of the first `stacks` stacks for the bits as they are, into host_scales_; the errors.
    std::vector<Spread> solve_scales(int stacks) {
        const Index n = per(stacks);
        check(scale_sums(words(originals_), stacks, gram_.at(), rhs_.at(), job_.stream), "scale_sums");
        const auto gram = gram_.get(count_ * n * n, job_.stream);
        const auto rhs = rhs_.get(count_ * (n + 1), job_.stream);
        host_scales_.resize(std::size_t(count_ * n));
        detail::JointSystem e(n);
        std::vector<double> x(static_cast<std::size_t>(n));
        for (Index b = 0; b < count_; ++b) {
            for (Index i = 0; i < n * n; ++i) e.A[std::size_t(i)] = double(gram[std::size_t(b * n * n + i)]);
            for (Index i = 0; i < n; ++i) e.b[std::size_t(i)] = rhs[std::size_t(b * (n + 1) + i)];
            detail::solve(e, x.data());
            x.back() += rhs[std::size_t(b * (n + 1) + n)];
            for (Index i = 0; i < n; ++i) host_scales_[std::size_t(b * n + i)] = float(x[std::size_t(i)]);
        }
        return spreads(stacks, false);
    }

    // Keeps the bits of the stack and their scales where they are the best so far, else puts the best back.
    void keep_better(int stack) {
        const auto now = solve_scales(stack + 1);
        const Index n = per(stack + 1);
        std::vector<int> better(std::size_t(count_), -1), worse(std::size_t(count_), -1);
        best_scales_.resize(std::size_t(count_ * n));
        for (Index b = 0; b < count_; ++b) {
            const bool is_better = !(now[std::size_t(b)].error >= best_error_[std::size_t(b)]);
            (is_better ? better : worse)[std::size_t(b)] = int(b);
            if (is_better) best_error_[std::size_t(b)] = now[std::size_t(b)].error;
            float *own = host_scales_.data() + b * n, *kept = best_scales_.data() + b * n;
            std::copy_n(is_better ? own : kept, n, is_better ? kept : own);
        }
        const WordBatch best{count_, rows_, cols_, l_, 1, originals_.at(), best_Y_.at(), best_Z_.at()};
        copy(words(originals_), stack, better, best, 0);
        copy(best, 0, worse, words(originals_), stack);
    }

    void copy(const WordBatch& from, int stack, const std::vector<int>& where, const WordBatch& to, int to_stack) {
        where_.set(where, job_.stream);
        check(copy_words(from, stack, where_.at(), to, to_stack, job_.stream), "copy_words");
    }

    // Blocks that are searched together, and the words where their bits are.
    struct Search {
        std::vector<Patch> targets;
        std::vector<Spread> spread;
        WordBatch words;
        int stack;
        Index count() const { return Index(targets.size()); }
    };

    void aim(Search& s, Index trial, bool by_deviation, double times) {
        for (std::size_t b = 0; b < s.targets.size(); ++b) {
            s.targets[b].stack = std::int32_t(trial);
            s.targets[b].divisor = by_deviation ? times * s.spread[b].deviation : s.spread[b].range;
        }
        targets_.set(s.targets, job_.stream);
    }

    // Launches until nothing moves or `most` steps are done, of which progress counts `counted`.
    template <class Launch, class Count>
    void until_still(Index blocks, Index most, Index counted, Index chunk, Launch&& launch, Count&& count) {
        Index reported = 0;
        const auto report = [&](Index done) {
            job_.progress.advance(blocks * (done - reported));
            reported = done;
        };
        bool moving = true;
        for (Index done = 0; moving && done < most; report(std::min(done, counted))) {
            const Index now = std::min(chunk, most - done);
            launch(done, now);
            done += now;
            moving_.clear(job_.stream);
            count();
            moving = moving_.get(1, job_.stream)[0] > 0;
        }
        report(counted);
    }

    void descend(Search& s, const AmfdOptions& options, Index trial) {
        aim(s, trial, job_.plan.robust, 6);
        const AmfdBatch batch{int(s.count()), rows_, cols_, l_, targets_.at(), state_.at(), partial_.at()};
        const AmfdPlan plan =
            amfd_plan(batch.count, rows_, cols_, l_, job_.limits.shared, job_.limits.processors, job_.limits.rounded);
        check(amfd_start(batch, options, job_.seed, plan, job_.stream), "amfd_start");
        until_still(
            s.count(), options.steps, options.steps, steps_per_launch,
            [&](Index from, Index n) { check(amfd_steps(batch, options, from, n, plan, job_.stream), "amfd_steps"); },
            [&] { check(amfd_count_moving(batch, moving_.at(), job_.stream), "amfd_count_moving"); });
        check(amfd_round(batch, s.words, s.stack, job_.stream), "amfd_round");
    }

    std::vector<RefineErrors> refine(Search& s, RefineOptions options, Index sweeps, Index trial) {
        aim(s, trial, true, 1);
        options.sweeps = sweeps;
        const RefineBatch batch{s.words, s.stack, state_.at()};
        check(refine_start(batch, options, job_.seed, job_.limits.shared, job_.stream), "refine_start");
        until_still(
            s.count(), refine_most_passes(options), sweeps, passes_per_launch,
            [&](Index, Index n) {
                check(refine_passes(batch, options, n, job_.limits.shared, job_.stream), "refine_passes");
            },
            [&] { check(refine_count_moving(batch, moving_.at(), job_.stream), "refine_count_moving"); });
        check(refine_errors(batch, errors_.at(), job_.stream), "refine_errors");
        return errors_.get(s.count(), job_.stream);
    }

    void stack(int i, const std::vector<Patch>& originals) {
        const Plan& plan = job_.plan;
        Search all{originals, spreads(i, true), words(targets_), i};
        bool any = false;
        for (Index b = 0; b < count_; ++b) {
            Patch& patch = all.targets[std::size_t(b)];
            const Spread& s = all.spread[std::size_t(b)];
            patch.W = residual_.at() + b * a_.rows * a_.cols, patch.ldw = a_.cols;
            patch.mean = s.mean, patch.active = s.range != 0; // nothing left to explain: the stack stays zero
            any = any || patch.active;
        }
        best_error_.assign(std::size_t(count_), HUGE_VAL);
        if (!any) {
            keep_better(i);
            job_.progress.advance(count_ * plan.work());
            return;
        }
        std::vector<RefineErrors> lowest(std::size_t(count_), {HUGE_VAL, HUGE_VAL});
        const auto refine_all = [&](Index sweeps, Index trial, bool from_descent) {
            const std::vector<RefineErrors> errors = refine(all, plan.refine, sweeps, trial);
            for (std::size_t b = 0; b < errors.size(); ++b) {
                if (from_descent) lowest[b].first = std::min(lowest[b].first, errors[b].first);
                lowest[b].last = std::min(lowest[b].last, errors[b].last);
            }
            keep_better(i);
        };
        for (Index start = 0; start < plan.starts; ++start) {
            const Index trial = i + start * next;
            descend(all, plan.amfd, trial);
            if (plan.starts > 1)
                refine_all(plan.trial(), trial + plan.starts * next, true);
            else
                keep_better(i);
        }
        if (plan.refine.sweeps) refine_all(plan.refine.sweeps, i, plan.starts == 1);
        if (plan.deeper) deeper(i, all, lowest);
    }

    // Blocks in which annealing gained little get a longer descent, all of them in one smaller batch.
    void deeper(int i, const Search& all, const std::vector<RefineErrors>& lowest) {
        const Plan& plan = job_.plan;
        Search few{{}, {}, {}, 0};
        std::vector<int> where;
        for (std::size_t b = 0; b < lowest.size(); ++b) {
            const Patch& target = all.targets[b];
            if (!plan.goes_deeper(lowest[b].first, lowest[b].last, double(target.m) * double(target.n))) continue;
            few.targets.push_back(target), few.spread.push_back(all.spread[b]);
            where.push_back(int(b));
        }
        job_.progress.advance((count_ - few.count()) * plan.more());
        if (!few.count()) return;
        few.words = {int(few.count()), rows_, cols_, l_, 1, targets_.at(), few_Y_.at(), few_Z_.at()};
        few_Y_.clear(job_.stream), few_Z_.clear(job_.stream);
        const auto try_bits = [&] {
            copy(few.words, 0, where, words(originals_), i);
            keep_better(i);
        };
        AmfdOptions longer = plan.amfd;
        longer.steps = plan.deeper;
        descend(few, longer, i + 2 * plan.starts * next);
        try_bits();
        (void)refine(few, plan.gentle(), plan.refine.sweeps, i + (2 * plan.starts + 1) * next);
        try_bits();
    }

    const Job& job_;
    const Layout& a_;
    const int rows_, cols_, l_, lw_;
    Index begin_ = 0;
    int count_ = 0;
    Buffer<Patch> targets_, originals_; ///< the residual of the stack at work; W itself
    Buffer<std::uint32_t> Y_, Z_, best_Y_, best_Z_, few_Y_, few_Z_;
    Buffer<float> residual_;
    Buffer<Spread> spread_;
    Buffer<float> scales_;
    Buffer<std::int64_t> gram_;
    Buffer<double> rhs_;
    Buffer<int> where_;
    Buffer<RefineErrors> errors_;
    Buffer<int> moving_;
    Buffer<float> state_;
    Buffer<double> partial_;
    Buffer<std::uint8_t> planes_Y_, planes_Z_;
    std::vector<float> host_scales_, best_scales_; ///< [count][3 stacks + 1] of the stacks there are
    std::vector<double> best_error_;
};

void check_matrix(const Layout& a, const float* W, Index ldw, cudaStream_t stream) {
    if (!W) bad_argument("W is a null pointer");
    if (ldw < a.n) bad_argument("ldw is " + std::to_string(ldw) + ", expected n = " + std::to_string(a.n) + " or more");
    Buffer<unsigned long long> first(1);
    check(find_unfit(W, a.m, a.n, ldw, detail::kMaxMagnitude, first.at(), stream), "find_unfit");
    const Index at = Index(first.get(1, stream)[0]);
    if (at == a.m * a.n) return;
    float value = 0;
    check(cudaMemcpyAsync(&value, W + at / a.n * ldw + at % a.n, sizeof value, cudaMemcpyDeviceToHost, stream),
          "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    detail::bad_entry(at / a.n, at % a.n, value);
}

} // namespace

void decompose_within(const Limits& limits, const View* old, const Layout& a, const Plan& plan, const float* W,
                      Index ldw, const DecomposeOptions& options, const Result& out, cudaStream_t stream) {
    if (!out.Y || !out.Z || !out.scales) bad_argument("an array of the result is a null pointer");
    if (options.weight) throw Error(ErrorCode::unsupported, "weight is not supported on the GPU");
    if (std::max(a.rows, a.cols) > 1 << 15)
        throw Error(ErrorCode::unsupported, "blocks beyond 32768 on a side are not supported on the GPU");
    check_matrix(a, W, ldw, stream);
    const Index first = old ? old->layout.p : 0;
    Progress progress{options.progress, a.blocks() * (a.p - first) * plan.work()};
    const Job job{a, plan, first, old, W, ldw, options.seed, stream, limits, progress};
    const Index most = std::clamp<Index>(Index(limits.memory / Batch::bytes(a)), 1, 65535 / a.p);
    const Index rounds = (a.blocks() + most - 1) / most, room = (a.blocks() + rounds - 1) / rounds;
    Batch batch(job, room);
    for (Index begin = 0; begin < a.blocks(); begin += room) batch.run(begin, std::min(room, a.blocks() - begin), out);
    if (progress.total) progress.call(progress.done);
}

void decompose(const Layout& layout, const float* W, Index ldw, const DecomposeOptions& options, const Result& out,
               void* stream) {
    validate(layout);
    decompose_within(device_limits(), nullptr, layout, detail::make_plan(options, layout), W, ldw, options, out,
                     static_cast<cudaStream_t>(stream));
}

void extend(const View& q, const Layout& layout, const float* W, Index ldw, const DecomposeOptions& options,
            const Result& out, void* stream) {
    Layout expected = q.layout;
    expected.p = layout.p;
    if (layout != expected || layout.p < q.layout.p)
        bad_argument("the layout is not that of q with p from " + std::to_string(q.layout.p) + " up");
    if (!q.Y || !q.Z || !q.scales) bad_argument("an array of q is a null pointer");
    validate(layout);
    decompose_within(device_limits(), &q, layout, detail::make_plan(options, layout), W, ldw, options, out,
                     static_cast<cudaStream_t>(stream));
}

} // namespace bqq::cuda
