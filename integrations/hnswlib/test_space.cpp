// Graphs of hnswlib over codes, beside exhaustive search of the same codes.
#include "code_space.hpp"
#include "testing.hpp"

#include <bqq/vector_index.hpp>

#include <cmath>
#include <limits>
#include <memory>
#include <thread>

namespace {

using bqq_hnswlib::CodeSpace;
using testing::Labels;

constexpr int kD = 24;
constexpr std::int64_t kBase = 3000, kQueries = 40, kK = 10, kCode = 8;

struct Data {
    std::vector<float> base = testing::vectors(kBase, kD, 1), queries = testing::vectors(kQueries, kD, 2);
    bqq::Codec codec;
    CodeSpace space;
    std::vector<std::uint8_t> elements;

    explicit Data(bqq::MetricType metric) : codec(train(base, metric)), space(codec) {
        elements = space.encode(base.data(), kBase);
    }
    static bqq::Codec train(const std::vector<float>& base, bqq::MetricType metric) {
        bqq::TrainOptions options;
        options.metric = metric, options.effort = bqq::Effort::fast;
        return bqq::Codec::train(base.data(), kBase, kD, kD, kCode, options);
    }
    const void* element(std::int64_t i) { return &elements[std::size_t(i) * space.get_data_size()]; }
    /// Two threads.
    void fill(hnswlib::HierarchicalNSW<float>& graph) {
        graph.addPoint(element(0), 0);
        const auto add = [&](std::int64_t first) {
            for (std::int64_t i = first; i < kBase; i += 2) graph.addPoint(element(i), hnswlib::labeltype(i));
        };
        std::thread other(add, 2);
        add(1);
        other.join();
    }
};

struct Found {
    std::vector<float> distances;
    Labels labels;
};

Found search(const hnswlib::AlgorithmInterface<float>& index, Data& a) {
    Found found;
    for (std::size_t q = 0; q < kQueries; ++q) {
        const CodeSpace::Query query(a.space, &a.queries[q * kD]);
        for (const auto& [distance, label] : index.searchKnnCloserFirst(query.data(), kK)) {
            found.distances.push_back(distance);
            found.labels.push_back(std::int64_t(label));
        }
    }
    CHECK(found.labels.size() == std::size_t(kQueries * kK));
    return found;
}

void test_metric(bqq::MetricType metric) {
    Data a(metric);
    CHECK(a.space.get_data_size() == kCode + 1);
    std::vector<std::uint8_t> codes(kBase * kCode);
    a.codec.encode(a.base.data(), kBase, kD, codes.data());
    Found expected{std::vector<float>(kQueries * kK), Labels(kQueries * kK)};
    bqq::VectorIndex index(a.codec);
    index.add_codes(codes.data(), kBase);
    index.search(a.queries.data(), kQueries, kD, kK, expected.distances.data(), expected.labels.data());

    hnswlib::BruteforceSearch<float> all(&a.space, kBase);
    for (std::int64_t i = 0; i < kBase; ++i) all.addPoint(a.element(i), hnswlib::labeltype(i));
    const Found found = search(all, a);
    CHECK(testing::recall(expected.labels, found.labels, kK) > 0.99);
    for (std::size_t i = 0; i < found.labels.size(); ++i) {
        const float own = expected.distances[i];
        CHECK(std::fabs((metric == bqq::MetricType::l2 ? own : 1 - own) - found.distances[i]) <
              1e-4f * (1 + std::fabs(own)));
    }

    hnswlib::HierarchicalNSW<float> graph(&a.space, kBase, 16, 80);
    a.fill(graph);
    graph.setEf(100);
    const Found near = search(graph, a);
    CHECK(testing::recall(found.labels, near.labels, kK) > 0.95);

    // Saved by hnswlib and by bqq, loaded over another space.
    graph.saveIndex("graph.hnsw");
    a.codec.save("codec.bqq");
    CodeSpace space(bqq::Codec::load("codec.bqq"));
    hnswlib::HierarchicalNSW<float> loaded(&space, "graph.hnsw");
    loaded.setEf(100);
    const Found again = search(loaded, a);
    CHECK(again.labels == near.labels && again.distances == near.distances);

    loaded.markDelete(hnswlib::labeltype(near.labels[0]));
    const CodeSpace::Query query(space, a.queries.data());
    for (const auto& hit : loaded.searchKnnCloserFirst(query.data(), kK))
        CHECK(std::int64_t(hit.second) != near.labels[0]);
}

/// Codes among themselves: as far apart as what they stand for.
void test_codes_are_symmetric() {
    Data a(bqq::MetricType::l2);
    const auto distance = a.space.get_dist_func();
    std::vector<float> decoded(100 * kD);
    std::vector<std::uint8_t> codes(100 * kCode);
    a.codec.encode(a.base.data(), 100, kD, codes.data());
    a.codec.decode(codes.data(), 100, decoded.data(), kD);
    for (std::size_t i = 0; i < 100; i += 9)
        for (std::size_t j = 0; j < 100; j += 7) {
            double square = 0;
            for (std::size_t c = 0; c < kD; ++c) square += std::pow(decoded[i * kD + c] - decoded[j * kD + c], 2);
            const void *x = a.element(std::int64_t(i)), *y = a.element(std::int64_t(j));
            const float value = distance(x, y, a.space.get_dist_func_param());
            CHECK(std::fabs(value - square) < 1e-4 * (1 + square));
            CHECK(value == distance(y, x, a.space.get_dist_func_param()));
        }
}

void test_bad_input() {
    Data a(bqq::MetricType::l2);
    auto bad = a.queries;
    bad[3] = std::numeric_limits<float>::quiet_NaN();
    CHECK_THROWS(bqq::Error, "x[3] is not finite", CodeSpace::Query(a.space, bad.data()));
    CHECK_THROWS(bqq::Error, "X", a.space.encode(bad.data(), kQueries));
    CHECK_THROWS(bqq::Error, "-1", a.space.encode(bad.data(), -1));
    CHECK(a.space.encode(nullptr, 0).empty());
}

} // namespace

int main() {
    for (const auto metric : {bqq::MetricType::l2, bqq::MetricType::ip, bqq::MetricType::cosine}) test_metric(metric);
    test_codes_are_symmetric();
    test_bad_input();
    std::puts("ok");
}
