// Codecs, exhaustive search and indexes: against decoded vectors in float64.
#include "check.hpp"
#include "files.hpp"

#include "bqq/bqq.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <random>
#include <thread>
#include <vector>

using bqq::Codec;
using bqq::Error;
using bqq::Index;
using bqq::MetricType;
using bqq::SearchOptions;
using bqq::VectorIndex;

namespace {

std::size_t z(Index i) { return std::size_t(i); }

struct Rows {
    Index count, d;
    std::vector<float> v;
    const float* data() const { return v.data(); }
};

// Around a few centres, as embeddings are.
Rows clustered(Index count, Index d, std::uint32_t seed, double spread = 0.5) {
    std::mt19937 rng(seed), centres(7);
    std::normal_distribution<double> normal;
    std::vector<double> centre(z(8 * d));
    for (double& c : centre) c = normal(centres);
    Rows rows{count, d, std::vector<float>(z(count * d))};
    for (Index i = 0; i < count; ++i) {
        const Index at = Index(rng() % 8);
        for (Index j = 0; j < d; ++j) rows.v[z(i * d + j)] = float(centre[z(at * d + j)] + spread * normal(rng));
    }
    return rows;
}

Codec train(const Rows& rows, Index code_size, MetricType metric = MetricType::l2, int threads = 0) {
    bqq::TrainOptions options;
    options.metric = metric, options.effort = bqq::Effort::fast, options.threads = threads;
    return Codec::train(rows.data(), rows.count, rows.d, rows.d, code_size, options);
}
std::vector<std::uint8_t> encode(const Codec& codec, const Rows& rows, int threads = 0) {
    std::vector<std::uint8_t> codes(z(rows.count * codec.code_size()));
    bqq::CodeOptions options;
    options.threads = threads;
    codec.encode(rows.data(), rows.count, rows.d, codes.data(), options);
    return codes;
}
Rows decode(const Codec& codec, const std::vector<std::uint8_t>& codes) {
    const Index count = Index(codes.size()) / codec.code_size();
    Rows out{count, codec.d(), std::vector<float>(z(count * codec.d()))};
    codec.decode(codes.data(), count, out.v.data(), codec.d());
    return out;
}
double square(const float* a, const float* b, Index d) {
    double sum = 0;
    for (Index j = 0; j < d; ++j) sum += (double(a[j]) - double(b[j])) * (double(a[j]) - double(b[j]));
    return sum;
}
double relative_error(const Rows& a, const Rows& b) {
    double error = 0, all = 0;
    std::vector<double> mean(z(a.d));
    for (Index i = 0; i < a.count; ++i)
        for (Index j = 0; j < a.d; ++j) mean[z(j)] += double(a.v[z(i * a.d + j)]) / double(a.count);
    for (Index i = 0; i < a.count; ++i)
        for (Index j = 0; j < a.d; ++j) {
            error += std::pow(double(a.v[z(i * a.d + j)]) - double(b.v[z(i * a.d + j)]), 2);
            all += std::pow(double(a.v[z(i * a.d + j)]) - mean[z(j)], 2);
        }
    return error / all;
}

struct Results {
    std::vector<float> distances;
    std::vector<std::int64_t> ids;
};
Results search(const VectorIndex& index, const Rows& Q, Index k, const SearchOptions& options = {}) {
    Results r{std::vector<float>(z(Q.count * k)), std::vector<std::int64_t>(z(Q.count * k))};
    index.search(Q.data(), Q.count, Q.d, k, r.distances.data(), r.ids.data(), options);
    return r;
}
template <class F> bool refused(F&& f, bqq::ErrorCode code = bqq::ErrorCode::invalid_argument) {
    try {
        f();
    } catch (const Error& e) {
        return e.code() == code;
    }
    return false;
}

} // namespace

TEST(more_bytes_less_error_and_new_rows_as_good) {
    const Rows rows = clustered(3000, 24, 1), fresh = clustered(500, 24, 2);
    double before = 1;
    for (const Index size : {4, 8, 16}) {
        const Codec codec = train(rows, size);
        CHECK_EQ(codec.code_size(), size);
        const double error = relative_error(fresh, decode(codec, encode(codec, fresh)));
        CHECK(error < before * 0.7);
        before = error;
    }
    CHECK(before < 0.05);
}

