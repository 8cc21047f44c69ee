// IndexBqq by itself. What is tested is what FAISS's own tests ask of its indexes.
#include "test.hpp"

#include <faiss/impl/AuxIndexStructures.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <set>
#include <thread>

namespace {

const float kNaN = std::numeric_limits<float>::quiet_NaN(), kMost = std::numeric_limits<float>::max();

/// Ranks all members by their distances, one at a time, as the distance computer has them.
Found exhaustive(
    const IndexBqq& index, const std::vector<float>& Q, idx_t k,
    const std::function<bool(idx_t)>& member = [](idx_t) { return true; }) {
    const std::unique_ptr<faiss::DistanceComputer> computer(index.get_distance_computer());
    const float sign = index.metric_type == faiss::METRIC_L2 ? 1.0f : -1.0f;
    Found found;
    for (std::size_t q = 0; q < Q.size(); q += kD) {
        computer->set_query(&Q[q]);
        std::vector<std::pair<float, idx_t>> all;
        for (idx_t i = 0; i < index.ntotal; ++i)
            if (member(i)) all.emplace_back(sign * (*computer)(i), i);
        std::sort(all.begin(), all.end());
        for (idx_t i = 0; i < k; ++i) {
            const bool there = i < idx_t(all.size());
            found.distances.push_back(sign * (there ? all[std::size_t(i)].first : kMost));
            found.labels.push_back(there ? all[std::size_t(i)].second : -1);
        }
    }
    return found;
}

void test_arguments() {
    CHECK_FAISS("code_size is 1, expected 2 to 512", IndexBqq(kD, 1));
    CHECK_FAISS("code_size is 513", IndexBqq(kD, 513));
    CHECK_FAISS("d is 0", IndexBqq(0, 8));
    CHECK_FAISS("expected METRIC_L2 or METRIC_INNER_PRODUCT", IndexBqq(kD, 8, faiss::METRIC_L1));
    const auto X = testing::vectors(50, kD, 3);
    IndexBqq index(kD, 8);
    Found found{std::vector<float>(kK), Labels(kK)};
    std::vector<std::uint8_t> codes(8);
    CHECK(!index.is_trained);
    CHECK_FAISS("", index.add(50, X.data()));
    CHECK_FAISS("not trained", search(index, X));
    CHECK_FAISS("not trained", index.sa_encode(1, X.data(), codes.data()));
    CHECK_FAISS("not trained", index.save("untrained.bqq"));
    auto bad = X;
    bad[70] = kNaN;
    CHECK_FAISS("X", index.train(50, bad.data()));
    CHECK(!index.is_trained && index.ntotal == 0);
    bqq::TrainOptions options;
    options.metric = bqq::MetricType::cosine, options.effort = bqq::Effort::fast;
    CHECK_FAISS("cosine", IndexBqq(bqq::Codec::train(X.data(), 50, kD, kD, 8, options)));
}

void test_search(faiss::MetricType metric) {
    const Data a(metric);
    const bool l2 = metric == faiss::METRIC_L2;
    const Found found = search(*a.index, a.queries);
    CHECK(close(exhaustive(*a.index, a.queries, kK), found));
    CHECK(found == search(*a.index, a.queries));
    for (std::size_t i = 1; i < found.labels.size(); ++i)
        CHECK(i % kK == 0 ||
              (l2 ? found.distances[i - 1] <= found.distances[i] : found.distances[i - 1] >= found.distances[i]));
    // Distances are those of the vectors that the codes stand for, but for the rounding of norms.
    std::vector<float> decoded(kBase * kD);
    a.index->reconstruct_n(0, kBase, decoded.data());
    double error = 0, whole = 0;
    for (std::size_t i = 0; i < found.labels.size(); ++i) {
        double value = 0;
        for (std::size_t j = 0; j < kD; ++j) {
            const double q = a.queries[i / kK * kD + j], w = decoded[std::size_t(found.labels[i]) * kD + j];
            value += l2 ? (q - w) * (q - w) : q * w;
        }
        error += std::fabs(value - found.distances[i]), whole += std::fabs(value);
    }
    CHECK(error < (l2 ? 0.05 : 1e-4) * whole);

    Found exact;
    for (idx_t q = 0; q < kQueries; ++q) {
        std::vector<std::pair<double, idx_t>> all;
        for (idx_t i = 0; i < kBase; ++i) {
            double value = 0;
            for (idx_t j = 0; j < kD; ++j) {
                const double x = a.queries[std::size_t(q * kD + j)], y = a.row(i)[j];
                value += l2 ? (x - y) * (x - y) : -x * y;
            }
            all.emplace_back(value, i);
        }
        std::partial_sort(all.begin(), all.begin() + kK, all.end());
        for (idx_t i = 0; i < kK; ++i) exact.labels.push_back(all[std::size_t(i)].second);
    }
    CHECK(testing::recall(exact.labels, found.labels, kK) > 0.55);
}

void test_distances_are_positive() {
    Data a;
    std::vector<float> own(kBase * kD);
    a.index->reconstruct_n(0, kBase, own.data());
    const Found found = search(*a.index, own, 1);
    for (const float d : found.distances) CHECK(d >= 0);
    const std::unique_ptr<faiss::DistanceComputer> computer(a.index->get_distance_computer());
    for (idx_t i = 0; i < 100; ++i) {
        computer->set_query(&own[std::size_t(i) * kD]);
        CHECK((*computer)(i) >= 0);
        CHECK(computer->symmetric_dis(i, i) == 0);
    }
}

void test_computer(faiss::MetricType metric) {
    const Data a(metric);
    const std::unique_ptr<faiss::FlatCodesDistanceComputer> computer(a.index->get_FlatCodesDistanceComputer());
    std::vector<float> v(kD), w(kD);
    for (idx_t i = 0; i < 60; i += 3)
        for (idx_t j = 1; j < 40; j += 7) {
            a.index->reconstruct(i, v.data());
            a.index->reconstruct(j, w.data());
            double value = 0;
            for (std::size_t c = 0; c < kD; ++c)
                value += metric == faiss::METRIC_L2 ? (v[c] - w[c]) * (v[c] - w[c]) : v[c] * w[c];
            CHECK(std::fabs(value - computer->symmetric_dis(i, j)) < 1e-4 * (1 + std::fabs(value)));
            CHECK(computer->symmetric_dis(i, j) == computer->symmetric_dis(j, i));
        }
    computer->set_query(a.queries.data());
    // As FAISS calls it from 1.7.4 on.
    const bqq_plugin::CodeTables& tables = *a.index->tables();
    std::vector<float> table(tables.size());
    tables.query(a.queries.data(), table.data());
    const std::uint8_t* codes = a.index->codes.data();
    const std::uint8_t* const four[] = {codes, codes + 8 * 5, codes + 8 * 9, codes + 8 * 1999};
    float out[4];
    tables.distances(table.data(), four, out);
    for (int i = 0; i < 4; ++i) {
        CHECK(out[i] == tables.distance(table.data(), four[i]));
        CHECK(std::fabs(out[i]) == std::fabs(computer->distance_to_code(four[i])));
    }
}

void test_reconstruct() {
    Data a;
    std::vector<float> out(kD), all(kBase * kD), recons(kQueries * kK * kD);
    CHECK_FAISS("", a.index->reconstruct(-1, out.data()));
    CHECK_FAISS("", a.index->reconstruct(kBase, out.data()));
    CHECK_FAISS("", a.index->reconstruct_n(0, kBase + 1, all.data()));
    CHECK_FAISS("", a.index->reconstruct_n(-1, 2, all.data()));
    a.index->reconstruct_n(0, kBase, all.data());
    a.index->reconstruct(77, out.data());
    CHECK(std::equal(out.begin(), out.end(), &all[77 * kD]));
    Found found{std::vector<float>(kQueries * kK), Labels(kQueries * kK)};
    a.index->search_and_reconstruct(kQueries, a.queries.data(), kK, found.distances.data(), found.labels.data(),
                                    recons.data());
    CHECK(found == search(*a.index, a.queries));
    for (std::size_t i = 0; i < found.labels.size(); ++i)
        CHECK(std::equal(&recons[i * kD], &recons[i * kD] + kD, &all[std::size_t(found.labels[i]) * kD]));
}

void test_range_search(faiss::MetricType metric) {
    const Data a(metric);
    const Found all = search(*a.index, a.queries, kBase);
    for (const std::size_t rank : {5, 300, 1999}) {
        const float radius = all.distances[rank];
        faiss::RangeSearchResult result(kQueries);
        a.index->range_search(kQueries, a.queries.data(), radius, &result);
        CHECK(result.lims[0] == 0);
        for (std::size_t q = 0; q < kQueries; ++q) {
            std::set<idx_t> expected;
            for (std::size_t i = q * kBase; i < (q + 1) * kBase; ++i)
                if (metric == faiss::METRIC_L2 ? all.distances[i] < radius : all.distances[i] > radius)
                    expected.insert(all.labels[i]);
            CHECK(expected == std::set<idx_t>(result.labels + result.lims[q], result.labels + result.lims[q + 1]));
            CHECK(expected.size() == result.lims[q + 1] - result.lims[q]);
        }
    }
    faiss::RangeSearchResult none(kQueries), empty(0);
    a.index->range_search(kQueries, a.queries.data(), metric == faiss::METRIC_L2 ? 0 : kMost, &none);
    CHECK(none.lims[kQueries] == 0);
    a.index->range_search(0, a.queries.data(), 1, &empty);
    CHECK(empty.lims[0] == 0);
}

void test_nothing_and_too_many() {
    Data a;
    a.index->search(0, a.queries.data(), kK, nullptr, nullptr);
    a.index->add(0, a.base.data());
    CHECK(a.index->ntotal == kBase && a.index->codes.size() == std::size_t(kBase) * 8);
    CHECK_FAISS("k is 0", search(*a.index, a.queries, 0));
    const Found found = search(*a.index, a.queries, kBase + 3);
    for (std::size_t q = 0; q < kQueries; ++q)
        for (std::size_t i = kBase; i < kBase + 3; ++i) {
            CHECK(found.labels[q * (kBase + 3) + i] == -1);
            CHECK(found.distances[q * (kBase + 3) + i] == kMost);
        }
    a.index->reset();
    CHECK(a.index->is_trained && a.index->ntotal == 0);
    for (const idx_t label : search(*a.index, a.queries).labels) CHECK(label == -1);
    a.index->add(kBase, a.base.data());
    CHECK(a.index->ntotal == kBase);
}

void test_codes() {
    Data a;
    std::vector<std::uint8_t> once(kBase * 8), again(kBase * 8);
    a.index->sa_encode(kBase, a.base.data(), once.data());
    CHECK(std::equal(once.begin(), once.end(), a.index->codes.data()));
    for (idx_t i = 0; i < kBase; i += 37) a.index->sa_encode(1, a.row(i), &again[std::size_t(i) * 8]);
    for (std::size_t i = 0; i < kBase * 8; i += 37 * 8) CHECK(std::equal(&once[i], &once[i] + 8, &again[i]));
#pragma omp parallel for
    for (idx_t i = 0; i < kBase / 100; ++i) a.index->sa_encode(100, a.row(100 * i), &again[std::size_t(i) * 800]);
    CHECK(once == again);
    std::vector<float> x(kBase * kD), y(kBase * kD);
    a.index->sa_decode(kBase, once.data(), x.data());
    a.index->reconstruct_n(0, kBase, y.data());
    CHECK(x == y);
    CHECK_FAISS("2000 codes", a.index->train(kBase, a.base.data()));

    IndexBqq pieces(a.index->codec());
    for (idx_t i = 0; i < kBase; i += 250) {
        pieces.add(250, a.row(i));
        CHECK(search(pieces, a.queries, 1).labels[0] >= 0); // packs what is there so far
    }
    CHECK(search(pieces, a.queries) == search(*a.index, a.queries));
    auto bad = a.base;
    bad[4 * kD + 3] = kNaN;
    CHECK_FAISS("X", pieces.add(kBase, bad.data()));
    CHECK(pieces.ntotal == kBase && search(pieces, a.queries) == search(*a.index, a.queries));
    CHECK_FAISS("Q", search(pieces, bad));
    CHECK_FAISS("radius", faiss::RangeSearchResult r(1); pieces.range_search(1, a.queries.data(), kNaN, &r));
}

void test_remove() {
    Data a;
    search(*a.index, a.queries);
    CHECK(a.index->remove_ids(faiss::IDSelectorRange(-5, 0)) == 0);
    CHECK(a.index->remove_ids(faiss::IDSelectorRange(100, 300)) == 200);
    CHECK(a.index->ntotal == kBase - 200);
    std::vector<float> rest(a.base.begin(), a.base.begin() + 100 * kD);
    rest.insert(rest.end(), a.base.begin() + 300 * kD, a.base.end());
    IndexBqq other(a.index->codec());
    other.add(kBase - 200, rest.data());
    CHECK(search(*a.index, a.queries) == search(other, a.queries));
    // As many new ones as were removed: what was packed before is not what is there now.
    const idx_t two[] = {7, 1500};
    CHECK(a.index->remove_ids(faiss::IDSelectorArray(2, two)) == 2);
    CHECK(other.remove_ids(faiss::IDSelectorBatch(2, two)) == 2);
    a.index->add(2, a.row(150));
    other.add(2, a.row(150));
    CHECK(search(*a.index, a.queries) == search(other, a.queries));
    CHECK(a.index->remove_ids(faiss::IDSelectorRange(0, kBase)) == std::size_t(kBase - 200));
    CHECK(a.index->ntotal == 0 && search(*a.index, a.queries).labels[0] == -1);
}

/// FAISS has one from 1.7.4 on.
struct Or : faiss::IDSelector {
    const faiss::IDSelector &a, &b;
    Or(const faiss::IDSelector& a, const faiss::IDSelector& b) : a(a), b(b) {}
    bool is_member(idx_t id) const override { return a.is_member(id) || b.is_member(id); }
};

void test_selectors(faiss::MetricType metric) {
    const Data a(metric);
    std::vector<idx_t> some;
    std::vector<std::uint8_t> bitmap((kBase + 7) / 8);
    for (idx_t i = 0; i < kBase; i += 11) some.push_back(i);
    for (idx_t i = 0; i < kBase; i += 5) bitmap[std::size_t(i / 8)] |= std::uint8_t(1 << i % 8);
    const faiss::IDSelectorRange range(40, 700), none(kBase, kBase + 9);
    const faiss::IDSelectorArray array(some.size(), some.data());
    const faiss::IDSelectorBatch batch(some.size(), some.data());
    const faiss::IDSelectorBitmap bits(bitmap.size(), bitmap.data());
    const faiss::IDSelectorNot outside(&range);
    const Or either(range, bits);
    const faiss::IDSelectorAll all;
    const faiss::IDSelector* const selectors[] = {&range, &none, &array, &batch, &bits, &outside, &either, &all};
    for (const faiss::IDSelector* selector : selectors) {
        faiss::SearchParameters params;
        params.sel = const_cast<faiss::IDSelector*>(selector);
        const auto member = [&](idx_t i) { return selector->is_member(i); };
        const Found found = search(*a.index, a.queries, kK, &params);
        CHECK(close(exhaustive(*a.index, a.queries, kK, member), found));
        faiss::RangeSearchResult result(kQueries);
        const float radius = metric == faiss::METRIC_L2 ? 20.0f : 5.0f;
        a.index->range_search(kQueries, a.queries.data(), radius, &result, &params);
        for (std::size_t i = 0; i < result.lims[kQueries]; ++i) CHECK(member(result.labels[i]));
        CHECK((result.lims[kQueries] > 0) == (selector != &none));
    }
}

void test_merge() {
    Data a;
    IndexBqq first(a.index->codec()), second(a.index->codec());
    first.add(1200, a.row(0));
    second.add(kBase - 1200, a.row(1200));
    search(first, a.queries);
    first.merge_from(second);
    CHECK(first.ntotal == kBase && second.ntotal == 0);
    CHECK(search(first, a.queries) == search(*a.index, a.queries));
    first.merge_from(second); // of nothing
    CHECK(first.ntotal == kBase);
    Data other(faiss::METRIC_L2, 8), wider(faiss::METRIC_L2, 9);
    IndexBqq foreign(kD, 8);
    foreign.seed = 5, foreign.train_effort = bqq::Effort::fast;
    foreign.train(kBase, a.base.data());
    foreign.add(10, a.row(0));
    first.merge_from(*other.index); // trained alike
    CHECK(first.ntotal == 2 * kBase);
    CHECK_FAISS("same codec", first.merge_from(foreign));
    CHECK_FAISS("", first.merge_from(*wider.index));
    CHECK_FAISS("", foreign.merge_from(first, 3));
    CHECK(first.ntotal == 2 * kBase && foreign.ntotal == 10);
}

void test_threads() {
    Data a;
    const Found expected = search(*a.index, a.queries);
    a.index->changed();
    std::vector<Found> found(8);
    std::vector<std::thread> threads;
    for (Found& f : found) threads.emplace_back([&] { f = search(*a.index, a.queries); });
    for (std::thread& t : threads) t.join();
    for (const Found& f : found) CHECK(f == expected);
}

} // namespace

int main() {
    test_arguments();
    for (const auto metric : {faiss::METRIC_L2, faiss::METRIC_INNER_PRODUCT}) {
        test_search(metric);
        test_computer(metric);
        test_range_search(metric);
        test_selectors(metric);
    }
    test_distances_are_positive();
    test_reconstruct();
    test_nothing_and_too_many();
    test_codes();
    test_remove();
    test_merge();
    test_threads();
    std::puts("ok");
}
