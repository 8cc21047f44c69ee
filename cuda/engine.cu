#include "engine.cuh"

namespace bqq::cuda {
namespace {

constexpr Index steps_per_launch = 128, passes_per_launch = 64; // so that progress and Ctrl-C have their turn

} // namespace

GpuEngine::GpuEngine(const Job& job, Index room)
    : job_(job), a_(job.layout), rows_(int(a_.rows)), cols_(int(a_.cols)), l_(int(a_.l)), lw_(words_of(l_)),
      originals_(room), searching_(room), Y_(room * a_.p * a_.rows * lw_), Z_(room * a_.p * a_.cols * lw_),
      best_Y_(room * a_.rows * lw_), best_Z_(room * a_.cols * lw_), few_Y_(room * a_.rows * lw_),
      few_Z_(room * a_.cols * lw_), residual_(room * a_.rows * a_.cols), spread_room_(room), scales_(room * per(a_.p)),
      gram_(room * per(a_.p) * per(a_.p)), rhs_(room * (per(a_.p) + 1)), where_(room), errors_(room), moving_(1),
      state_(room * Index(state_floats(a_))), partial_(Index(amfd_partial_doubles(int(room), rows_, cols_))),
      planes_Y_(room * a_.p * a_.y_plane_bytes()), planes_Z_(room * a_.p * a_.z_plane_bytes()) {}

std::size_t GpuEngine::state_floats(const Layout& a) {
    const int rows = int(a.rows), cols = int(a.cols), l = int(a.l);
    return std::max(amfd_state_floats(rows, cols, l),
                    a.l <= detail::tuning::kMaxRefinedInner ? refine_state_floats(rows, cols, l) : 0);
}

std::size_t GpuEngine::bytes(const Layout& a) {
    const std::size_t sides = std::size_t(a.rows + a.cols), words = sides * std::size_t(words_of(int(a.l)));
    return 4 * state_floats(a) + 4 * std::size_t(a.rows * a.cols) + 4 * words * std::size_t(a.p + 2) +
           std::size_t(a.p * (a.y_plane_bytes() + a.z_plane_bytes())) + 8 * std::size_t((3 * a.p + 2) * (3 * a.p + 2));
}

void GpuEngine::open(Index begin, Index count) {
    begin_ = begin, count_ = int(count);
    patches_.clear(), sizes_.clear();
    for (Index block = begin; block < begin + count; ++block) {
        const Index j = block / a_.K, k = block % a_.K;
        patches_.push_back({job_.W + j * a_.rows * job_.ldw + k * a_.cols, job_.ldw, 0, 1, block, 0, int(a_.rows_of(j)),
                            int(a_.cols_of(k)), 1});
        sizes_.push_back(double(a_.rows_of(j)) * double(a_.cols_of(k)));
    }
    originals_.set(patches_, job_.stream);
    Y_.clear(job_.stream), Z_.clear(job_.stream);
    load_old();
}

void GpuEngine::load_old() {
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

void GpuEngine::close(const Result& out) {
    check(planes_of_words(words(originals_), int(a_.p), planes_Y_.at(), planes_Z_.at(), job_.stream),
          "planes_of_words");
    const auto put = [&](void* to, const void* from, std::size_t size, cudaMemcpyKind kind) {
        check(cudaMemcpyAsync(to, from, size, kind, job_.stream), "cudaMemcpyAsync");
    };
    const std::size_t y = std::size_t(a_.p * a_.y_plane_bytes()), z = std::size_t(a_.p * a_.z_plane_bytes());
    const std::size_t begin = std::size_t(begin_), count = std::size_t(count_);
    put(out.Y + begin * y, planes_Y_.at(), count * y, cudaMemcpyDeviceToDevice);
    put(out.Z + begin * z, planes_Z_.at(), count * z, cudaMemcpyDeviceToDevice);
    for (Index b = 0; b < count_; ++b) detail::check_scales(host_scales_.data() + b * per(a_.p), per(a_.p));
    put(out.scales + begin_ * per(a_.p), host_scales_.data(), 4 * host_scales_.size(), cudaMemcpyHostToDevice);
    check(cudaStreamSynchronize(job_.stream), "cudaStreamSynchronize");
}

std::vector<Spread> GpuEngine::spreads(int stacks, bool keep_residual) {
    scales_.set(host_scales_, job_.stream);
    check(residuals(words(originals_), stacks, scales_.at(), keep_residual ? residual_.at() : nullptr,
                    spread_room_.at(), job_.stream),
          "residuals");
    return spread_room_.get(count_, job_.stream);
}

std::vector<detail::Spread> GpuEngine::begin_stack(Index i) {
    stack_ = int(i), active_ = 0;
    spread_ = spreads(stack_, true);
    targets_ = patches_;
    for (Index b = 0; b < count_; ++b) {
        Patch& patch = targets_[std::size_t(b)];
        const Spread& s = spread_[std::size_t(b)];
        patch.W = residual_.at() + b * a_.rows * a_.cols, patch.ldw = a_.cols;
        patch.mean = s.mean, patch.active = s.range != 0;
        active_ += patch.active;
    }
    return {spread_.begin(), spread_.end()};
}

// Of each block of the batch, where it goes: to its own place or, packed, one behind the other; -1: nowhere.
std::vector<int> GpuEngine::places(const Selection& blocks, bool packed) const {
    std::vector<int> where(std::size_t(count_), -1);
    for (std::size_t x = 0; x < blocks.size(); ++x) where[std::size_t(blocks[x])] = int(packed ? Index(x) : blocks[x]);
    return where;
}

// All active blocks are searched where they are. Fewer of them go to a batch of their own, so that no thread idles.
GpuEngine::Search GpuEngine::select(const Selection& blocks, Index trial,
                                    const std::function<double(const detail::Spread&)>& divisor) {
    Search s{targets_, {}, stack_, {}};
    const bool few = Index(blocks.size()) < active_;
    if (few) {
        s.targets.clear();
        for (const Index b : blocks) s.targets.push_back(targets_[std::size_t(b)]), s.where.push_back(int(b));
    }
    for (std::size_t x = 0; x < s.targets.size(); ++x) {
        s.targets[x].stack = std::int32_t(trial);
        s.targets[x].divisor = divisor(spread_[few ? std::size_t(s.where[x]) : x]);
    }
    searching_.set(s.targets, job_.stream);
    s.words = words(searching_);
    if (!few) return s;
    s.words = {int(s.count()), rows_, cols_, l_, 1, searching_.at(), few_Y_.at(), few_Z_.at()}, s.stack = 0;
    few_Y_.clear(job_.stream), few_Z_.clear(job_.stream);
    copy(words(originals_), stack_, places(blocks, true), s.words, 0);
    return s;
}

void GpuEngine::put_back(const Search& s) {
    if (!s.where.empty()) copy(s.words, 0, s.where, words(originals_), stack_);
}

// Launches until nothing moves or `most` steps are done, of which progress counts `counted`.
template <class Launch, class Count>
void GpuEngine::until_still(Index blocks, Index most, Index counted, Index chunk, Launch&& launch, Count&& count) {
    Index reported = 0;
    const auto report = [&](Index done) {
        job_.on_steps(blocks * (done - reported));
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

void GpuEngine::descend(const Selection& blocks, const AmfdOptions& options, Index trial) {
    const Search s = select(blocks, trial, [&](const detail::Spread& x) { return options.divisor(x); });
    const AmfdBatch batch{int(s.count()), rows_, cols_, l_, searching_.at(), state_.at(), partial_.at()};
    const Limits& limits = job_.limits;
    const AmfdLaunch launch =
        amfd_launch(batch.count, rows_, cols_, l_, limits.shared, limits.processors, limits.rounded);
    check(amfd_start(batch, options, job_.seed, launch, job_.stream), "amfd_start");
    until_still(
        Index(blocks.size()), options.steps, options.steps, steps_per_launch,
        [&](Index from, Index n) { check(amfd_steps(batch, options, from, n, launch, job_.stream), "amfd_steps"); },
        [&] { check(amfd_count_moving(batch, moving_.at(), job_.stream), "amfd_count_moving"); });
    check(amfd_round(batch, s.words, s.stack, job_.stream), "amfd_round");
    put_back(s);
}

std::vector<AnnealErrors> GpuEngine::anneal(const Selection& blocks, const RefineOptions& options, Index trial) {
    const Search s = select(blocks, trial, [](const detail::Spread& x) { return x.deviation; });
    const RefineBatch batch{s.words, s.stack, state_.at()};
    check(refine_start(batch, options, job_.seed, job_.limits.shared, job_.stream), "refine_start");
    until_still(
        Index(blocks.size()), AnnealSchedule(options).most_passes(), options.sweeps, passes_per_launch,
        [&](Index, Index n) {
            check(refine_passes(batch, options, n, job_.limits.shared, job_.stream), "refine_passes");
        },
        [&] { check(refine_count_moving(batch, moving_.at(), job_.stream), "refine_count_moving"); });
    check(refine_errors(batch, errors_.at(), job_.stream), "refine_errors");
    const std::vector<AnnealErrors> errors = errors_.get(s.count(), job_.stream);
    put_back(s);
    if (s.count() == Index(blocks.size())) return errors;
    std::vector<AnnealErrors> of_blocks;
    for (const Index b : blocks) of_blocks.push_back(errors[std::size_t(b)]);
    return of_blocks;
}

std::vector<double> GpuEngine::errors(const Selection& blocks) {
    const Index n = per(stack_ + 1);
    check(scale_sums(words(originals_), stack_ + 1, gram_.at(), rhs_.at(), job_.stream), "scale_sums");
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
    const std::vector<Spread> now = spreads(stack_ + 1, false);
    std::vector<double> errors;
    for (const Index b : blocks) errors.push_back(now[std::size_t(b)].error);
    return errors;
}

void GpuEngine::copy(const WordBatch& from, int stack, const std::vector<int>& where, const WordBatch& to,
                     int to_stack) {
    where_.set(where, job_.stream);
    check(copy_words(from, stack, where_.at(), to, to_stack, job_.stream), "copy_words");
}

void GpuEngine::exchange(const Selection& blocks, detail::Best what) {
    const Index n = per(stack_ + 1);
    const bool keep = what == detail::Best::keep;
    best_scales_.resize(std::size_t(count_ * n));
    const std::vector<float>& from = keep ? host_scales_ : best_scales_;
    std::vector<float>& to = keep ? best_scales_ : host_scales_;
    for (const Index b : blocks) std::copy_n(from.data() + b * n, n, to.data() + b * n);
    if (keep)
        copy(words(originals_), stack_, places(blocks, false), best(), 0);
    else
        copy(best(), 0, places(blocks, false), words(originals_), stack_);
}

} // namespace bqq::cuda
