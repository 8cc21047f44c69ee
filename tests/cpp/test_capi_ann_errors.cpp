// Bad arguments and structures of other sizes at the C interface of vector codes.
#include "capi_ann.hpp"

#include <cmath>

using namespace capi;

TEST(structure_sizes_are_pinned) {
    if (sizeof(void*) != 8) return;
    CHECK_EQ(sizeof(bqq_train_options), std::size_t(48));
    CHECK_EQ(sizeof(bqq_code_options), std::size_t(32));
    CHECK_EQ(sizeof(bqq_search_options), std::size_t(48));
    CHECK_EQ(sizeof(bqq_code_layout), std::size_t(48));
    CHECK_EQ(offsetof(bqq_train_options, seed), std::size_t(8));
    CHECK_EQ(offsetof(bqq_train_options, metric), std::size_t(16));
    CHECK_EQ(offsetof(bqq_train_options, progress), std::size_t(32));
    CHECK_EQ(offsetof(bqq_code_options, effort), std::size_t(8));
    CHECK_EQ(offsetof(bqq_code_options, progress), std::size_t(16));
    CHECK_EQ(offsetof(bqq_search_options, coarse), std::size_t(8));
    CHECK_EQ(offsetof(bqq_search_options, ids), std::size_t(24));
    CHECK_EQ(offsetof(bqq_search_options, threads), std::size_t(40));
    CHECK_EQ(offsetof(bqq_code_layout, d), std::size_t(8));
    CHECK_EQ(offsetof(bqq_code_layout, stage_bytes), std::size_t(32));
    CHECK_EQ(offsetof(bqq_code_layout, metric), std::size_t(40));
}