TEST(odd_shapes) {
    for (const Index d : {1, 2, 3, 17, 64})
        for (const Index size : {2, 3, 4, 9})
            for (const MetricType metric : {MetricType::l2, MetricType::ip, MetricType::cosine}) {
                const Rows rows = clustered(200, d, std::uint32_t(d));
                const Codec codec = train(rows, size, metric);
                CHECK_EQ(codec.code_size(), size);
                for (const float v : decode(codec, encode(codec, rows)).v) CHECK(std::isfinite(v));
            }
}

TEST(few_equal_and_constant_vectors) {
    const Codec one = train(clustered(1, 5, 1), 4);
    CHECK(relative_error(clustered(1, 5, 1), decode(one, encode(one, clustered(1, 5, 1)))) != 0.5);
    Rows equal{50, 6, std::vector<float>(300, 2.5f)};
    const Codec same = train(equal, 4);
    for (const float v : decode(same, encode(same, equal)).v) CHECK_NEAR(v, 2.5, 1e-6);
    Rows half = clustered(300, 6, 3); // columns that never change
    for (Index i = 0; i < 300; ++i) half.v[z(i * 6 + 2)] = -7, half.v[z(i * 6 + 5)] = 0;
    const Codec columns = train(half, 6);
    const Rows back = decode(columns, encode(columns, half));
    for (Index i = 0; i < 300; ++i) CHECK_NEAR(back.v[z(i * 6 + 2)], -7, 1e-3);
}

TEST(threads_and_neighbours_change_nothing) {
    const Rows rows = clustered(700, 20, 5);
    const Codec codec = train(rows, 8, MetricType::l2, 1), other = train(rows, 8, MetricType::l2, 3);
    CHECK(codec.parts().entries == other.parts().entries);
    const auto codes = encode(codec, rows, 1);
    CHECK(codes == encode(other, rows, 3));
    for (const Index i : {0, 31, 32, 699}) {
        const Rows alone{1, 20, {rows.v.begin() + i * 20, rows.v.begin() + (i + 1) * 20}};
        CHECK(std::equal(codes.begin() + i * 8, codes.begin() + (i + 1) * 8, encode(codec, alone).begin()));
    }
}

TEST(vectors_far_outside_get_the_nearest_code_too) {
    const Codec codec = train(clustered(1000, 8, 1), 3);
    for (const double far : {30.0, 1e4, 1e9}) {
        Rows row = clustered(1, 8, 9);
        for (float& v : row.v) v = float(double(v) * far);
        const auto found = decode(codec, encode(codec, row));
        std::vector<std::uint8_t> codes; // all of two bytes
        for (int a = 0; a < 65536; ++a)
            for (const int byte : {a & 255, a >> 8, 0}) codes.push_back(std::uint8_t(byte));
        const Rows all = decode(codec, codes);
        double least = INFINITY;
        for (Index a = 0; a < all.count; ++a) least = std::min(least, square(all.data() + a * 8, row.data(), 8));
        CHECK(square(found.data(), row.data(), 8) <= least * 1.001);
    }
}

TEST(a_prefix_is_a_coarser_codec) {
    const Rows rows = clustered(2000, 64, 3);
    const Codec codec = train(rows, 32);
    CHECK(codec.stages() >= 2);
    const auto codes = encode(codec, rows);
    double before = 1;
    for (Index k = 1; k <= codec.stages(); ++k) {
        const Codec coarse = codec.prefix(k);
        const auto shorter = encode(coarse, rows);
        const Index bytes = coarse.code_size() - 1;
        for (Index i = 0; i < rows.count; ++i)
            CHECK(std::equal(&shorter[z(i * coarse.code_size())], &shorter[z(i * coarse.code_size() + bytes)],
                             &codes[z(i * 32)]));
        const double error = relative_error(rows, decode(coarse, shorter));
        CHECK(error < before);
        before = error;
    }
    CHECK(codec.prefix(codec.stages()).parts().entries == codec.parts().entries);
    CHECK(refused([&] { codec.prefix(0); }));
    CHECK(refused([&] { codec.prefix(codec.stages() + 1); }));
}

