// IndexBqq inside other indexes of FAISS, and codes in inverted lists.
#include "test.hpp"

#include <faiss/Clustering.h>
#include <faiss/IndexFlat.h>
#include <faiss/IndexHNSW.h>
#include <faiss/IndexIDMap.h>
#include <faiss/IndexIVFFlat.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/IndexRefine.h>
#include <faiss/IndexShards.h>
#include <faiss/VectorTransform.h>
#include <faiss/impl/AuxIndexStructures.h>

#include <algorithm>
#include <memory>
#include <set>

namespace {

using bqq_faiss::IndexIVFBqq;

const float kNaN = std::numeric_limits<float>::quiet_NaN();

double recall(const Found& truth, const Found& found) { return testing::recall(truth.labels, found.labels, kK); }

Found exact(const Data& a, faiss::MetricType metric = faiss::METRIC_L2) {
    faiss::IndexFlat flat(kD, metric);
    flat.add(kBase, a.base.data());
    return search(flat, a.queries);
}

void test_id_map() {
    Data a;
    const Found plain = search(*a.index, a.queries);
    IndexBqq inner(a.index->codec());
    faiss::IndexIDMap2 map(&inner);
    Labels ids;
    for (idx_t i = 0; i < kBase; ++i) ids.push_back(10 * i + 3);
    CHECK_FAISS("", map.add(kBase, a.base.data()));
    map.add_with_ids(kBase, a.base.data(), ids.data());
    Found found = search(map, a.queries);
    CHECK(found.distances == plain.distances);
    for (std::size_t i = 0; i < plain.labels.size(); ++i) CHECK(found.labels[i] == 10 * plain.labels[i] + 3);
    std::vector<float> x(kD), y(kD);
    map.reconstruct(1003, x.data());
    a.index->reconstruct(100, y.data());
    CHECK(x == y);
    CHECK_FAISS("", map.reconstruct(1004, x.data()));

    faiss::RangeSearchResult near(kQueries);
    map.range_search(kQueries, a.queries.data(), 15, &near);
    CHECK(near.lims[kQueries] > 0);
    for (std::size_t i = 0; i < near.lims[kQueries]; ++i) CHECK(near.labels[i] % 10 == 3);

    // What was found first goes and comes back.
    Labels gone;
    for (std::size_t i = 0; i < found.labels.size(); i += kK) gone.push_back(found.labels[i]);
    std::sort(gone.begin(), gone.end());
    gone.erase(std::unique(gone.begin(), gone.end()), gone.end());
    CHECK(map.remove_ids(faiss::IDSelectorBatch(gone.size(), gone.data())) == gone.size());
    CHECK(map.ntotal == kBase - idx_t(gone.size()));
    for (const idx_t label : search(map, a.queries).labels)
        CHECK(label % 10 == 3 && !std::binary_search(gone.begin(), gone.end(), label));
    CHECK(map.remove_ids(faiss::IDSelectorBatch(gone.size(), gone.data())) == 0);
    for (const idx_t id : gone) map.add_with_ids(1, a.row(id / 10), &id);
    Found again = search(map, a.queries);
    CHECK(again.distances == found.distances && map.ntotal == kBase);
    for (std::size_t i = 0; i < again.labels.size(); i += kK) CHECK(again.labels[i] == found.labels[i]);
}

void test_refine() {
    const Data a(faiss::METRIC_L2, 5), finer(faiss::METRIC_L2, 16);
    const Found truth = exact(a);
    IndexBqq base(a.index->codec()), better(finer.index->codec());
    faiss::IndexRefine refine(&base, &better);
    refine.k_factor = 10;
    refine.add(kBase, a.base.data());
    const Found found = search(refine, a.queries);
    CHECK(recall(truth, found) > recall(truth, search(base, a.queries)) + 0.1);
    CHECK(recall(search(better, a.queries), found) > 0.9);

    IndexBqq first(a.index->codec());
    faiss::IndexRefineFlat flat(&first);
    flat.k_factor = 60;
    flat.add(kBase, a.base.data());
    CHECK(recall(truth, search(flat, a.queries)) > 0.97);
}

void test_hnsw(faiss::MetricType metric) {
    const Data a(metric);
    const Found all = search(*a.index, a.queries);
    IndexBqq storage(a.index->codec());
    faiss::IndexHNSW graph(&storage, 16);
    graph.hnsw.efConstruction = 60, graph.hnsw.efSearch = 80;
    CHECK(graph.metric_type == metric);
    graph.is_trained = storage.is_trained;
    for (const idx_t label : search(graph, a.queries).labels) CHECK(label == -1);
    graph.add(kBase, a.base.data());
    CHECK(graph.ntotal == kBase && storage.ntotal == kBase);
    const Found found = search(graph, a.queries);
    CHECK(recall(all, found) > 0.9);
    const float sign = metric == faiss::METRIC_L2 ? 1 : -1; // best first, as FAISS has it for both metrics
    for (std::size_t i = 1; i < found.labels.size(); ++i)
        if (i % kK && found.labels[i] >= 0) CHECK(sign * found.distances[i - 1] <= sign * found.distances[i]);
    std::vector<float> x(kD), y(kD);
    graph.reconstruct(17, x.data());
    a.index->reconstruct(17, y.data());
    CHECK(x == y);
    auto bad = a.queries;
    std::fill_n(bad.begin(), kD, kNaN);
    const Found odd = search(graph, bad); // no error can leave that loop, and none does; the others are as before
    CHECK(std::equal(odd.labels.begin() + kK, odd.labels.end(), found.labels.begin() + kK));
    CHECK_FAISS("X", graph.add(kQueries, bad.data()));
}

void test_untrained_hnsw() {
    const Data a;
    IndexBqq storage(kD, 8);
    storage.train_effort = bqq::Effort::fast;
    faiss::IndexHNSW graph(&storage, 16);
    for (const idx_t label : search(graph, a.queries).labels) CHECK(label == -1);
    graph.train(kBase, a.base.data());
    graph.add(kBase, a.base.data());
    CHECK(recall(search(storage, a.queries), search(graph, a.queries)) > 0.7);
}

/// IndexBqq finds the lists of vectors and queries.
void test_coarse_quantizer() {
    const Data a(faiss::METRIC_L2, 16);
    const Found truth = exact(a);
    for (const char mode : {0, 2}) {
        IndexBqq coarse(a.index->codec());
        faiss::IndexIVFFlat ivf(&coarse, kD, 16);
        ivf.quantizer_trains_alone = mode, ivf.cp.niter = 5;
        ivf.train(kBase, a.base.data());
        CHECK(coarse.ntotal == 16 && ivf.is_trained);
        ivf.add(kBase, a.base.data());
        ivf.nprobe = 16;
        CHECK(close(truth, search(ivf, a.queries)));
        ivf.nprobe = 4;
        CHECK(recall(truth, search(ivf, a.queries)) > 0.7);

        // Errors leave its parallel loop as one of FAISS.
        auto bad = a.queries;
        bad[11 * kD] = kNaN;
        CHECK_FAISS("Q", search(ivf, bad));
        CHECK(recall(truth, search(ivf, a.queries)) > 0.7);
    }
}

void test_inverted_lists(faiss::MetricType metric) {
    const Data a(metric);
    faiss::IndexFlat coarse(kD, metric), other_coarse(kD, metric);
    IndexIVFBqq ivf(&coarse, a.index->codec(), 20);
    ivf.cp.niter = 5;
    ivf.train(kBase, a.base.data());
    ivf.set_direct_map_type(faiss::DirectMap::Array);
    ivf.add(kBase, a.base.data());
    ivf.nprobe = 20;
    const Found all = search(*a.index, a.queries), found = search(ivf, a.queries);
    CHECK(close(all, found));
    ivf.nprobe = 5;
    CHECK(recall(all, search(ivf, a.queries)) > 0.7);
    ivf.nprobe = 20;

    const float radius = metric == faiss::METRIC_L2 ? 20.0f : 5.0f;
    faiss::RangeSearchResult one(kQueries), two(kQueries);
    a.index->range_search(kQueries, a.queries.data(), radius, &one);
    ivf.range_search(kQueries, a.queries.data(), radius, &two);
    const auto far = double(one.lims[kQueries]) - double(two.lims[kQueries]); // sums are rounded in another order
    CHECK(one.lims[kQueries] > 0 && std::fabs(far) <= 2);

    std::vector<float> x(kD), y(kD);
    for (const idx_t i : {0, 99, 1999}) {
        ivf.reconstruct(i, x.data());
        a.index->reconstruct(i, y.data());
        CHECK(x == y);
    }
    std::vector<std::uint8_t> codes(100 * ivf.sa_code_size());
    std::vector<float> out(100 * kD), expected(100 * kD);
    CHECK(ivf.sa_code_size() == 9); // a byte for the list
    ivf.sa_encode(100, a.base.data(), codes.data());
    ivf.sa_decode(100, codes.data(), out.data());
    a.index->reconstruct_n(0, 100, expected.data());
    for (std::size_t i = 0; i < out.size(); ++i) CHECK(std::fabs(out[i] - expected[i]) < 1e-4f);

    faiss::IDSelectorRange range(500, 900);
    faiss::SearchParameters params;
    params.sel = &range;
    faiss::SearchParametersIVF ivf_params;
    ivf_params.sel = &range, ivf_params.nprobe = 20;
    CHECK(close(search(*a.index, a.queries, kK, &params), search(ivf, a.queries, kK, &ivf_params)));

    ivf.set_direct_map_type(faiss::DirectMap::NoMap);
    CHECK(ivf.remove_ids(range) == 400 && ivf.ntotal == kBase - 400);
    for (const idx_t label : search(ivf, a.queries).labels) CHECK(!range.is_member(label));
    other_coarse.add(20, coarse.get_xb());
    IndexIVFBqq other(&other_coarse, a.index->codec(), 20);
    other.is_trained = true;
    Labels ids;
    for (idx_t i = 500; i < 900; ++i) ids.push_back(i);
    other.add_with_ids(400, a.row(500), ids.data());
    ivf.merge_from(other, 0);
    CHECK(ivf.ntotal == kBase && other.ntotal == 0 && close(all, search(ivf, a.queries)));
}

void test_shards() {
    const Data a;
    const Found all = search(*a.index, a.queries);
    IndexBqq one(a.index->codec()), two(a.index->codec());
    faiss::IndexShards shards(kD, true, true);
    shards.add_shard(&one);
    shards.add_shard(&two);
    shards.add(kBase, a.base.data());
    CHECK(one.ntotal == kBase / 2 && two.ntotal == kBase / 2);
    CHECK(close(all, search(shards, a.queries)));
    auto bad = a.queries;
    bad[5] = kNaN;
    CHECK_FAISS("Q", search(shards, bad)); // of threads of FAISS
    CHECK(close(all, search(shards, a.queries)));
}

void test_pre_transform() {
    const Data a;
    faiss::RandomRotationMatrix rotation(kD, kD);
    rotation.init(3);
    IndexBqq inner(kD, 8);
    inner.train_effort = bqq::Effort::fast;
    faiss::IndexPreTransform index(&rotation, &inner);
    index.train(kBase, a.base.data());
    index.add(kBase, a.base.data());
    CHECK(recall(exact(a), search(index, a.queries)) > 0.5);
}

} // namespace

int main() {
    test_id_map();
    test_refine();
    for (const auto metric : {faiss::METRIC_L2, faiss::METRIC_INNER_PRODUCT}) {
        test_hnsw(metric);
        test_inverted_lists(metric);
    }
    test_untrained_hnsw();
    test_coarse_quantizer();
    test_shards();
    test_pre_transform();
    std::puts("ok");
}
