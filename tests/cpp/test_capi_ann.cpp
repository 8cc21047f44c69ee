// Vector codes through the C interface: against decoded vectors, and against the C++ one.
#include "capi_ann.hpp"

#include "bqq/vector_index.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <fstream>
#include <iterator>
#include <thread>

using namespace capi;

namespace {

std::vector<std::uint8_t> encode(const bqq_codec* codec) {
    std::vector<std::uint8_t> codes(z(N_ROWS * SIZE));
    CHECK_EQ(bqq_codec_encode(codec, rows().data(), N_ROWS, D, nullptr, codes.data()), BQQ_OK);
    return codes;
}
std::vector<float> decode(const bqq_codec* codec, const std::vector<std::uint8_t>& codes) {
    std::vector<float> out(codes.size() / z(SIZE) * z(D));
    CHECK_EQ(bqq_codec_decode(codec, codes.data(), std::int64_t(codes.size()) / SIZE, out.data(), D, 0), BQQ_OK);
    return out;
}

struct Results {
    std::vector<float> distances;
    std::vector<std::int64_t> ids;
    explicit Results(std::int64_t size) : distances(z(size), -1.0f), ids(z(size), -2) {}
    bool operator==(const Results& o) const { return distances == o.distances && ids == o.ids; }
};
Results search(const bqq_index* index, const float* q, std::int64_t queries, std::int64_t k,
               const bqq_search_options* options = nullptr) {
    Results r(queries * k);
    CHECK_EQ(bqq_index_search(index, q, queries, D, k, options, r.distances.data(), r.ids.data()), BQQ_OK);
    return r;
}
// What bqq_metric says of a query and a decoded vector.
double distance(const float* q, const float* w, bqq_metric metric) {
    double difference = 0, product = 0, square_q = 0, square_w = 0;
    for (std::int64_t j = 0; j < D; ++j) {
        const double a = double(q[j]), b = double(w[j]);
        difference += (a - b) * (a - b), product += a * b, square_q += a * a, square_w += b * b;
    }
    return metric == BQQ_METRIC_L2   ? difference
           : metric == BQQ_METRIC_IP ? product
                                     : product / std::sqrt(square_q * square_w);
}

} // namespace

TEST(a_codec_says_what_it_is) {
    for (const bqq_metric metric : {BQQ_METRIC_L2, BQQ_METRIC_IP, BQQ_METRIC_COSINE}) {
        CodecOwner codec;
        train(codec, metric);
        bqq_code_layout a = BQQ_CODE_LAYOUT_INIT;
        CHECK_EQ(bqq_codec_info(codec.p, &a), BQQ_OK);
        CHECK(a.struct_size == sizeof a && a.d == D && a.code_size == SIZE && a.metric == metric && a.reserved == 0);
        CHECK(a.stages > 1);
        std::int64_t bytes = 0;
        for (std::int64_t s = 0; s < a.stages; ++s) bytes += a.stage_bytes[s];
        CHECK_EQ(bytes, SIZE - (metric != BQQ_METRIC_IP));
    }
}

TEST(codes_are_those_of_the_cpp_interface) {
    bqq_train_options o = fast(BQQ_METRIC_COSINE);
    o.seed = 5;
    CodecOwner codec;
    CHECK_EQ(bqq_codec_train(rows().data(), N_ROWS, D, D, SIZE, &o, &codec.p), BQQ_OK);
    bqq::TrainOptions options;
    options.metric = bqq::MetricType::cosine, options.effort = bqq::Effort::fast, options.seed = 5;
    const bqq::Codec other = bqq::Codec::train(rows().data(), N_ROWS, D, D, SIZE, options);
    for (const int effort : {BQQ_EFFORT_STANDARD, BQQ_EFFORT_FAST, BQQ_EFFORT_BEST}) {
        bqq_code_options code = sized<bqq_code_options>();
        code.effort = effort;
        std::vector<std::uint8_t> codes(z(N_ROWS * SIZE)), expected(codes);
        CHECK_EQ(bqq_codec_encode(codec.p, rows().data(), N_ROWS, D, &code, codes.data()), BQQ_OK);
        bqq::CodeOptions as;
        as.effort = bqq::Effort(effort);
        other.encode(rows().data(), N_ROWS, D, expected.data(), as);
        CHECK(codes == expected);
    }
}

