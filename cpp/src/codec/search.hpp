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
    std::int64_t id(Index at) const { return ids ? ids[at] : at; }
    void rank(const QueryTables& tables, Index query, const std::vector<std::uint64_t>& keys, Index k, float* distances,
              std::int64_t* out) const;
    void search_few(Index k, Index most, Index batch, float* distances, std::int64_t* out,
                    const SearchOptions& options) const;
};

} // namespace bqq::detail
