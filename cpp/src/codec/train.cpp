// A codec from vectors, stage by stage: codes by product k-means, then rounds of least squares for the entries given
// the codes and a few sweeps for the codes given the entries, at falling temperatures; the next stage gets what is
// left. Stages are not trained together afterwards: that lowers the error of the training vectors and breaks that of
// others (.033 to .079 on SIFT), since their codes can't be found any more.
#include "bqq/codec.hpp"

#include "arguments.hpp"
#include "codec/cluster.hpp"
#include "codec/codebook.hpp"
#include "codec/tuning.hpp"
#include "kernels/dispatch.hpp"
#include "linalg.hpp"
#include "parallel.hpp"
#include "progress.hpp"
#include "rng.hpp"

#include <cmath>
#include <numeric>

namespace bqq {

namespace {

using namespace detail;

struct TrainEffort {
    Index rows, rounds;
};
TrainEffort train_effort(Effort effort) {
    return effort == Effort::fast   ? TrainEffort{1 << 14, 15}
           : effort == Effort::best ? TrainEffort{1 << 17, 50}
                                    : TrainEffort{1 << 15, 25};
}

/// Bytes of the stages of a code of `bytes` bytes without its norm.
std::vector<Index> stage_sizes(Index d, Index bytes) {
    const Index target = std::clamp((d + 4) / 8, kLeastStageBytes, kMostStageBytes);
    const Index count = std::max({Index(1), (bytes + target / 2) / target, ceil_div(bytes, kMostStageBytes)});
    std::vector<Index> sizes;
    for (Index s = 0; s < count; ++s) sizes.push_back((s + 1) * bytes / count - s * bytes / count);
    return sizes;
}

/// `wanted` of `count` numbers, ascending.
std::vector<Index> choose(Index count, Index wanted, std::uint64_t seed) {
    std::vector<Index> all(z(count));
    std::iota(all.begin(), all.end(), Index(0));
    if (count <= wanted) return all;
    Uniform uniform(seed, 0x5A3B1Eu, 0, 0);
    for (Index i = 0; i < wanted; ++i) {
        const double u = (double(uniform()) * 16777216 + double(uniform())) / 16777216;
        std::swap(all[z(i)], all[z(i + std::min(count - i - 1, Index(u * double(count - i))))]);
    }
    all.resize(z(wanted));
    std::sort(all.begin(), all.end());
    return all;
}

/// One stage on the residuals R.
class StageTrainer {
  public:
    StageTrainer(std::vector<float>& R, Index rows, Index d, Index bytes, const TrainOptions& options,
                 Progress& progress)
        : R_(R), rows_(rows), d_(d), ld_(ceil_div(d, kPad) * kPad), M_(2 * bytes), K_(kEntries * M_), options_(options),
          threads_(resolve_threads(options.threads)), progress_(progress) {}

    /// Fills in stage, entries (int8) and scales, and takes what the codes stand for from R.
    void train(Stage& stage, std::uint32_t number, std::int8_t* entries, float* scales) {
        const std::uint64_t seed = options_.seed + (std::uint64_t(number) << 40);
        codes_ = product_kmeans(R_, rows_, d_, ld_, M_, seed, threads_, progress_);
        const Index rounds = train_effort(options_.effort).rounds;
        solve();
        recode({0, kDescents, 1, 1}, 1, seed, 0);
        const float unit = float(error() / double(4 * M_));
        for (Index t = 0; t < rounds; ++t) {
            solve();
            const float T =
                kTrainFrom * std::pow(kTrainTo / kTrainFrom, float(t) / float(std::max<Index>(1, rounds - 1)));
            recode({kTrainSweeps, t + kLastRounds < rounds ? 0 : kDescents, T, T}, unit, seed, std::uint32_t(t + 1));
        }
        solve();
        round_entries(entries, scales);
        stage.unit = float(error() / double(4 * M_));
        stage.reach = reach();
        recode(code_schedule(Effort::standard), stage.unit, seed, 0xFFFF, kFromNone | kSubtract);
    }