TEST(null_arguments_are_errors) {
    CodecOwner codec;
    IndexOwner index;
    train(codec);
    CHECK_EQ(bqq_index_create(codec.p, &index.p), BQQ_OK);
    const float* X = rows().data();
    bqq_codec* c = nullptr;
    bqq_index* x = nullptr;
    bqq_range* r = nullptr;
    bqq_code_layout a = BQQ_CODE_LAYOUT_INIT;
    float w[D];
    std::int64_t ids[1] = {0};
    std::uint8_t codes[SIZE] = {};
#define IS_NULL(call, name) CHECK_FAILS(call, BQQ_INVALID_ARGUMENT, name " is NULL")
    IS_NULL(bqq_train_options_init(nullptr, 48), "options");
    IS_NULL(bqq_code_options_init(nullptr, 32), "options");
    IS_NULL(bqq_search_options_init(nullptr, 48), "options");
    IS_NULL(bqq_codec_train(nullptr, 5, 4, 4, 4, nullptr, &c), "x");
    IS_NULL(bqq_codec_train(X, 5, 4, 4, 4, nullptr, nullptr), "out");
    IS_NULL(bqq_codec_load(nullptr, &c), "path");
    IS_NULL(bqq_codec_load("x", nullptr), "out");
    IS_NULL(bqq_codec_save(nullptr, "x"), "codec");
    IS_NULL(bqq_codec_save(codec.p, nullptr), "path");
    IS_NULL(bqq_codec_info(nullptr, &a), "codec");
    IS_NULL(bqq_codec_info(codec.p, nullptr), "layout");
    IS_NULL(bqq_codec_prefix(nullptr, 1, &c), "codec");
    IS_NULL(bqq_codec_prefix(codec.p, 1, nullptr), "out");
    IS_NULL(bqq_codec_encode(nullptr, X, 1, D, nullptr, codes), "codec");
    IS_NULL(bqq_codec_encode(codec.p, nullptr, 1, D, nullptr, codes), "x");
    IS_NULL(bqq_codec_encode(codec.p, X, 1, D, nullptr, nullptr), "codes");
    IS_NULL(bqq_codec_decode(nullptr, codes, 1, w, D, 0), "codec");
    IS_NULL(bqq_codec_decode(codec.p, nullptr, 1, w, D, 0), "codes");
    IS_NULL(bqq_codec_decode(codec.p, codes, 1, nullptr, D, 0), "out");
    IS_NULL(bqq_codec_search(nullptr, codes, 1, X, 1, D, 1, nullptr, w, ids), "codec");
    IS_NULL(bqq_codec_search(codec.p, nullptr, 1, X, 1, D, 1, nullptr, w, ids), "codes");
    IS_NULL(bqq_codec_search(codec.p, codes, 1, nullptr, 1, D, 1, nullptr, w, ids), "q");
    IS_NULL(bqq_codec_search(codec.p, codes, 1, X, 1, D, 1, nullptr, nullptr, ids), "distances");
    IS_NULL(bqq_codec_search(codec.p, codes, 1, X, 1, D, 1, nullptr, w, nullptr), "ids");
    IS_NULL(bqq_index_create(nullptr, &x), "codec");
    IS_NULL(bqq_index_create(codec.p, nullptr), "out");
    IS_NULL(bqq_index_open(nullptr, &x), "path");
    IS_NULL(bqq_index_open("x", nullptr), "out");
    IS_NULL(bqq_index_save(nullptr, "x"), "index");
    IS_NULL(bqq_index_save(index.p, nullptr), "path");
    IS_NULL(bqq_index_codec(nullptr, &c), "index");
    IS_NULL(bqq_index_codec(index.p, nullptr), "out");
    IS_NULL(bqq_index_add(nullptr, X, 1, D, nullptr, nullptr), "index");
    IS_NULL(bqq_index_add(index.p, nullptr, 1, D, nullptr, nullptr), "x");
    IS_NULL(bqq_index_add_codes(nullptr, codes, 1, nullptr), "index");
    IS_NULL(bqq_index_add_codes(index.p, nullptr, 1, nullptr), "codes");
    IS_NULL(bqq_index_remove(nullptr, ids, 1, nullptr), "index");
    IS_NULL(bqq_index_remove(index.p, nullptr, 1, nullptr), "ids");
    IS_NULL(bqq_index_search(nullptr, X, 1, D, 1, nullptr, w, ids), "index");
    IS_NULL(bqq_index_search(index.p, nullptr, 1, D, 1, nullptr, w, ids), "q");
    IS_NULL(bqq_index_search(index.p, X, 1, D, 1, nullptr, nullptr, ids), "distances");
    IS_NULL(bqq_index_search(index.p, X, 1, D, 1, nullptr, w, nullptr), "ids");
    IS_NULL(bqq_index_range_search(nullptr, X, 1, D, 1, nullptr, &r), "index");
    IS_NULL(bqq_index_range_search(index.p, nullptr, 1, D, 1, nullptr, &r), "q");
    IS_NULL(bqq_index_range_search(index.p, X, 1, D, 1, nullptr, nullptr), "out");
    IS_NULL(bqq_range_results(nullptr, ids, nullptr, nullptr, nullptr), "range");
    IS_NULL(bqq_index_reconstruct(nullptr, ids, 1, w, D), "index");
    IS_NULL(bqq_index_reconstruct(index.p, nullptr, 1, w, D), "ids");
    IS_NULL(bqq_index_reconstruct(index.p, ids, 1, nullptr, D), "out");
    IS_NULL(bqq_index_codes(nullptr, ids, 1, codes), "index");
    IS_NULL(bqq_index_codes(index.p, nullptr, 1, codes), "ids");
    IS_NULL(bqq_index_codes(index.p, ids, 1, nullptr), "codes");
    IS_NULL(bqq_index_ids(nullptr, ids, 1, nullptr), "index");
    IS_NULL(bqq_index_ids(index.p, nullptr, 1, nullptr), "ids");
#undef IS_NULL
    CHECK_EQ(bqq_index_size(nullptr), 0);
    CHECK(error_has("index is NULL"));
    CHECK(c == nullptr && x == nullptr && r == nullptr);
    bqq_codec_free(nullptr);
    bqq_index_free(nullptr);
    bqq_range_free(nullptr);
}

