#include "codec/search.hpp"

#include "arguments.hpp"
#include "codec/tuning.hpp"
#include "parallel.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace bqq {

namespace detail {

namespace {

constexpr std::uint64_t kPlace = (std::uint64_t(1) << 40) - 1; // of a key

Index coarse_stages(const Packed& packed, const SearchOptions& options) {
    return options.coarse ? options.coarse : Index(packed.codec().stages.size());
}

/// As many queries in a batch as keep all threads busy.
Index batch_size(Index queries, int threads) {
    return std::clamp(ceil_div(ceil_div(queries, threads), kScanQueries) * kScanQueries, Index(kScanQueries),
                      kQueryBatch);
}

} // namespace

void SearchTask::check(const SearchOptions& options) const {
    const Index stages = Index(packed.codec().stages.size());
    if (queries < 0) bad_value("the number of queries", queries, "0 or more");
    if (ldq < packed.codec().d) bad_value("ldq", ldq, std::to_string(packed.codec().d) + " or more");
    if (!Q && queries) bad_argument("Q is null");
    if (options.coarse < 0 || options.coarse > stages)
        bad_value("coarse", options.coarse, "0 to " + std::to_string(stages) + ", the stages of the codec");
    if (options.rescore < 0) bad_value("rescore", options.rescore, "0 or more");
    if (options.among < 0) bad_value("among", options.among, "0 or more");
}

void SearchTask::rank(const QueryTables& tables, Index query, const std::vector<std::uint64_t>& keys, Index k,
                      float* distances, std::int64_t* out) const {
    struct Found {
        float value;
        std::int64_t id;
        bool operator<(const Found& o) const { return value < o.value || (value == o.value && id < o.id); }
    };
    std::vector<Found> found;
    found.reserve(keys.size());
    for (const std::uint64_t key : keys)
        found.push_back({tables.value(query, Index(key & kPlace)), id(Index(key & kPlace))});
    const Index count = std::min(k, Index(found.size()));
    std::partial_sort(found.begin(), found.begin() + count, found.end());
    const float most = std::numeric_limits<float>::max();
    for (Index i = 0; i < k; ++i) {
        distances[i] = i < count                                 ? tables.distance(found[z(i)].value)
                       : packed.codec().metric == MetricType::l2 ? most
                                                                 : -most;
        out[i] = i < count ? found[z(i)].id : -1;
    }
}

void SearchTask::search(Index k, float* distances, std::int64_t* out, const SearchOptions& options) const {
    check(options);
    if (k < 1) bad_value("k", k, "1 or more");
    if (queries && (!distances || !out)) bad_argument("distances or ids is null");
    if (options.rescore && options.rescore < k)
        bad_value("rescore", options.rescore, "k, " + std::to_string(k) + ", or more");
    const Index stages = Index(packed.codec().stages.size()), coarse = coarse_stages(packed, options);
    const Index most = options.rescore   ? options.rescore
                       : coarse < stages ? kCoarseRescore * std::min(k, packed.count()) + kCoarseMore
                                         : kRescore * std::min(k, packed.count()) + kRescoreMore * (stages + 1);
    const int threads = resolve_threads(options.threads);
    const Index batch = batch_size(queries, threads), batches = ceil_div(queries, batch);
    if (batches < threads && packed.blocks() > kThreadBlocks)
        return search_few(k, most, batch, distances, out, options);
    parallel_for(batches, threads, [&](Index b, int) {
        const Index first = b * batch, count = std::min(batch, queries - first);
        const QueryTables tables(packed, Q + first * ldq, first, count, ldq, coarse);
        const auto keys = tables.best(0, packed.blocks(), most, allowed);
        for (Index q = 0; q < count; ++q)
            rank(tables, q, keys[z(q)], k, distances + (first + q) * k, out + (first + q) * k);
    });
}

/// Threads share the codes, since there are too few queries.
void SearchTask::search_few(Index k, Index most, Index batch, float* distances, std::int64_t* out,
                            const SearchOptions& options) const {
    const int threads = resolve_threads(options.threads);
    const Index batches = ceil_div(queries, batch), ranges = std::min(ceil_div(threads, std::max<Index>(batches, 1)),
                                                                      ceil_div(packed.blocks(), kThreadBlocks));
    std::vector<std::unique_ptr<const QueryTables>> tables(z(batches));
    std::vector<std::vector<std::vector<std::uint64_t>>> keys(z(batches * ranges));
    for (Index b = 0; b < batches; ++b)
        tables[z(b)] = std::make_unique<const QueryTables>(packed, Q + b * batch * ldq, b * batch,
                                                           std::min(batch, queries - b * batch), ldq,
                                                           coarse_stages(packed, options));
    parallel_for(batches * ranges, threads, [&](Index item, int) {
        const Index range = item % ranges;
        keys[z(item)] = tables[z(item / ranges)]->best(range * packed.blocks() / ranges,
                                                       (range + 1) * packed.blocks() / ranges, most, allowed);
    });
    for (Index i = 0; i < queries; ++i) {
        std::vector<std::uint64_t> all;
        for (Index range = 0; range < ranges; ++range) {
            const auto& part = keys[z(i / batch * ranges + range)][z(i % batch)];
            all.insert(all.end(), part.begin(), part.end());
        }
        if (Index(all.size()) > most) {
            std::nth_element(all.begin(), all.begin() + most - 1, all.end());
            all.resize(z(most));
        }
        rank(*tables[z(i / batch)], i % batch, all, k, distances + i * k, out + i * k);
    }
}

VectorIndex::Range SearchTask::range_search(float radius, const SearchOptions& options) const {
    check(options);
    if (std::isnan(radius)) bad_argument("radius is not a number");
    const int threads = resolve_threads(options.threads);
    const Index batch = batch_size(queries, threads), batches = ceil_div(queries, batch);
    struct Found {
        float value;
        std::int64_t id;
    };
    std::vector<std::vector<Found>> found(z(queries));
    const bool smaller = packed.codec().metric == MetricType::l2;
    parallel_for(batches, threads, [&](Index b, int) {
        const Index first = b * batch, count = std::min(batch, queries - first);
        const QueryTables tables(packed, Q + first * ldq, first, count, ldq, Index(packed.codec().stages.size()));
        const auto keys = tables.below(tables.value_of(radius), 0, packed.blocks(), allowed);
        for (Index q = 0; q < count; ++q) {
            auto& out = found[z(first + q)];
            for (const std::uint64_t key : keys[z(q)]) {
                const float value = tables.value(q, Index(key & kPlace)), distance = tables.distance(value);
                if (smaller ? distance < radius : distance > radius) out.push_back({value, id(Index(key & kPlace))});
            }
            std::sort(out.begin(), out.end(), [](const Found& x, const Found& y) {
                return x.value < y.value || (x.value == y.value && x.id < y.id);
            });
            for (Found& f : out) f.value = tables.distance(f.value);
        }
    });
    VectorIndex::Range range;
    range.limits.push_back(0);
    for (const auto& hits : found) {
        for (const Found& f : hits) range.distances.push_back(f.value), range.ids.push_back(f.id);
        range.limits.push_back(Index(range.ids.size()));
    }
    return range;
}

} // namespace detail

} // namespace bqq