  private:
    /// Least squares for the entries, the codes given: (H + ridge) C = sums, H the counts of pairs of entries.
    void solve() {
        std::vector<double> H(z(K_ * K_)), sums(z(K_ * d_));
        const auto idle = [&] { progress_.poll(); };
        parallel_for(
            M_, threads_,
            [&](Index m, int worker) {
                progress_.advance(0, worker == 0);
                add_group(m, H, sums);
            },
            idle, &progress_.stop);
        for (Index k = 0; k < K_; ++k) H[z(k * K_ + k)] += kRidge * double(rows_) / kEntries;
        if (!cholesky(K_, H.data())) throw Error(ErrorCode::internal, "the entries of a stage have no solution");
        const Index parts = std::min(std::max<Index>(threads_, ceil_div(d_, 512)), ceil_div(d_, kPad));
        entries_.resize(z(K_ * d_));
        parallel_for(
            parts, threads_,
            [&](Index part, int worker) {
                progress_.advance(0, worker == 0);
                const Index begin = part * d_ / parts, cols = (part + 1) * d_ / parts - begin;
                std::vector<double> x(z(K_ * cols));
                for (Index k = 0; k < K_; ++k) std::copy_n(&sums[z(k * d_ + begin)], cols, &x[z(k * cols)]);
                cholesky_solve(K_, H.data(), cols, x.data());
                for (Index k = 0; k < K_; ++k)
                    for (Index j = 0; j < cols; ++j) entries_[z(k * d_ + begin + j)] = float(x[z(k * cols + j)]);
            },
            idle, &progress_.stop);
    }

    /// Rows 16 m ... of H and of the sums; sums are those of float32 over kSumRows rows, added in float64.
    void add_group(Index m, std::vector<double>& H, std::vector<double>& sums) const {
        constexpr Index kSumRows = 2048;
        const bqq_kernels& kernel = kernels();
        AlignedArray<float> part(z(kEntries * ld_));
        for (Index first = 0; first < rows_; first += kSumRows) {
            std::fill_n(part.at, kEntries * ld_, 0.0f);
            for (Index i = first; i < std::min(rows_, first + kSumRows); ++i) {
                const std::uint8_t* code = codes_.data() + i * M_;
                kernel.axpy(z(ld_), 1, R_.data() + i * ld_, part.at + code[m] * ld_);
                double* h = &H[z((kEntries * m + code[m]) * K_)];
                for (Index g = 0; g < M_; ++g) h[kEntries * g + code[g]] += 1;
            }
            for (Index b = 0; b < kEntries; ++b)
                for (Index j = 0; j < d_; ++j) sums[z((kEntries * m + b) * d_ + j)] += double(part.at[b * ld_ + j]);
        }
    }

    enum { kFromNone = 1, kSubtract = 2 };
    /// New codes for the entries; their error is kept. kFromNone: not from those there are. kSubtract: R becomes what
    /// they leave.
    void recode(const CodeSchedule& schedule, float unit, std::uint64_t seed, std::uint32_t stream, int flags = 0) {
        const bqq_kernels& kernel = kernels();
        const StageTables tables(kernel, entries_.data(), M_, d_, reach());
        const std::vector<std::uint16_t> noise = code_noise(tables, schedule, unit, seed, stream);
        const Index blocks = ceil_div(rows_, kRowBlock);
        std::vector<std::unique_ptr<RowCoder>> coders(z(threads_));
        std::vector<std::vector<float>> rests(z(threads_));
        errors_.assign(z(blocks), 0.0);
        parallel_for(
            blocks, threads_,
            [&](Index block, int worker) {
                auto& coder = coders[z(worker)];
                if (!coder) coder = std::make_unique<RowCoder>(kernel, tables, schedule, noise.data());
                const Index first = block * kRowBlock, rows = std::min(kRowBlock, rows_ - first);
                std::uint32_t turns[kRowBlock]; // other noise for every vector, else all would err the same way
                for (Index i = 0; i < rows; ++i) turns[i] = std::uint32_t(first + i) * 2654435761u >> 8;
                std::uint8_t* codes = codes_.data() + first * M_;
                coder->code(R_.data() + first * ld_, ld_, rows, codes, !(flags & kFromNone), turns);
                auto& rest = rests[z(worker)];
                rest.assign(R_.begin() + first * ld_, R_.begin() + (first + rows) * ld_);
                coder->subtract(rest.data(), ld_, rows, codes);
                for (const float v : rest) errors_[z(block)] += double(v) * double(v);
                if (flags & kSubtract) std::copy(rest.begin(), rest.end(), R_.begin() + first * ld_);
                progress_.advance(rows, worker == 0);
            },
            [&] { progress_.poll(); }, &progress_.stop);
    }
    double error() const {
        double sum = 0;
        for (const double e : errors_) sum += e;
        return sum / double(rows_);
    }

