#pragma once

#include "index_bqq.hpp"
#include "testing.hpp"

#include <faiss/impl/FaissException.h>

#include <cmath>
#include <limits>

#define CHECK_FAISS(words, ...) CHECK_THROWS(faiss::FaissException, words, __VA_ARGS__)

using bqq_faiss::idx_t;
using bqq_faiss::IndexBqq;
using testing::Labels;

constexpr int kD = 24;
constexpr idx_t kBase = 2000, kQueries = 30, kK = 10;

struct Found {
    std::vector<float> distances;
    Labels labels;
    bool operator==(const Found& o) const { return labels == o.labels && distances == o.distances; }
};

inline Found search(const faiss::Index& index, const std::vector<float>& Q, idx_t k = kK,
                    const faiss::SearchParameters* params = nullptr) {
    const idx_t n = idx_t(Q.size()) / kD;
    Found found{std::vector<float>(std::size_t(n * k), -7), Labels(std::size_t(n * k), -7)};
    index.search(n, Q.data(), k, found.distances.data(), found.labels.data(), params);
    return found;
}

/// Labels alike but for ties, distances but for rounding.
inline bool close(const Found& a, const Found& b) {
    if (a.labels.size() != b.labels.size()) return false;
    for (std::size_t i = 0; i < a.labels.size(); ++i)
        if (std::fabs(a.distances[i] - b.distances[i]) > 1e-4f * (1 + std::fabs(a.distances[i]))) return false;
    return testing::recall(a.labels, b.labels, idx_t(a.labels.size())) > 0.99;
}

/// kBase vectors, in an index.
struct Data {
    std::vector<float> base = testing::vectors(kBase, kD, 1), queries = testing::vectors(kQueries, kD, 2);
    std::unique_ptr<IndexBqq> index;

    explicit Data(faiss::MetricType metric = faiss::METRIC_L2, std::size_t code_size = 8) {
        index = std::make_unique<IndexBqq>(kD, code_size, metric);
        index->train_effort = bqq::Effort::fast;
        index->train(kBase, base.data());
        index->add(kBase, base.data());
    }
    const float* row(idx_t i) const { return base.data() + i * kD; }
};