TEST(search_ranks_decoded_vectors) {
    for (const MetricType metric : {MetricType::l2, MetricType::ip, MetricType::cosine})
        for (const double shift : {0.0, 20.0}) { // norms of vectors, or of vectors less their mean
            Rows rows = clustered(1500, 16, 4);
            for (float& v : rows.v) v += float(shift);
            const Codec codec = train(rows, 8, metric);
            const auto codes = encode(codec, rows);
            const Rows back = decode(codec, codes);
            Rows Q = clustered(20, 16, 77);
            for (float& v : Q.v) v += float(shift);
            const Index k = 5;
            std::vector<float> distances(z(Q.count * k));
            std::vector<std::int64_t> ids(z(Q.count * k));
            SearchOptions options;
            options.rescore = 1500;
            VectorIndex index(codec);
            index.add_codes(codes.data(), rows.count);
            index.search(Q.data(), Q.count, Q.d, k, distances.data(), ids.data(), options);
            const auto parts = codec.parts();
            for (Index q = 0; q < Q.count; ++q) {
                std::vector<double> all;
                double norm = 0;
                for (Index j = 0; j < 16; ++j) norm += std::pow(double(Q.v[z(q * 16 + j)]), 2);
                for (Index i = 0; i < rows.count; ++i) { // with the norm that is stored
                    double inner = 0, query = 0;
                    for (Index j = 0; j < 16; ++j) {
                        const double gain = metric == MetricType::cosine ? 1 / std::sqrt(norm) : 1,
                                     o = metric == MetricType::ip ? 0 : double(parts.origin[z(j)]),
                                     x = double(Q.v[z(q * 16 + j)]) * gain - o;
                        inner += x * (double(back.v[z(i * 16 + j)]) - o), query += x * x;
                    }
                    const double stored =
                                     double(parts.norm_low) + double(codes[z(i * 8 + 7)]) * double(parts.norm_step),
                                 l2 = query + stored - 2 * inner;
                    all.push_back(metric == MetricType::l2 ? l2 : metric == MetricType::ip ? -inner : l2 / 2 - 1);
                }
                std::vector<double> sorted = all;
                std::sort(sorted.begin(), sorted.end());
                const double scale = std::fabs(sorted.back()) + norm;
                for (Index r = 0; r < k; ++r) {
                    const double value = metric == MetricType::l2 ? distances[z(q * k + r)] : -distances[z(q * k + r)];
                    CHECK_NEAR(value, std::max(sorted[z(r)], metric == MetricType::l2 ? 0.0 : -1e30), 2e-5 * scale);
                    CHECK_NEAR(value, std::max(all[z(ids[z(q * k + r)])], metric == MetricType::l2 ? 0.0 : -1e30),
                               2e-5 * scale);
                }
            }
        }
}

TEST(default_rescoring_loses_next_to_nothing) {
    const Rows rows = clustered(20000, 32, 4), Q = clustered(50, 32, 8);
    const Codec codec = train(rows, 16);
    VectorIndex index(codec);
    index.add(rows.data(), rows.count, rows.d);
    SearchOptions exact;
    exact.rescore = rows.count;
    const Results best = search(index, Q, 10, exact);
    const auto hits = [&](const Results& found) {
        Index count = 0;
        for (Index q = 0; q < Q.count; ++q)
            for (Index r = 0; r < 10; ++r)
                count += std::count(&best.ids[z(q * 10)], &best.ids[z(q * 10)] + 10, found.ids[z(q * 10 + r)]);
        return double(count) / double(10 * Q.count);
    };
    CHECK(hits(search(index, Q, 10)) > 0.995); // tight clusters: most queries are scanned twice
    SearchOptions coarse;
    coarse.coarse = 1;
    CHECK(hits(search(index, Q, 10, coarse)) > 0.6);
    coarse.rescore = 2000;
    CHECK(hits(search(index, Q, 10, coarse)) > 0.98);
}