    /// The largest cost of an entry among some of the rows, and some more.
    float reach() const {
        const bqq_kernels& kernel = kernels();
        const StageTables tables(kernel, entries_.data(), M_, d_, 1);
        AlignedArray<float> costs(z(kRowBlock * K_));
        float most = 0;
        const Index blocks = rows_ / kRowBlock, step = std::max<Index>(1, blocks / 32);
        for (Index block = 0; block <= blocks; block += step) {
            const Index first = block * kRowBlock, rows = std::min(kRowBlock, rows_ - first);
            kernel.gemm(z(rows), z(K_), z(d_), R_.data() + first * ld_, z(ld_), 1, tables.minus_twice.at, z(K_),
                        tables.squares.at, 0, nullptr, costs.at, z(K_));
            for (Index k = 0; k < rows * K_; ++k) most = std::max(most, std::fabs(costs.at[k]));
        }
        return kReach * most;
    }

    /// Entries in 8 bits and a scale each; entries_ becomes what they stand for, the error that of the codes there are.
    void round_entries(std::int8_t* out, float* scales) {
        for (Index k = 0; k < K_; ++k) {
            float* entry = entries_.data() + k * d_;
            float most = 0;
            for (Index j = 0; j < d_; ++j) most = std::max(most, std::fabs(entry[j]));
            scales[k] = most / 127;
            for (Index j = 0; j < d_; ++j) {
                const long rounded = most > 0 ? std::lrint(entry[j] / scales[k]) : 0;
                out[k * d_ + j] = std::int8_t(std::clamp(rounded, -127L, 127L));
                entry[j] = scales[k] * float(out[k * d_ + j]);
            }
        }
    }

    std::vector<float>& R_;
    const Index rows_, d_, ld_, M_, K_;
    const TrainOptions& options_;
    const int threads_;
    Progress& progress_;
    std::vector<float> entries_; // K x d
    std::vector<std::uint8_t> codes_;
    std::vector<double> errors_;
};

/// The training vectors, and what is found of them.
class Trainer {
  public:
    Trainer(Codec::Impl& codec, const float* X, const std::vector<Index>& chosen, Index ldx)
        : codec_(codec), rows_(Index(chosen.size())), d_(codec.d), ld_(ceil_div(d_, kPad) * kPad), X_(z(rows_ * ld_)) {
        codec.center.assign(z(d_), 0.0f);
        for (Index i = 0; i < rows_; ++i) codec.center_row(X + chosen[z(i)] * ldx, "X", chosen[z(i)], row(i), ld_);
        std::vector<double> mean(z(d_));
        for (Index i = 0; i < rows_; ++i)
            for (Index j = 0; j < d_; ++j) mean[z(j)] += double(row(i)[j]);
        for (Index j = 0; j < d_; ++j) codec.center[z(j)] = float(mean[z(j)] / double(rows_));
        float most = 0;
        for (Index i = 0; i < rows_; ++i)
            for (Index j = 0; j < d_; ++j) {
                row(i)[j] -= codec.center[z(j)];
                most = std::max(most, std::fabs(row(i)[j]));
            }
        if (most > 0 && most < 1e-15f)
            bad_argument("X differs from its mean by at most " + std::to_string(most) +
                         ", expected 1e-15 or more: scale it");
    }

