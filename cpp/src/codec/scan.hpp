// One pass over packed codes for a few queries.
#pragma once

#include "codec/packed.hpp"

namespace bqq::detail {

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
    float value_of(float distance) const;
    float value(Index query, Index at) const; ///< by float32 sums over the code at `at`

    /// Keys, sum << 40 | place, of the `most` least sums among blocks [begin, end), in no order.
    std::vector<std::vector<std::uint64_t>> best(Index begin, Index end, Index most, Allowed allowed) const;
    /// Of all whose value can be less than `value`.
    std::vector<std::vector<std::uint64_t>> below(float value, Index begin, Index end, Allowed allowed) const;

  private:
    struct Collector;
    void make_floats(const float* Q, Index first, Index ldq);
    void make_bytes(Index query);
    void start(const bqq_scan& call, Index first, bool filtered, std::vector<Collector>& out) const;
    void scan(Index begin, Index end, Allowed allowed, std::vector<Collector>& out) const;

    const Packed& packed_;
    const Codec::Impl& codec_;
    const Index queries_, coarse_, K_, table_bytes_;
    AlignedArray<float> floats_; // queries x K
    std::vector<float> base_;    // what is the same for all codes
    AlignedArray<std::uint8_t> bytes_;
    std::vector<double> scale_, offset_; // value ~ offset + sum / scale
    std::vector<std::uint16_t> weights_;
    std::vector<int> shifts_; // that bring a sum below kBuckets
    const std::uint8_t* norms_;
};

} // namespace bqq::detail
