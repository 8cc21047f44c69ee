// Vector codes: N vectors of d numbers as N codes of a few bytes that can be searched as they are.
//
//   x  ~  w_hat = c + sum_g C_g[code_g],    C_g: 16 entries of d numbers, code_g: 4 bits
//
// A compressed matrix whose rows are vectors has this form: four bits of Y choose among 16 sums of rows of Z. Here the
// entries are free, since one codebook serves all vectors; a scan looks up 16-entry tables either way, like that of a
// product quantiser of 4 bits. Groups come in *stages* of about one bit a dimension, each trained on what the ones
// before it leave, so that the first stages are a valid coarser code. A code is found by Gibbs sweeps over its groups
// at a falling temperature (Geman and Geman 1984), then descent, as the bits of a matrix are. Additive quantisers:
// Babenko and Lempitsky 2014; local search for their codes: Martinez et al. 2018.
#pragma once

#include "bqq/decompose.hpp"

#include <memory>

namespace bqq {

/// What search ranks by. Numbers are part of the C ABI (bqq_metric in bqq_ann.h).
enum class MetricType : int {
    l2 = 0,     ///< squared Euclidean distance, smallest first
    ip = 1,     ///< inner product, largest first
    cosine = 2, ///< cosine, largest first: vectors and queries are divided by their norm
};

constexpr Index kMaxDimension = 1 << 16;    ///< d
constexpr Index kMaxCodes = Index(1) << 39; ///< N
constexpr Index kMinCodeSize = 2, kMaxCodeSize = 512;

struct TrainOptions {
    MetricType metric = MetricType::l2;
    /// fast, standard, best: 16,384, 32,768, 131,072 training vectors at most (a random choice), 15, 25, 50 rounds.
    Effort effort = Effort::standard;
    std::uint64_t seed = 0;
    int threads = 0; ///< as DecomposeOptions::threads
    /// As DecomposeOptions::progress.
    std::function<bool(Index done, Index total)> progress;
};

struct CodeOptions {
    /// fast, standard, best: 10, 30, 100 sweeps.
    Effort effort = Effort::standard;
    int threads = 0;
    std::function<bool(Index done, Index total)> progress; ///< counts vectors
};

/// A trained codebook. Never changes; copies share it. Any number of threads may use one.
class BQQ_API Codec {
  public:
    /// From `count` vectors of d numbers, ldx >= d floats apart, finite and at most 1e15 in size. code_size: bytes of a
    /// code, 2 to 512; one of them is the norm, but for ip. The result depends on (X, code_size, metric, effort, seed)
    /// and the instruction set only. Fewer vectors than about 1,000 make a codec that fits no others. Throws
    /// Error(invalid_argument | cancelled), std::bad_alloc.
    static Codec train(const float* X, Index count, Index d, Index ldx, Index code_size,
                       const TrainOptions& options = {});
    /// A file of save. Throws Error(format | io).
    static Codec load(const std::string& path);
    void save(const std::string& path) const;

    Index d() const;
    Index code_size() const;
    Index stages() const;
    MetricType metric() const;
    /// Bytes of a code that each of the stages takes.
    std::vector<Index> stage_bytes() const;
    /// The first 1 <= k <= stages() stages. Its codes are the first bytes of this one's and a norm byte of their own.
    Codec prefix(Index k) const;

    /// codes: count x code_size() bytes. Group g is bits 4 (g % 2) to 4 (g % 2) + 3 of byte g/2; the last byte is the
    /// norm. A code depends on its vector, the codec, the effort and the instruction set: not on the vectors beside it.
    void encode(const float* X, Index count, Index ldx, std::uint8_t* codes, const CodeOptions& options = {}) const;
    /// The vectors that codes stand for; of norm about 1 for cosine. poll: as of reconstruct.
    void decode(const std::uint8_t* codes, Index count, float* out, Index ldo, int threads = 0,
                const std::function<void()>& poll = {}) const;

    /// For adapters. entries: 32 floats times d for each byte of groups, [groups, 16, d]; center: c, d numbers; norms:
    /// byte b stands for norm_low + b norm_step, the square of w_hat - origin. origin: c or zeros, d numbers.
    struct Parts {
        std::vector<float> entries, center, origin;
        float norm_low, norm_step;
    };
    Parts parts() const;

    struct Impl;
    explicit Codec(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
    const Impl& impl() const { return *impl_; }

  private:
    std::shared_ptr<const Impl> impl_;
};

} // namespace bqq