TEST(leading_dimensions_count) {
    CodecOwner codec;
    train(codec);
    const auto codes = encode(codec.p);
    constexpr std::int64_t ld = D + 3;
    std::vector<float> wide(z(N_ROWS * ld), std::nanf(""));
    for (std::int64_t i = 0; i < N_ROWS; ++i) std::copy_n(&rows()[z(i * D)], D, &wide[z(i * ld)]);
    std::vector<std::uint8_t> again(codes.size());
    CHECK_EQ(bqq_codec_encode(codec.p, wide.data(), N_ROWS, ld, nullptr, again.data()), BQQ_OK);
    CHECK(again == codes);
    const auto expected = decode(codec.p, codes);
    std::vector<float> out(z(N_ROWS * ld), 7.0f);
    CHECK_EQ(bqq_codec_decode(codec.p, codes.data(), N_ROWS, out.data(), ld, 1), BQQ_OK);
    for (std::int64_t i = 0; i < N_ROWS; ++i) {
        CHECK(std::equal(&out[z(i * ld)], &out[z(i * ld)] + D, &expected[z(i * D)]));
        CHECK(out[z(i * ld + D)] == 7.0f && out[z(i * ld + D + 2)] == 7.0f);
    }
}

TEST(prefixes_are_nested) {
    CodecOwner codec, first, none;
    train(codec);
    bqq_code_layout whole = BQQ_CODE_LAYOUT_INIT, part = BQQ_CODE_LAYOUT_INIT;
    CHECK_EQ(bqq_codec_info(codec.p, &whole), BQQ_OK);
    CHECK_EQ(bqq_codec_prefix(codec.p, 1, &first.p), BQQ_OK);
    CHECK_EQ(bqq_codec_info(first.p, &part), BQQ_OK);
    CHECK(part.stages == 1 && part.stage_bytes[0] == whole.stage_bytes[0]);
    CHECK_EQ(part.code_size, whole.stage_bytes[0] + 1);
    const auto codes = encode(codec.p);
    std::vector<std::uint8_t> coarse(z(N_ROWS * part.code_size));
    CHECK_EQ(bqq_codec_encode(first.p, rows().data(), N_ROWS, D, nullptr, coarse.data()), BQQ_OK);
    for (std::int64_t i = 0; i < N_ROWS; ++i)
        CHECK(!std::memcmp(&coarse[z(i * part.code_size)], &codes[z(i * SIZE)], z(part.stage_bytes[0])));
    CHECK_FAILS(bqq_codec_prefix(codec.p, 0, &none.p), BQQ_INVALID_ARGUMENT, "k is 0");
    CHECK_FAILS(bqq_codec_prefix(codec.p, whole.stages + 1, &none.p), BQQ_INVALID_ARGUMENT, "expected 1 to");
    CHECK(none.p == nullptr);
}

TEST(search_is_that_of_decoded_vectors) {
    constexpr std::int64_t queries = 7, k = 5;
    const std::vector<float> Q = numbers(z(queries * D), 9);
    for (const bqq_metric metric : {BQQ_METRIC_L2, BQQ_METRIC_IP, BQQ_METRIC_COSINE}) {
        CodecOwner codec;
        train(codec, metric);
        const auto codes = encode(codec.p);
        const auto W = decode(codec.p, codes);
        bqq_search_options o = sized<bqq_search_options>();
        o.rescore = N_ROWS; // all of them exactly
        Results found(queries * k);
        CHECK_EQ(bqq_codec_search(codec.p, codes.data(), N_ROWS, Q.data(), queries, D, k, &o, found.distances.data(),
                                  found.ids.data()),
                 BQQ_OK);
        for (std::int64_t q = 0; q < queries; ++q) {
            std::vector<double> all;
            for (std::int64_t i = 0; i < N_ROWS; ++i) all.push_back(distance(&Q[z(q * D)], &W[z(i * D)], metric));
            auto sorted = all;
            std::sort(sorted.begin(), sorted.end());
            if (metric != BQQ_METRIC_L2) std::reverse(sorted.begin(), sorted.end());
            for (std::int64_t i = 0; i < k; ++i) {
                const std::int64_t id = found.ids[z(q * k + i)];
                CHECK(id >= 0 && id < N_ROWS);
                const double step = metric == BQQ_METRIC_L2 ? 0.1 : metric == BQQ_METRIC_IP ? 1e-4 : 0.02; // norm byte
                CHECK_NEAR(double(found.distances[z(q * k + i)]), all[z(id)], step);
                CHECK_NEAR(all[z(id)], sorted[z(i)], 2 * step);
            }
        }
        // The same codes in an index.
        IndexOwner index;
        CHECK_EQ(bqq_index_create(codec.p, &index.p), BQQ_OK);
        CHECK_EQ(bqq_index_add_codes(index.p, codes.data(), N_ROWS, nullptr), BQQ_OK);
        CHECK(search(index.p, Q.data(), queries, k, &o) == found);
        o = sized<bqq_search_options>();
        o.threads = 2;
        CHECK_EQ(bqq_codec_search(codec.p, codes.data(), N_ROWS, Q.data(), queries, D, k, &o, found.distances.data(),
                                  found.ids.data()),
                 BQQ_OK);
        CHECK(search(index.p, Q.data(), queries, k) == found);
        o.coarse = 1;
        o.rescore = N_ROWS;
        Results coarse = search(index.p, Q.data(), queries, k, &o);
        o.coarse = 0;
        CHECK(search(index.p, Q.data(), queries, k, &o) == coarse);
    }
}

