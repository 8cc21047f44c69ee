// Search for codes and scan on every instruction set of this machine, against plain loops.
#include "aligned.hpp"
#include "check.hpp"
#include "reference.hpp"

#include "kernels/dispatch.hpp"

#include <algorithm>
#include <random>
#include <vector>

namespace {

template <class F> void on_each_isa(F&& f) {
    for (const std::string& name : bqq::detail::isa_available()) f(bqq::detail::kernels_capped(name));
}

std::size_t z(long i) { return std::size_t(i); }

// Entries, their products in units of 1/scale as the search wants them, and the costs of a vector.
struct Problem {
    std::size_t M, d, K;
    std::vector<double> C, x;
    std::vector<std::int16_t> products;
    std::vector<float> cost;
    std::vector<std::uint16_t> noise;
    bqq_code_search search;

    Problem(std::size_t M, std::size_t d, std::size_t sweeps, std::uint32_t seed)
        : M(M), d(d), K(kEntries * M), C(K * d), x(d), products(K * K), cost(K), noise(sweeps * K) {
        std::mt19937 rng(seed);
        std::normal_distribution<double> normal;
        for (double& v : C) v = normal(rng);
        for (double& v : x) v = 3 * normal(rng);
        const double scale = 40;
        for (std::size_t a = 0; a < K; ++a)
            for (std::size_t b = 0; b < K; ++b)
                products[a * K + b] =
                    a / kEntries == b / kEntries ? std::int16_t(0) : std::int16_t(std::lrint(2 * scale * dot(a, b)));
        for (std::size_t a = 0; a < K; ++a) {
            double inner = 0;
            for (std::size_t j = 0; j < d; ++j) inner += C[a * d + j] * x[j];
            cost[a] = float(dot(a, a) - 2 * inner);
        }
        for (auto& n : noise) n = std::uint16_t(rng() % 3000);
        search = {M, products.data(), float(scale), noise.data(), sweeps, 8, 0};
    }
    double dot(std::size_t a, std::size_t b) const {
        double sum = 0;
        for (std::size_t j = 0; j < d; ++j) sum += C[a * d + j] * C[b * d + j];
        return sum;
    }
    double error(const std::vector<std::uint8_t>& code) const {
        double sum = 0;
        for (std::size_t j = 0; j < d; ++j) {
            double rest = x[j];
            for (std::size_t m = 0; m < M; ++m) rest -= C[(kEntries * m + code[m]) * d + j];
            sum += rest * rest;
        }
        return sum;
    }
    std::vector<std::uint8_t> run(const bqq_kernels& table, std::size_t turn = 0, bool given = false) {
        aligned_memory::Aligned scores(2 * K, 0);
        std::vector<std::uint8_t> code(M, given ? 7 : 0);
        search.given = given;
        CHECK(table.search_code(&search, cost.data(), turn, reinterpret_cast<std::uint16_t*>(scores.at), code.data()));
        return code;
    }
};

} // namespace

TEST(codes_are_those_of_the_portable_search) {
    const bqq_kernels plain = bqq::detail::kernels_capped("generic");
    for (const std::size_t M : {1, 2, 5, 6, 31, 64})
        for (const std::size_t d : {1, 7, 32}) {
            Problem problem(M, d, 12, std::uint32_t(M * 100 + d));
            for (const bool given : {false, true})
                for (const std::size_t turn : {std::size_t(0), M - 1, std::size_t(1000003)}) {
                    const auto expected = problem.run(plain, turn, given);
                    on_each_isa([&](const bqq_kernels& table) { CHECK(problem.run(table, turn, given) == expected); });
                }
        }
}

TEST(no_other_entry_of_one_group_is_better) {
    for (const std::size_t M : {1, 4, 9}) {
        Problem problem(M, 12, 20, std::uint32_t(M));
        on_each_isa([&](const bqq_kernels& table) {
            auto code = problem.run(table);
            const double found = problem.error(code), rounding = double(2 * M) / 40;
            for (std::size_t m = 0; m < M; ++m)
                for (int entry = 0; entry < kEntries; ++entry) {
                    auto other = code;
                    other[m] = std::uint8_t(entry);
                    CHECK(problem.error(other) >= found - rounding);
                }
        });
    }
}

TEST(the_best_of_all_codes_of_two_groups) {
    int best = 0;
    for (std::uint32_t seed = 0; seed < 20; ++seed) {
        Problem problem(2, 6, 30, seed);
        for (std::size_t t = 0; t < 30; ++t) // colder and colder
            for (std::size_t k = 0; k < problem.K; ++k) problem.noise[t * problem.K + k] /= std::uint16_t(1 + t);
        const double found = problem.error(problem.run(bqq::detail::kernels()));
        double least = found;
        for (int a = 0; a < kEntries; ++a)
            for (int b = 0; b < kEntries; ++b)
                least = std::min(least, problem.error({std::uint8_t(a), std::uint8_t(b)}));
        best += found <= least + 0.2;
    }
    CHECK(best >= 18);
}