    void train(const std::vector<Index>& sizes, const TrainOptions& options) {
        const Index rounds = train_effort(options.effort).rounds + 2;
        Progress progress(options.progress, rounds * rows_ * Index(sizes.size()));
        std::vector<float> R = X_;
        for (const Index bytes : sizes) {
            const Index entries = kEntries * 2 * bytes, before = Index(codec_.scales.size());
            codec_.entries.resize(z((before + entries) * d_));
            codec_.scales.resize(z(before + entries));
            Stage stage{bytes, 0, 0, 0, 0};
            StageTrainer(R, rows_, d_, bytes, options, progress)
                .train(stage, std::uint32_t(codec_.stages.size()), &codec_.entries[z(before * d_)],
                       &codec_.scales[z(before)]);
            codec_.stages.push_back(stage);
            found_.push_back(norms(R));
        }
        codec_.centered = codec_.has_norm() && range(found_.back(), 1).second < range(found_.back(), 0).second;
        for (std::size_t s = 0; s < found_.size(); ++s) {
            const auto [low, high] = range(found_[s], codec_.centered);
            codec_.stages[s].norm_low = float(low), codec_.stages[s].norm_step = float(high / 255);
        }
        progress.finish();
    }

  private:
    using Norms = std::vector<double>; // of w_hat, then of w_hat - c

    float* row(Index i) { return X_.data() + i * ld_; }

    Norms norms(const std::vector<float>& R) {
        Norms out(z(2 * rows_));
        for (Index i = 0; i < rows_; ++i)
            for (Index j = 0; j < d_; ++j) {
                const double w = double(row(i)[j]) - double(R[z(i * ld_ + j)]), whole = w + double(codec_.center[z(j)]);
                out[z(i)] += whole * whole, out[z(rows_ + i)] += w * w;
            }
        return out;
    }

    /// Where the norms begin and how far they go, a few apart.
    std::pair<double, double> range(const Norms& all, bool centered) const {
        Norms part(all.begin() + (centered ? rows_ : 0), all.begin() + (centered ? 2 * rows_ : rows_));
        std::sort(part.begin(), part.end());
        const Index cut = Index(kNormTail * double(rows_));
        return {part[z(cut)], part[z(rows_ - 1 - cut)] - part[z(cut)]};
    }

    Codec::Impl& codec_;
    const Index rows_, d_, ld_;
    std::vector<float> X_;     // less the mean
    std::vector<Norms> found_; // by stage
};

} // namespace

Codec Codec::train(const float* X, Index count, Index d, Index ldx, Index code_size, const TrainOptions& options) {
    if (count < 1) bad_value("the number of training vectors", count, "1 or more");
    if (d < 1 || d > kMaxDimension) bad_value("d", d, "1 to " + std::to_string(kMaxDimension));
    if (ldx < d) bad_value("ldx", ldx, std::to_string(d) + " or more");
    if (!X) bad_argument("X is null");
    if (code_size < kMinCodeSize || code_size > kMaxCodeSize)
        bad_value("code_size", code_size, std::to_string(kMinCodeSize) + " to " + std::to_string(kMaxCodeSize));
    if (int(options.metric) < 0 || int(options.metric) > 2) bad_value("metric", Index(options.metric), "0, 1 or 2");
    if (int(options.effort) < 0 || int(options.effort) > 2) bad_value("effort", Index(options.effort), "0, 1 or 2");
    auto codec = std::make_shared<Impl>();
    codec->metric = options.metric, codec->d = d;
    Trainer trainer(*codec, X, choose(count, train_effort(options.effort).rows, options.seed), ldx);
    trainer.train(stage_sizes(d, code_size - codec->has_norm()), options);
    if (!codec->bounded()) bad_argument("X is too large for the sums of a search in float32: scale it");
    codec->make_tables();
    return Codec(std::move(codec));
}

} // namespace bqq