TEST(fewer_than_k_and_none) {
    CodecOwner codec;
    IndexOwner index;
    train(codec);
    CHECK_EQ(bqq_index_create(codec.p, &index.p), BQQ_OK);
    CHECK_EQ(bqq_index_size(index.p), 0);
    Results r = search(index.p, rows().data(), 2, 3);
    for (int i = 0; i < 6; ++i) CHECK(r.ids[z(i)] == -1 && r.distances[z(i)] == FLT_MAX);
    CHECK_EQ(bqq_index_add(index.p, nullptr, 0, D, nullptr, nullptr), BQQ_OK);
    CHECK_EQ(bqq_index_add(index.p, rows().data(), 2, D, nullptr, nullptr), BQQ_OK);
    CHECK_EQ(bqq_index_size(index.p), 2);
    r = search(index.p, rows().data(), 1, 3);
    CHECK(r.ids[0] >= 0 && r.ids[1] >= 0 && r.ids[2] == -1 && r.distances[2] == FLT_MAX);
    CHECK_EQ(bqq_index_search(index.p, nullptr, 0, D, 3, nullptr, nullptr, nullptr), BQQ_OK);
    CHECK_EQ(bqq_codec_search(codec.p, nullptr, 0, rows().data(), 1, D, 3, nullptr, r.distances.data(), r.ids.data()),
             BQQ_OK);
    CHECK_EQ(r.ids[0], -1);
    CHECK_EQ(bqq_codec_encode(codec.p, nullptr, 0, D, nullptr, nullptr), BQQ_OK);
    CHECK_EQ(bqq_codec_decode(codec.p, nullptr, 0, nullptr, D, 0), BQQ_OK);

    CodecOwner other;
    IndexOwner products;
    train(other, BQQ_METRIC_IP);
    CHECK_EQ(bqq_index_create(other.p, &products.p), BQQ_OK);
    r = search(products.p, rows().data(), 1, 1);
    CHECK(r.ids[0] == -1 && r.distances[0] == -FLT_MAX);
}