TEST(results_do_not_depend_on_threads_or_batches) {
    const Rows rows = clustered(40000, 8, 4), Q = clustered(9, 8, 8);
    const Codec codec = train(rows, 4);
    VectorIndex index(codec);
    index.add(rows.data(), rows.count, rows.d);
    SearchOptions options;
    options.threads = 1;
    const Results one = search(index, Q, 7, options);
    for (const int threads : {2, 3, 8}) {
        options.threads = threads;
        const Results more = search(index, Q, 7, options);
        CHECK(more.ids == one.ids && more.distances == one.distances);
        for (Index q = 0; q < Q.count; ++q) {
            const Rows alone{1, 8, {Q.v.begin() + q * 8, Q.v.begin() + (q + 1) * 8}};
            const Results single = search(index, alone, 7, options);
            CHECK(std::equal(single.ids.begin(), single.ids.end(), &one.ids[z(q * 7)]));
        }
    }
}

TEST(fewer_than_k_and_none) {
    const Codec codec = train(clustered(100, 4, 1), 3);
    const Rows Q = clustered(2, 4, 2);
    VectorIndex index(codec);
    for (const Index count : {0, 3}) {
        const Rows rows = clustered(count, 4, 3);
        index.add(rows.data(), count, 4);
        const Results r = search(index, Q, 5);
        for (Index i = 0; i < 10; ++i) {
            CHECK_EQ(r.ids[z(i)] == -1, i % 5 >= count);
            if (i % 5 >= count) CHECK(r.distances[z(i)] > 3e38f);
        }
    }
    const Results none = search(index, Rows{0, 4, {}}, 5);
    CHECK(none.ids.empty());
}

TEST(removing_and_adding_loses_none) {
    const Rows rows = clustered(5000, 8, 4);
    const Codec codec = train(rows, 5);
    VectorIndex index(codec), untouched(codec);
    index.add(rows.data(), rows.count, 8);
    untouched.add(rows.data(), rows.count, 8);
    const auto codes = encode(codec, rows);
    std::vector<std::int64_t> order(5000);
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = std::int64_t(i);
    std::mt19937 rng(1);
    SearchOptions coarse;
    coarse.coarse = 1;
    const Rows Q = clustered(5, 8, 9);
    search(index, Q, 3, coarse);
    for (int round = 0; round < 3; ++round) {
        std::shuffle(order.begin(), order.end(), rng);
        const Index some = round == 2 ? 5000 : 1777;
        CHECK_EQ(index.remove(order.data(), some), some);
        CHECK_EQ(index.remove(order.data(), some), Index(0));
        CHECK_EQ(index.size(), 5000 - some);
        for (const std::int64_t id : search(index, Q, 50).ids)
            CHECK(std::find(order.begin(), order.begin() + some, id) == order.begin() + some);
        std::vector<std::uint8_t> again;
        for (Index i = 0; i < some; ++i)
            again.insert(again.end(), &codes[z(order[z(i)] * 5)], &codes[z(order[z(i)] * 5)] + 5);
        index.add_codes(again.data(), some, order.data());
    }
    CHECK_EQ(index.size(), Index(5000));
    std::vector<std::uint8_t> back(codes.size());
    std::sort(order.begin(), order.end());
    index.codes(order.data(), 5000, back.data());
    CHECK(back == codes);
    SearchOptions all;
    all.rescore = 5000;
    CHECK(search(index, Q, 20, all).ids == search(untouched, Q, 20, all).ids);
}

