// One pass over packed codes for a few queries.
#pragma once

#include "codec/packed.hpp"

#include <functional>

namespace bqq::detail {

constexpr int kPlaceBits = 40;    ///< of a key
constexpr Index kQueryBatch = 32; ///< queries whose tables are made together

/// Which codes may be found: bit v of word b, code kScanBlock b + v. Null: all.
using Allowed = const std::uint64_t*;

/// Tables of up to kQueryBatch queries, as float32 for all stages and in 8 bits for the first `coarse`.
class QueryTables {
  public:
    /// first: of the queries, for errors.
    QueryTables(const Packed& packed, const float* Q, Index first, Index queries, Index ldq, Index coarse);

    Index queries() const { return queries_; }
    /// What a value, smallest first whatever the metric, is in its terms, and back.
    float distance(float value) const;
    /// The distance, its negative where the largest is best.
    float rank(float value) const { return sign_ * distance(value); }
    float distance_of(float rank) const { return sign_ * rank; }
    float value_of(float distance) const;
    float value(Index query, Index at) const; ///< by float32 sums over the code at `at`

    void prefetch(Index at) const;
    /// What a sum of the scan says of the value; the standard deviation of that by rounding.
    double scanned(Index query, std::uint16_t sum) const { return offset_[z(query)] + double(sum) / scale_[z(query)]; }
    double rounding(Index query) const;
    /// The sum of a value, `off` above it; how much above it a sum may be by rounding.
    std::uint16_t limit(Index query, double value, double off) const;
    double most_off() const;
    static std::uint16_t sum_of(std::uint64_t key) { return std::uint16_t(key >> kPlaceBits); }
    static Index place_of(std::uint64_t key) { return Index(key & ((std::uint64_t(1) << kPlaceBits) - 1)); }

    /// For each query keys, sum << kPlaceBits | place, of the `most` least sums (0: all) among the blocks of a part, in
    /// no order; with limits, of those below the limit of the query, 0: it is left out. poll: may throw; null or empty:
    /// none.
    using Keys = std::vector<std::vector<std::uint64_t>>;
    struct Part {
        Index begin, end;
        Allowed allowed;
        const std::function<void()>* poll;
    };
    Keys scan(const Part& part, Index most, const std::vector<std::uint16_t>& limits = {}) const;

  private:
    struct Collector;
    void make_floats(const float* Q, Index first, Index ldq);
    void make_bytes(Index query);
    void start(const bqq_scan& call, Collector* const* out) const;
    void scan(const Part& part, const std::vector<Index>& which, std::vector<Collector>& out) const;

    const Packed& packed_;
    const Codec::Impl& codec_;
    const Index queries_, coarse_, K_, table_bytes_;
    const float sign_;
    AlignedArray<float> floats_; // queries x K
    std::vector<float> base_;    // what is the same for all codes
    AlignedArray<std::uint8_t> bytes_;
    std::vector<double> scale_, offset_; // value ~ offset + sum / scale
    std::vector<std::uint16_t> weights_;
    std::vector<int> shifts_; // that bring a sum below kBuckets
    const std::uint8_t* norms_;
};

} // namespace bqq::detail
