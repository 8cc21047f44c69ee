// What the test programs of C++ integrations share.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <random>
#include <string>
#include <vector>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                               \
            std::exit(1);                                                                                              \
        }                                                                                                              \
    } while (false)

/// `body` throws an Error whose text contains `words`.
#define CHECK_THROWS(Error, words, ...)                                                                                \
    do {                                                                                                               \
        std::string caught = "nothing";                                                                                \
        try {                                                                                                          \
            __VA_ARGS__;                                                                                               \
        } catch (const Error& error) {                                                                                 \
            caught = error.what();                                                                                     \
        }                                                                                                              \
        if (caught == "nothing" || caught.find(words) == std::string::npos) {                                          \
            std::fprintf(stderr, "%s:%d: \"%s\" was thrown, not \"%s\"\n", __FILE__, __LINE__, caught.c_str(), words); \
            std::exit(1);                                                                                              \
        }                                                                                                              \
    } while (false)

namespace testing {

using Labels = std::vector<std::int64_t>;

/// count x d: clusters with a falling spectrum, as real vectors have.
inline std::vector<float> vectors(std::int64_t count, int d, unsigned seed) {
    const int clusters = 40;
    std::mt19937 centers(5), own(seed);
    std::normal_distribution<float> normal;
    std::vector<float> middle(std::size_t(clusters * d)), out;
    for (float& m : middle) m = normal(centers);
    for (std::int64_t i = 0; i < count; ++i) {
        const std::size_t c = own() % clusters;
        for (int j = 0; j < d; ++j)
            out.push_back(middle[c * std::size_t(d) + std::size_t(j)] + 0.8f * normal(own) / (1 + 0.1f * float(j)));
    }
    return out;
}

/// Share of the true labels that were found, of k for each query.
inline double recall(const Labels& truth, const Labels& found, std::int64_t k) {
    std::size_t hits = 0;
    for (std::size_t i = 0; i < truth.size(); ++i)
        for (std::size_t j = i / std::size_t(k) * std::size_t(k), end = j + std::size_t(k); j < end; ++j)
            hits += found[j] == truth[i];
    return double(hits) / double(truth.size());
}

} // namespace testing