TEST(ids_that_are_there_or_not) {
    const Codec codec = train(clustered(100, 4, 1), 3);
    VectorIndex index(codec);
    const Rows rows = clustered(4, 4, 2);
    const std::int64_t ids[] = {10, 7, std::int64_t(1) << 60, 0}, twice[] = {1, 2, 3, 1}, known[] = {1, 2, 3, 7},
                       negative[] = {-1, 1, 2, 3};
    index.add(rows.data(), 4, 4, ids);
    for (const std::int64_t* bad : {twice, known, negative}) CHECK(refused([&] { index.add(rows.data(), 4, 4, bad); }));
    CHECK_EQ(index.size(), Index(4));
    index.add(rows.data(), 1, 4);
    CHECK_EQ(index.ids().back(), (std::int64_t(1) << 60) + 1);
    float out[4];
    const std::int64_t missing = 5, there = 7;
    CHECK(refused([&] { index.reconstruct(&missing, 1, out, 4); }));
    index.reconstruct(&there, 1, out, 4);
    SearchOptions only;
    const std::int64_t among[] = {7, 99, 0};
    only.ids = among, only.among = 3;
    const Results r = search(index, Rows{1, 4, {rows.v.begin(), rows.v.begin() + 4}}, 3, only);
    CHECK(r.ids[0] == 0 || r.ids[0] == 7);
    CHECK(r.ids[1] == 0 || r.ids[1] == 7);
    CHECK_EQ(r.ids[2], std::int64_t(-1));
}

TEST(range_search_finds_all_within) {
    for (const MetricType metric : {MetricType::l2, MetricType::ip, MetricType::cosine}) {
        const Rows rows = clustered(900, 8, 4), Q = clustered(6, 8, 5);
        const Codec codec = train(rows, 6, metric);
        VectorIndex index(codec);
        index.add(rows.data(), rows.count, 8);
        SearchOptions all;
        all.rescore = 900;
        const Results exact = search(index, Q, 900, all);
        for (const Index at : {0, 10, 450, 899}) {
            const float radius = exact.distances[z(at)];
            const auto range = index.range_search(Q.data(), Q.count, 8, radius);
            CHECK_EQ(Index(range.limits.size()), Q.count + 1);
            for (Index q = 0; q < Q.count; ++q) {
                Index expected = 0;
                for (Index i = 0; i < 900; ++i) {
                    const float d = exact.distances[z(q * 900 + i)];
                    expected += metric == MetricType::l2 ? d < radius : d > radius;
                }
                const Index first = range.limits[z(q)], found = range.limits[z(q + 1)] - first;
                CHECK_EQ(found, expected);
                for (Index i = 0; i < found; ++i) {
                    CHECK_EQ(range.ids[z(first + i)], exact.ids[z(q * 900 + i)]);
                    CHECK_EQ(range.distances[z(first + i)], exact.distances[z(q * 900 + i)]);
                }
            }
        }
        CHECK(refused([&] { index.range_search(Q.data(), 6, 8, NAN); }));
    }
}

TEST(readers_beside_a_writer) {
    const Rows rows = clustered(3000, 8, 4), Q = clustered(4, 8, 5);
    const Codec codec = train(rows, 5);
    VectorIndex index(codec);
    index.add(rows.data(), 500, 8);
    std::atomic<bool> stop{false};
    std::atomic<int> wrong{0};
    std::vector<std::thread> readers;
    for (int t = 0; t < 3; ++t)
        readers.emplace_back([&] {
            SearchOptions options;
            options.threads = 1, options.coarse = 1;
            while (!stop) {
                const Results r = search(index, Q, 5, options);
                for (const std::int64_t id : r.ids) wrong += id < 0 || id >= 3000;
            }
        });
    for (Index first = 500; first < 3000; first += 100) {
        index.add(rows.data() + first * 8, 100, 8);
        const std::int64_t gone[] = {first - 400, first - 399};
        index.remove(gone, 2);
    }
    stop = true;
    for (auto& reader : readers) reader.join();
    CHECK_EQ(wrong.load(), 0);
    CHECK_EQ(index.size(), Index(3000 - 50));
}

