// From queries to results, over threads.
#pragma once

#include "bqq/vector_index.hpp"
#include "codec/scan.hpp"

namespace bqq::detail {

/// Bits of the places that options.ids name, if it is not null: place_of(id) is -1 or more than `count` for unknown
/// ones.
template <class PlaceOf>
std::vector<std::uint64_t> allowed_places(const SearchOptions& options, Index count, PlaceOf&& place_of) {
    if (!options.ids) return {};
    std::vector<std::uint64_t> bits(z(ceil_div(count, kScanBlock) + 1));
    for (Index i = 0; i < options.among; ++i) {
        const Index at = place_of(options.ids[i]);
        if (at >= 0 && at < count) bits[z(at / kScanBlock)] |= std::uint64_t(1) << at % kScanBlock;
    }
    return bits;
}

/// Results of a query, and what it takes to find them.
struct Wanted {
    Index k, coarse, most; ///< results; stages of the scan; codes that are ranked again
    bool again;            ///< another scan where those may not be enough
    double spreads;        ///< standard deviations that it allows for
    const std::function<void()>& poll;
};

/// Queries, results and how, checked.
struct SearchTask {
    const Packed& packed;
    const std::int64_t* ids; ///< of the codes; null: their places
    Allowed allowed;
    const float* Q;
    Index queries, ldq;

    void check(const SearchOptions& options) const;
    void search(Index k, float* distances, std::int64_t* out, const SearchOptions& options) const;
    VectorIndex::Range range_search(float radius, const SearchOptions& options) const;

  private:
    struct Found {
        float rank; ///< by what is told of it, so that ties are those that a caller sees
        std::int64_t id;
        bool operator<(const Found& o) const { return rank < o.rank || (rank == o.rank && id < o.id); }
    };
    std::int64_t id(Index at) const { return ids ? ids[at] : at; }
    /// Codes by float32 sums, the first k of them best first.
    struct Ranked {
        std::vector<Found> found;
        double mean, spread; ///< of their values over what the scan's sums say
    };
    Ranked ranked(const QueryTables& tables, Index query, const std::vector<std::uint64_t>& keys, Index k) const;
    /// Results of the queries of `tables` from what a scan found.
    void finish(const QueryTables& tables, const QueryTables::Keys& keys, const Wanted& wanted, float* distances,
                std::int64_t* out) const;
    void search_few(const Wanted& wanted, Index batch, float* distances, std::int64_t* out, int threads) const;
};

} // namespace bqq::detail