TEST(an_index_keeps_ids) {
    CodecOwner codec, of_index;
    IndexOwner index;
    train(codec);
    CHECK_EQ(bqq_index_create(codec.p, &index.p), BQQ_OK);
    bqq_codec_free(codec.p); // the index has its own share
    codec.p = nullptr;
    CHECK_EQ(bqq_index_codec(index.p, &of_index.p), BQQ_OK);
    const auto codes = encode(of_index.p);
    const auto W = decode(of_index.p, codes);

    const std::int64_t ids[4] = {1000, 3, 77, 12};
    CHECK_EQ(bqq_index_add(index.p, rows().data(), 4, D, ids, nullptr), BQQ_OK);
    CHECK_EQ(bqq_index_add_codes(index.p, codes.data() + 4 * SIZE, 2, nullptr), BQQ_OK); // 1001, 1002
    std::int64_t all[6], count = 0;
    CHECK_EQ(bqq_index_ids(index.p, all, 6, &count), BQQ_OK);
    CHECK_EQ(count, 6);
    std::sort(all, all + 6);
    const std::int64_t expected[6] = {3, 12, 77, 1000, 1001, 1002};
    CHECK(std::equal(all, all + 6, expected));
    all[1] = -5;
    CHECK_EQ(bqq_index_ids(index.p, all, 1, nullptr), BQQ_OK);
    CHECK(all[1] == -5 && std::count(expected, expected + 6, all[0]) == 1);
    CHECK_EQ(bqq_index_ids(index.p, nullptr, 0, &count), BQQ_OK);
    CHECK_EQ(count, 6);

    const std::int64_t wanted[3] = {12, 1001, 1000}, at[3] = {3, 4, 0};
    std::vector<std::uint8_t> got(z(3 * SIZE));
    std::vector<float> vectors(z(3 * D));
    CHECK_EQ(bqq_index_codes(index.p, wanted, 3, got.data()), BQQ_OK);
    CHECK_EQ(bqq_index_reconstruct(index.p, wanted, 3, vectors.data(), D), BQQ_OK);
    for (std::int64_t i = 0; i < 3; ++i) {
        CHECK(std::equal(&got[z(i * SIZE)], &got[z(i * SIZE)] + SIZE, &codes[z(at[i] * SIZE)]));
        CHECK(std::equal(&vectors[z(i * D)], &vectors[z(i * D)] + D, &W[z(at[i] * D)]));
    }

    const std::int64_t out[3] = {77, 555, 1002};
    CHECK_EQ(bqq_index_remove(index.p, out, 3, &count), BQQ_OK);
    CHECK_EQ(count, 2);
    CHECK_EQ(bqq_index_remove(index.p, out, 3, nullptr), BQQ_OK);
    CHECK_EQ(bqq_index_size(index.p), 4);
    CHECK_FAILS(bqq_index_codes(index.p, out, 1, got.data()), BQQ_INVALID_ARGUMENT, "ids[0] is 77");
    CHECK_FAILS(bqq_index_reconstruct(index.p, out, 1, vectors.data(), D), BQQ_INVALID_ARGUMENT, "ids[0] is 77");

    // All or nothing: known, doubled and negative ids.
    const std::int64_t bad[3][2] = {{5, 1000}, {5, 5}, {5, -1}};
    for (const auto& pair : bad) {
        CHECK_FAILS(bqq_index_add(index.p, rows().data(), 2, D, pair, nullptr), BQQ_INVALID_ARGUMENT, "ids[1] is");
        CHECK_FAILS(bqq_index_add_codes(index.p, codes.data(), 2, pair), BQQ_INVALID_ARGUMENT, "ids[1] is");
    }
    CHECK_EQ(bqq_index_size(index.p), 4);
}

TEST(filters) {
    CodecOwner codec;
    IndexOwner index;
    train(codec);
    CHECK_EQ(bqq_index_create(codec.p, &index.p), BQQ_OK);
    CHECK_EQ(bqq_index_add(index.p, rows().data(), N_ROWS, D, nullptr, nullptr), BQQ_OK);
    const std::int64_t ids[3] = {400, 2, 123456};
    bqq_search_options o = sized<bqq_search_options>();
    o.ids = ids;
    o.id_count = 3;
    Results r = search(index.p, rows().data(), 1, 3, &o);
    std::sort(r.ids.begin(), r.ids.end());
    CHECK(r.ids == std::vector<std::int64_t>({-1, 2, 400}));
    o.id_count = 0; // none
    CHECK_EQ(search(index.p, rows().data(), 1, 3, &o).ids[0], -1);
    o.ids = nullptr; // all
    CHECK(search(index.p, rows().data(), 1, 3, &o) == search(index.p, rows().data(), 1, 3));
}