TEST(costs_that_do_not_fit_are_refused) {
    for (const float bad : {900.0f, -900.0f, 1e30f, -1e30f, INFINITY, NAN}) {
        Problem problem(3, 4, 1, 1);
        problem.cost[37] = bad;
        on_each_isa([&](const bqq_kernels& table) {
            aligned_memory::Aligned scores(2 * problem.K, 0);
            std::uint8_t code[3];
            CHECK_EQ(table.search_code(&problem.search, problem.cost.data(), 0,
                                       reinterpret_cast<std::uint16_t*>(scores.at), code),
                     0);
        });
    }
}

namespace {

struct Scan {
    std::size_t blocks, queries;
    std::vector<std::size_t> bytes;
    std::vector<std::vector<std::uint8_t>> codes, tables;
    std::vector<std::uint8_t> norms;
    std::vector<std::uint16_t> weights, limits;

    Scan(std::size_t blocks, std::size_t queries, std::vector<std::size_t> bytes, std::uint32_t seed)
        : blocks(blocks), queries(queries), bytes(std::move(bytes)), norms(blocks * kScanBlock) {
        std::mt19937 rng(seed);
        std::size_t groups = 0;
        for (const std::size_t b : this->bytes) {
            codes.emplace_back(blocks * kScanBlock * b);
            for (auto& c : codes.back()) c = std::uint8_t(rng() >> 5);
            groups += 2 * b;
        }
        for (auto& n : norms) n = std::uint8_t(rng() >> 5);
        for (std::size_t q = 0; q < queries; ++q) {
            tables.emplace_back(groups * kEntries);
            for (auto& t : tables.back()) t = std::uint8_t(rng() % (kMostScanned + 1));
            if (q == 0) std::fill(tables.back().begin(), tables.back().end(), std::uint8_t(kMostScanned));
            weights.push_back(std::uint16_t(q == 1 ? 65000 : rng() % 4000));
            limits.push_back(std::uint16_t(groups * 32 + rng() % 600));
        }
    }
    unsigned sum(std::size_t q, std::size_t b, int v, bool normed) const {
        unsigned sum = 0;
        const std::uint8_t* table = tables[q].data();
        for (std::size_t i = 0; i < bytes.size(); ++i)
            for (std::size_t j = 0; j < bytes[i]; ++j, table += 2 * kEntries) {
                const int code = codes[i][(b * bytes[i] + j) * kScanBlock + z(scan_place(v))];
                sum += table[code & 15] + table[kEntries + (code >> 4)];
            }
        if (normed) sum += unsigned(norms[b * kScanBlock + z(scan_place(v))]) * weights[q] / 256;
        return std::min(sum, 65535u);
    }
    void check(const bqq_kernels& table, bool normed) const {
        std::vector<const std::uint8_t*> parts, luts;
        for (const auto& c : codes) parts.push_back(c.data());
        for (const auto& t : tables) luts.push_back(t.data());
        aligned_memory::Aligned sums(2 * blocks * queries * kScanBlock + 64, 0xA5);
        std::vector<std::uint64_t> below(blocks * queries + 1, 0xA5A5);
        auto* out = reinterpret_cast<std::uint16_t*>(sums.at);
        const bqq_scan scan{blocks,
                            parts.size(),
                            queries,
                            parts.data(),
                            bytes.data(),
                            luts.data(),
                            normed ? norms.data() : nullptr,
                            weights.data(),
                            limits.data(),
                            out,
                            below.data()};
        table.scan(&scan);
        for (std::size_t b = 0; b < blocks; ++b)
            for (std::size_t q = 0; q < queries; ++q)
                for (int v = 0; v < kScanBlock; ++v) {
                    const unsigned expected = sum(q, b, v, normed);
                    CHECK_EQ(unsigned(out[(b * queries + q) * kScanBlock + z(v)]), expected);
                    CHECK_EQ(below[b * queries + q] >> v & 1, std::uint64_t(expected < limits[q]));
                }
        CHECK_EQ(below.back(), std::uint64_t(0xA5A5));
        CHECK_EQ(int(sums.at[2 * blocks * queries * kScanBlock]), 0xA5);
    }
};

} // namespace

TEST(places_of_a_block_are_a_permutation) {
    std::vector<int> seen(kScanBlock);
    for (int v = 0; v < kScanBlock; ++v) ++seen[z(scan_place(v))];
    CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
}

TEST(sums_and_limits_of_a_scan) {
    const std::vector<std::vector<std::size_t>> parts = {{1},       {2},  {3}, {4}, {15}, {7, 8}, {15, 16, 16, 16},
                                                         {1, 1, 5}, {512}};
    for (std::size_t i = 0; i < parts.size(); ++i)
        for (std::size_t queries = 1; queries <= kScanQueries; ++queries)
            for (const bool normed : {false, true}) {
                const Scan scan(i % 3 + 1, queries, parts[i], std::uint32_t(10 * i + queries));
                on_each_isa([&](const bqq_kernels& table) { scan.check(table, normed); });
            }
}