TEST(bad_numbers_are_errors_with_a_text) {
    CodecOwner codec, made;
    IndexOwner index;
    train(codec);
    CHECK_EQ(bqq_index_create(codec.p, &index.p), BQQ_OK);
    CHECK_EQ(bqq_index_add(index.p, rows().data(), 10, D, nullptr, nullptr), BQQ_OK);
    const float* X = rows().data();
    std::vector<float> odd(rows()), w(z(D));
    odd[z(2 * D + 5)] = std::nanf("");
    std::int64_t ids[1] = {0};
    std::uint8_t codes[3 * SIZE] = {};
#define IS_BAD(call, part) CHECK_FAILS(call, BQQ_INVALID_ARGUMENT, part)
    IS_BAD(bqq_codec_train(X, 0, D, D, SIZE, nullptr, &made.p), "is 0, expected 1 or more");
    IS_BAD(bqq_codec_train(X, -1, D, D, SIZE, nullptr, &made.p), "count is -1");
    IS_BAD(bqq_codec_train(X, 10, 0, D, SIZE, nullptr, &made.p), "d is 0");
    IS_BAD(bqq_codec_train(X, 10, D, D - 1, SIZE, nullptr, &made.p), "ldx is 19");
    IS_BAD(bqq_codec_train(X, 10, D, D, 1, nullptr, &made.p), "code_size is 1");
    IS_BAD(bqq_codec_train(odd.data(), 10, D, D, SIZE, nullptr, &made.p), "[2, 5] is nan");
    IS_BAD(bqq_codec_encode(codec.p, odd.data(), 3, D, nullptr, codes), "[2, 5] is nan");
    IS_BAD(bqq_codec_encode(codec.p, X, -3, D, nullptr, codes), "count is -3");
    IS_BAD(bqq_codec_encode(codec.p, X, INT64_MAX / 2, D, nullptr, codes), "expected 0 to 2^39");
    IS_BAD(bqq_codec_encode(codec.p, X, 1, D - 1, nullptr, codes), "is 19");
    IS_BAD(bqq_codec_decode(codec.p, codes, 1, w.data(), D - 1, 0), "is 19");
    IS_BAD(bqq_codec_decode(codec.p, codes, -1, w.data(), D, 0), "count is -1");
    IS_BAD(bqq_codec_search(codec.p, codes, -1, X, 1, D, 1, nullptr, w.data(), ids), "count is -1");
    IS_BAD(bqq_codec_search(codec.p, codes, 1, X, -1, D, 1, nullptr, w.data(), ids), "queries is -1");
    IS_BAD(bqq_codec_search(codec.p, codes, 1, X, 1, D, 0, nullptr, w.data(), ids), "k is 0");
    IS_BAD(bqq_index_search(index.p, X, 1, D - 1, 1, nullptr, w.data(), ids), "ldq is 19");
    IS_BAD(bqq_index_search(index.p, odd.data() + 2 * D, 1, D, 1, nullptr, w.data(), ids), "is nan");
    IS_BAD(bqq_index_add(index.p, X, -1, D, nullptr, nullptr), "count is -1");
    IS_BAD(bqq_index_add(index.p, odd.data(), 3, D, nullptr, nullptr), "[2, 5] is nan");
    IS_BAD(bqq_index_add_codes(index.p, codes, -1, nullptr), "count is -1");
    IS_BAD(bqq_index_remove(index.p, ids, -1, nullptr), "count is -1");
    IS_BAD(bqq_index_codes(index.p, ids, -1, codes), "count is -1");
    IS_BAD(bqq_index_reconstruct(index.p, ids, -1, w.data(), D), "count is -1");
    IS_BAD(bqq_index_reconstruct(index.p, ids, 1, w.data(), D - 1), "is 19");
    IS_BAD(bqq_index_ids(index.p, ids, -1, nullptr), "capacity is -1");
    RangeOwner range;
    IS_BAD(bqq_index_range_search(index.p, X, 1, D, std::nanf(""), nullptr, &range.p), "radius");

    bqq_train_options t = fast();
    t.metric = 3;
    IS_BAD(bqq_codec_train(X, 10, D, D, SIZE, &t, &made.p), "metric is 3");
    t = fast();
    t.effort = -1;
    IS_BAD(bqq_codec_train(X, 10, D, D, SIZE, &t, &made.p), "effort is -1");
    t = fast();
    t.reserved = 1;
    IS_BAD(bqq_codec_train(X, 10, D, D, SIZE, &t, &made.p), "reserved is 1");
    bqq_code_options c = sized<bqq_code_options>();
    c.effort = 3;
    IS_BAD(bqq_codec_encode(codec.p, X, 1, D, &c, codes), "effort is 3");
    IS_BAD(bqq_index_add(index.p, X, 1, D, nullptr, &c), "effort is 3");
    const auto search_fails = [&](void (*change)(bqq_search_options&), const char* part) {
        bqq_search_options s = sized<bqq_search_options>();
        change(s);
        IS_BAD(bqq_index_search(index.p, X, 1, D, 1, &s, w.data(), ids), part);
        IS_BAD(bqq_codec_search(codec.p, codes, 1, X, 1, D, 1, &s, w.data(), ids), part);
        IS_BAD(bqq_index_range_search(index.p, X, 1, D, 1, &s, &range.p), part);
    };
    search_fails([](bqq_search_options& s) { s.coarse = 99; }, "coarse is 99");
    search_fails([](bqq_search_options& s) { s.rescore = -1; }, "rescore is -1");
    search_fails([](bqq_search_options& s) { s.reserved = 2; }, "reserved is 2");
    search_fails([](bqq_search_options& s) { s.id_count = 2; }, "ids is NULL");
    search_fails([](bqq_search_options& s) { s.id_count = -2; }, "id_count is -2");
#undef IS_BAD
    CHECK(made.p == nullptr && range.p == nullptr);
    CHECK_EQ(bqq_index_size(index.p), 10);
}