TEST(range_search_is_a_search_with_a_limit) {
    constexpr std::int64_t queries = 4;
    for (const bqq_metric metric : {BQQ_METRIC_L2, BQQ_METRIC_IP}) {
        CodecOwner codec;
        IndexOwner index;
        train(codec, metric);
        CHECK_EQ(bqq_index_create(codec.p, &index.p), BQQ_OK);
        CHECK_EQ(bqq_index_add(index.p, rows().data(), N_ROWS, D, nullptr, nullptr), BQQ_OK);
        const Results all = search(index.p, rows().data(), queries, N_ROWS);
        const float radius = all.distances[30];
        RangeOwner range;
        CHECK_EQ(bqq_index_range_search(index.p, rows().data(), queries, D, radius, nullptr, &range.p), BQQ_OK);
        std::int64_t count = 0;
        const std::int64_t *limits = nullptr, *ids = nullptr;
        const float* distances = nullptr;
        CHECK_EQ(bqq_range_results(range.p, &count, &limits, &distances, &ids), BQQ_OK);
        CHECK_EQ(bqq_range_results(range.p, nullptr, nullptr, nullptr, nullptr), BQQ_OK);
        CHECK_EQ(count, queries);
        CHECK_EQ(limits[0], 0);
        for (std::int64_t q = 0; q < queries; ++q) {
            std::vector<float> expected;
            for (std::int64_t i = 0; i < N_ROWS; ++i) {
                const float v = all.distances[z(q * N_ROWS + i)];
                if (metric == BQQ_METRIC_L2 ? v < radius : v > radius) expected.push_back(v);
            }
            CHECK(std::vector<float>(distances + limits[q], distances + limits[q + 1]) == expected);
            for (std::int64_t j = limits[q]; j < limits[q + 1]; ++j)
                CHECK_EQ(ids[j], all.ids[z(q * N_ROWS + j - limits[q])]);
        }
        CHECK(limits[1] > 20 && limits[1] <= 30); // those of the first query

        RangeOwner none;
        const float far = metric == BQQ_METRIC_L2 ? 0.0f : FLT_MAX;
        CHECK_EQ(bqq_index_range_search(index.p, rows().data(), 1, D, far, nullptr, &none.p), BQQ_OK);
        CHECK_EQ(bqq_range_results(none.p, &count, &limits, nullptr, nullptr), BQQ_OK);
        CHECK(count == 1 && limits[0] == 0 && limits[1] == 0);
    }
}

TEST(files_round_trip_and_damage_is_seen) {
    CodecOwner codec, loaded, of_index;
    IndexOwner index, opened;
    train(codec);
    TemporaryFile codec_file, index_file, damaged;
    CHECK_EQ(bqq_codec_save(codec.p, codec_file.path.c_str()), BQQ_OK);
    CHECK_EQ(bqq_codec_load(codec_file.path.c_str(), &loaded.p), BQQ_OK);
    const auto codes = encode(codec.p);
    CHECK(encode(loaded.p) == codes);

    CHECK_EQ(bqq_index_create(codec.p, &index.p), BQQ_OK);
    CHECK_EQ(bqq_index_add_codes(index.p, codes.data(), N_ROWS, nullptr), BQQ_OK);
    const std::int64_t out[2] = {0, 250};
    CHECK_EQ(bqq_index_remove(index.p, out, 2, nullptr), BQQ_OK);
    CHECK_EQ(bqq_index_save(index.p, index_file.path.c_str()), BQQ_OK);
    const std::string bytes = read(index_file.path);
    CHECK_EQ(bqq_index_open(index_file.path.c_str(), &opened.p), BQQ_OK);
    CHECK_EQ(bqq_index_size(opened.p), N_ROWS - 2);
    CHECK(search(opened.p, rows().data(), 5, 10) == search(index.p, rows().data(), 5, 10));
    CHECK_EQ(bqq_index_add(opened.p, rows().data(), 3, D, nullptr, nullptr), BQQ_OK); // leaves the file alone
    CHECK_EQ(bqq_index_size(opened.p), N_ROWS + 1);
    CHECK(read(index_file.path) == bytes);
    CHECK_EQ(bqq_codec_load(index_file.path.c_str(), &of_index.p), BQQ_OK);
    CHECK(encode(of_index.p) == codes);

    IndexOwner broken;
    CodecOwner broken_codec;
    for (const std::size_t at : {std::size_t(9), bytes.size() / 3, bytes.size() / 2, bytes.size() - 1}) {
        std::string flipped = bytes;
        flipped[at] = char(flipped[at] ^ 16);
        for (const std::string& text : {flipped, bytes.substr(0, at)}) {
            std::remove(damaged.path.c_str()); // an index may still map the one before
            std::ofstream(damaged.path, std::ios::binary) << text;
            CHECK_EQ(bqq_index_open(damaged.path.c_str(), &broken.p), BQQ_FORMAT);
            CHECK_EQ(bqq_codec_load(damaged.path.c_str(), &broken_codec.p), BQQ_FORMAT);
            CHECK(error_has(damaged.path.c_str()) && !broken.p && !broken_codec.p);
        }
    }
    CHECK_FAILS(bqq_index_open(codec_file.path.c_str(), &broken.p), BQQ_FORMAT, "without codes");
    CHECK_EQ(bqq_codec_load("no such file", &broken_codec.p), BQQ_IO);
    CHECK_EQ(bqq_index_open("no such file", &broken.p), BQQ_IO);
    CHECK_EQ(bqq_codec_save(codec.p, "no such folder/file"), BQQ_IO);
    CHECK_EQ(bqq_index_save(index.p, "no such folder/file"), BQQ_IO);
}

