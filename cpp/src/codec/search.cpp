#include "codec/search.hpp"

#include "arguments.hpp"
#include "codec/tuning.hpp"
#include "parallel.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

namespace bqq {

namespace detail {

namespace {

/// As many queries in a batch as keep all threads busy.
Index batch_size(Index queries, int threads) {
    return std::clamp(ceil_div(ceil_div(queries, threads), kScanQueries) * kScanQueries, Index(kScanQueries),
                      kQueryBatch);
}

/// The caller's poll for its own thread; others see that it has thrown.
struct Polls {
    mutable std::atomic<bool> stop{false};
    explicit Polls(const std::function<void()>& poll) : callers_(poll) {}
    const std::function<void()>& of(int worker) const { return worker == 0 ? callers_ : others_; }

  private:
    const std::function<void()>& callers_;
    const std::function<void()> others_ = [this] {
        if (stop) throw Error(ErrorCode::cancelled, "stopped");
    };
};

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

SearchTask::Ranked SearchTask::ranked(const QueryTables& tables, Index query, const std::vector<std::uint64_t>& keys,
                                      Index k) const {
    Ranked r{{}, 0, 0};
    r.found.reserve(keys.size());
    double sum = 0, squares = 0;
    for (std::size_t i = 0; i < keys.size(); ++i) {
        if (i + 1 < keys.size()) tables.prefetch(QueryTables::place_of(keys[i + 1]));
        const Index at = QueryTables::place_of(keys[i]);
        const float value = tables.value(query, at);
        const double more = double(value) - tables.scanned(query, QueryTables::sum_of(keys[i]));
        sum += more, squares += more * more;
        r.found.push_back({tables.rank(value), id(at)});
    }
    const double count = double(std::max<std::size_t>(keys.size(), 1));
    r.mean = sum / count;
    r.spread = std::sqrt(std::max(squares / count - r.mean * r.mean, 0.0));
    const auto end = r.found.begin() + std::min(k, Index(r.found.size()));
    std::partial_sort(r.found.begin(), end, r.found.end());
    return r;
}

/// The k-th result bounds the sums that better ones can have, but for what the scan does not see: stages that it leaves
/// out, rounding. What was ranked again tells how much that is. Where the scan kept fewer than such a bound asks for,
/// it goes once more.
void SearchTask::finish(const QueryTables& tables, const QueryTables::Keys& keys, const Wanted& wanted,
                        float* distances, std::int64_t* out) const {
    const Index k = wanted.k;
    std::vector<std::vector<Found>> found;
    std::vector<std::uint16_t> limits(keys.size(), 0);
    for (std::size_t q = 0; q < keys.size(); ++q) {
        Ranked r = ranked(tables, Index(q), keys[q], k);
        found.push_back(std::move(r.found));
        if (!wanted.again || Index(keys[q].size()) < wanted.most) continue;
        // Sums that were kept are low ones: their spread is less than that of all.
        const double spread = std::max(r.spread, tables.rounding(Index(q)));
        const double last =
            double(tables.value_of(tables.distance_of(found[q][z(k - 1)].rank))) - r.mean + wanted.spreads * spread;
        const std::uint16_t kept = QueryTables::sum_of(*std::max_element(keys[q].begin(), keys[q].end())),
                            limit = tables.limit(Index(q), last, 1);
        if (limit > kept + 1) limits[q] = limit;
    }
    if (std::any_of(limits.begin(), limits.end(), [](std::uint16_t limit) { return limit > 0; })) {
        const auto more = tables.scan({0, packed.blocks(), allowed, &wanted.poll}, kMostAgain * wanted.most, limits);
        for (std::size_t q = 0; q < keys.size(); ++q)
            if (limits[q]) found[q] = ranked(tables, Index(q), more[q], k).found;
    }
    const float most = std::numeric_limits<float>::max(), none = packed.codec().metric == MetricType::l2 ? most : -most;
    for (const std::vector<Found>& hits : found)
        for (Index i = 0; i < k; ++i) {
            const bool there = i < Index(hits.size());
            *distances++ = there ? tables.distance_of(hits[z(i)].rank) : none;
            *out++ = there ? hits[z(i)].id : -1;
        }
}

void SearchTask::search(Index k, float* distances, std::int64_t* out, const SearchOptions& options) const {
    check(options);
    if (k < 1) bad_value("k", k, "1 or more");
    if (queries && (!distances || !out)) bad_argument("distances or ids is null");
    if (options.rescore && options.rescore < k)
        bad_value("rescore", options.rescore, "k, " + std::to_string(k) + ", or more");
    const Index stages = Index(packed.codec().stages.size()), coarse = options.coarse ? options.coarse : stages;
    const Index most = options.rescore   ? options.rescore
                       : coarse < stages ? kCoarseRescore * std::min(k, packed.count()) + kCoarseMore
                                         : kRescore * std::min(k, packed.count()) + kRescoreMore * (stages + 1);
    const Wanted wanted{k, coarse, most, !options.rescore, coarse < stages ? kCoarseSpreads : kSpreads, options.poll};
    const int threads = resolve_threads(options.threads);
    const Index batch = batch_size(queries, threads), batches = ceil_div(queries, batch);
    packed.coarse_norms(coarse, options.poll);
    if (batches < threads && packed.blocks() > kThreadBlocks) return search_few(wanted, batch, distances, out, threads);
    const Polls polls(options.poll);
    parallel_for(
        batches, threads,
        [&](Index b, int worker) {
            const Index first = b * batch, count = std::min(batch, queries - first);
            const QueryTables tables(packed, Q + first * ldq, first, count, ldq, coarse);
            const std::function<void()>& poll = polls.of(worker);
            const auto keys = tables.scan({0, packed.blocks(), allowed, &poll}, most);
            finish(tables, keys, {k, coarse, most, wanted.again, wanted.spreads, poll}, distances + first * k,
                   out + first * k);
        },
        options.poll, &polls.stop);
}

/// Threads share the codes, since there are too few queries.
void SearchTask::search_few(const Wanted& wanted, Index batch, float* distances, std::int64_t* out, int threads) const {
    const Index batches = ceil_div(queries, batch), most = wanted.most;
    const Index ranges =
        std::min(ceil_div(threads, std::max<Index>(batches, 1)), ceil_div(packed.blocks(), kThreadBlocks));
    std::vector<std::unique_ptr<const QueryTables>> tables(z(batches));
    std::vector<QueryTables::Keys> keys(z(batches * ranges));
    const Polls polls(wanted.poll);
    for (Index b = 0; b < batches; ++b)
        tables[z(b)] = std::make_unique<const QueryTables>(packed, Q + b * batch * ldq, b * batch,
                                                           std::min(batch, queries - b * batch), ldq, wanted.coarse);
    parallel_for(
        batches * ranges, threads,
        [&](Index item, int worker) {
            const Index range = item % ranges, begin = range * packed.blocks() / ranges;
            keys[z(item)] = tables[z(item / ranges)]->scan(
                {begin, (range + 1) * packed.blocks() / ranges, allowed, &polls.of(worker)}, most);
        },
        wanted.poll, &polls.stop);
    for (Index b = 0; b < batches; ++b) {
        QueryTables::Keys all = std::move(keys[z(b * ranges)]);
        for (std::size_t q = 0; q < all.size(); ++q) {
            for (Index range = 1; range < ranges; ++range) {
                const auto& part = keys[z(b * ranges + range)][q];
                all[q].insert(all[q].end(), part.begin(), part.end());
            }
            if (Index(all[q].size()) <= most) continue;
            std::nth_element(all[q].begin(), all[q].begin() + most - 1, all[q].end());
            all[q].resize(z(most));
        }
        finish(*tables[z(b)], all, wanted, distances + b * batch * wanted.k, out + b * batch * wanted.k);
    }
}

VectorIndex::Range SearchTask::range_search(float radius, const SearchOptions& options) const {
    check(options);
    if (std::isnan(radius)) bad_argument("radius is not a number");
    const int threads = resolve_threads(options.threads);
    const Index batch = batch_size(queries, threads), batches = ceil_div(queries, batch);
    std::vector<std::vector<Found>> found(z(queries));
    const bool smaller = packed.codec().metric == MetricType::l2;
    const Polls polls(options.poll);
    parallel_for(
        batches, threads,
        [&](Index b, int worker) {
            const Index first = b * batch, count = std::min(batch, queries - first);
            const QueryTables tables(packed, Q + first * ldq, first, count, ldq, Index(packed.codec().stages.size()));
            std::vector<std::uint16_t> limits;
            for (Index q = 0; q < count; ++q)
                limits.push_back(tables.limit(q, double(tables.value_of(radius)), tables.most_off()));
            const auto keys = tables.scan({0, packed.blocks(), allowed, &polls.of(worker)}, 0, limits);
            for (Index q = 0; q < count; ++q) {
                if (polls.of(worker)) polls.of(worker)();
                for (const Found& f : ranked(tables, q, keys[z(q)], packed.count()).found) {
                    const float distance = tables.distance_of(f.rank);
                    if (smaller ? distance < radius : distance > radius)
                        found[z(first + q)].push_back({distance, f.id});
                }
            }
        },
        options.poll, &polls.stop);
    VectorIndex::Range range;
    range.limits.push_back(0);
    for (const auto& hits : found) {
        for (const Found& f : hits) range.distances.push_back(f.rank), range.ids.push_back(f.id);
        range.limits.push_back(Index(range.ids.size()));
    }
    return range;
}

} // namespace detail

} // namespace bqq