TEST(structures_grow) {
    CodecOwner codec, older_codec, newer_codec;
    train(codec);
    bqq_train_options older; // an older caller knows only the first fields
    std::memset(static_cast<void*>(&older), 0xAB, sizeof older);
    older.struct_size = offsetof(bqq_train_options, metric);
    older.seed = 0;
    CHECK_EQ(bqq_codec_train(rows().data(), 50, D, D, SIZE, &older, &older_codec.p), BQQ_OK);
    struct {
        bqq_train_options known;
        std::int64_t unknown;
    } newer;
    CHECK_EQ(bqq_train_options_init(&newer.known, sizeof newer), BQQ_OK);
    CHECK_EQ(newer.unknown, 0);
    newer.unknown = 1;
    CHECK_FAILS(bqq_codec_train(rows().data(), 50, D, D, SIZE, &newer.known, &newer_codec.p), BQQ_UNSUPPORTED,
                "bqq_train_options");

    std::uint8_t code[SIZE];
    bqq_code_options c;
    CHECK_EQ(bqq_code_options_init(&c, sizeof c), BQQ_OK);
    CHECK(c.struct_size == sizeof c && c.effort == BQQ_EFFORT_STANDARD && c.threads == 0 && !c.progress);
    c.struct_size = 0;
    CHECK_FAILS(bqq_codec_encode(codec.p, rows().data(), 1, D, &c, code), BQQ_INVALID_ARGUMENT,
                "bqq_code_options.struct_size is 0");
    float distances[1];
    std::int64_t ids[1];
    bqq_search_options s;
    CHECK_EQ(bqq_search_options_init(&s, sizeof s), BQQ_OK);
    CHECK(s.struct_size == sizeof s && s.coarse == 0 && s.rescore == 0 && !s.ids && s.id_count == 0);
    s.struct_size = 5;
    CHECK_FAILS(bqq_codec_search(codec.p, code, 1, rows().data(), 1, D, 1, &s, distances, ids), BQQ_INVALID_ARGUMENT,
                "bqq_search_options.struct_size is 5");

    bqq_code_layout a = BQQ_CODE_LAYOUT_INIT;
    a.struct_size = 40;
    CHECK_FAILS(bqq_codec_info(codec.p, &a), BQQ_INVALID_ARGUMENT, "bqq_code_layout.struct_size is 40");
    struct {
        bqq_code_layout known;
        std::int64_t unknown;
    } wide;
    wide.known.struct_size = sizeof wide;
    wide.unknown = 7;
    CHECK_EQ(bqq_codec_info(codec.p, &wide.known), BQQ_OK);
    CHECK(wide.known.struct_size == sizeof wide && wide.known.d == D && wide.unknown == 0);
}