TEST(progress_ends_and_cancels) {
    struct Seen {
        std::int64_t done = 0, total = 0;
        int answer = 0;
    } seen;
    const bqq_progress report = [](std::int64_t done, std::int64_t total, void* user) {
        auto& s = *static_cast<Seen*>(user);
        s.done = done, s.total = total;
        return s.answer;
    };
    bqq_train_options t = fast();
    t.progress = report;
    t.user = &seen;
    CodecOwner codec, stopped;
    CHECK_EQ(bqq_codec_train(rows().data(), N_ROWS, D, D, SIZE, &t, &codec.p), BQQ_OK);
    CHECK(seen.total > 0 && seen.done == seen.total);
    bqq_code_options c = sized<bqq_code_options>();
    c.progress = report;
    c.user = &seen;
    std::vector<std::uint8_t> codes(z(N_ROWS * SIZE));
    CHECK_EQ(bqq_codec_encode(codec.p, rows().data(), N_ROWS, D, &c, codes.data()), BQQ_OK);
    CHECK(seen.total == N_ROWS && seen.done == N_ROWS);
    seen.answer = 1;
    CHECK_EQ(bqq_codec_train(rows().data(), N_ROWS, D, D, SIZE, &t, &stopped.p), BQQ_CANCELLED);
    CHECK(stopped.p == nullptr);
    CHECK_EQ(bqq_codec_encode(codec.p, rows().data(), N_ROWS, D, &c, codes.data()), BQQ_CANCELLED);
    IndexOwner index;
    CHECK_EQ(bqq_index_create(codec.p, &index.p), BQQ_OK);
    CHECK_EQ(bqq_index_add(index.p, rows().data(), N_ROWS, D, nullptr, &c), BQQ_CANCELLED);
    CHECK_EQ(bqq_index_size(index.p), 0);
}

TEST(readers_beside_a_writer) {
    CodecOwner codec;
    IndexOwner index;
    train(codec);
    const auto codes = encode(codec.p);
    CHECK_EQ(bqq_index_create(codec.p, &index.p), BQQ_OK);
    CHECK_EQ(bqq_index_add_codes(index.p, codes.data(), 100, nullptr), BQQ_OK);
    const std::int64_t kept = 100;
    int failures[2] = {};
    const auto reader = [&](int* failed) {
        for (int i = 0; i < 100; ++i) {
            std::int64_t ids[4];
            float distances[4];
            const bool ok = bqq_index_search(index.p, rows().data(), 1, D, 4, nullptr, distances, ids) == BQQ_OK;
            *failed += !ok || *std::min_element(ids, ids + 4) < 0 || bqq_index_size(index.p) < kept;
        }
    };
    std::thread one(reader, &failures[0]), two(reader, &failures[1]);
    for (std::int64_t i = 100; i < 400; ++i) {
        CHECK_EQ(bqq_index_add_codes(index.p, codes.data() + i * SIZE, 1, &i), BQQ_OK);
        if (i % 3 == 0) CHECK_EQ(bqq_index_remove(index.p, &i, 1, nullptr), BQQ_OK);
    }
    one.join();
    two.join();
    CHECK(failures[0] == 0 && failures[1] == 0);
    CHECK_EQ(bqq_index_size(index.p), 300);
}