TEST(files_of_codecs_and_indexes) {
    const files::TemporaryDirectory folder;
    for (const MetricType metric : {MetricType::l2, MetricType::ip, MetricType::cosine}) {
        const Rows rows = clustered(200, 9, 4), Q = clustered(3, 9, 5);
        const Codec codec = train(rows, 6, metric);
        const std::string path = folder.file("codec"), other = folder.file("index");
        codec.save(path);
        const Codec loaded = Codec::load(path);
        CHECK(loaded.parts().entries == codec.parts().entries && loaded.metric() == metric);
        CHECK(encode(loaded, rows) == encode(codec, rows));
        VectorIndex index(codec);
        index.add(rows.data(), 200, 9);
        const std::int64_t gone[] = {3, 150};
        index.remove(gone, 2);
        index.save(other);
        VectorIndex opened = VectorIndex::open(other);
        CHECK_EQ(opened.size(), Index(198));
        CHECK(search(opened, Q, 9).ids == search(index, Q, 9).ids);
        opened.add(rows.data(), 3, 9); // what was mapped becomes its own
        CHECK_EQ(opened.ids().back(), std::int64_t(202));
        CHECK(search(VectorIndex::open(other), Q, 9).ids == search(index, Q, 9).ids);
        CHECK(Codec::load(other).parts().entries == codec.parts().entries);
        CHECK(refused([&] { VectorIndex::open(path); }, bqq::ErrorCode::format));
    }
    VectorIndex empty(train(clustered(50, 3, 1), 4));
    empty.save(folder.file("empty"));
    CHECK_EQ(VectorIndex::open(folder.file("empty")).size(), Index(0));
}

TEST(a_damaged_file_is_an_error) {
    const files::TemporaryDirectory folder;
    const Rows rows = clustered(70, 3, 4);
    const Codec codec = train(rows, 3);
    VectorIndex index(codec);
    index.add(rows.data(), 70, 3);
    const std::string path = folder.file("index");
    index.save(path);
    const std::string good = files::read(path);
    int survived = 0;
    for (std::size_t i = 0; i < good.size(); ++i) {
        std::string bad = good;
        bad[i] = char(bad[i] ^ (1 << i % 8));
        files::write(path, bad);
        survived += !refused([&] { VectorIndex::open(path); }, bqq::ErrorCode::format);
        if (i % 37 == 0) {
            files::write(path, good.substr(0, i));
            survived += !refused([&] { VectorIndex::open(path); }, bqq::ErrorCode::format);
        }
    }
    CHECK_EQ(survived, 0);
}

TEST(bad_arguments) {
    const Rows rows = clustered(20, 4, 1);
    bqq::TrainOptions options;
    CHECK(refused([&] { Codec::train(rows.data(), 0, 4, 4, 4); }));
    CHECK(refused([&] { Codec::train(rows.data(), 20, 0, 4, 4); }));
    CHECK(refused([&] { Codec::train(rows.data(), 20, 4, 3, 4); }));
    CHECK(refused([&] { Codec::train(rows.data(), 20, 4, 4, 1); }));
    CHECK(refused([&] { Codec::train(rows.data(), 20, 4, 4, 513); }));
    CHECK(refused([&] { Codec::train(nullptr, 20, 4, 4, 4); }));
    Rows bad = rows;
    for (const float v : {NAN, INFINITY, 1e16f, -3e38f}) {
        bad.v[5] = v;
        CHECK(refused([&] { train(bad, 4); }));
        const Codec codec = train(rows, 4);
        CHECK(refused([&] { encode(codec, bad); }));
    }
    bad = rows;
    for (float& v : bad.v) v *= 1e-30f;
    CHECK(refused([&] { train(bad, 4); }));
    options.progress = [](Index, Index) { return false; };
    CHECK(refused([&] { Codec::train(rows.data(), 20, 4, 4, 4, options); }, bqq::ErrorCode::cancelled));
    VectorIndex index(train(rows, 4));
    index.add(rows.data(), 20, 4);
    SearchOptions search_options;
    search_options.coarse = 5;
    CHECK(refused([&] { search(index, rows, 3, search_options); }));
    search_options.coarse = 0, search_options.rescore = 2;
    CHECK(refused([&] { search(index, rows, 3, search_options); }));
    CHECK(refused([&] { search(index, rows, 0); }));
}
