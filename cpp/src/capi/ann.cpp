// The C interface of vector codes over the C++ one.
#include "bqq/bqq_ann.h"

#include "capi/types.hpp"

#include <vector>

struct bqq_codec {
    explicit bqq_codec(bqq::Codec c) : codec(std::move(c)), stage_bytes(codec.stage_bytes()) {}
    const bqq::Codec codec;
    const std::vector<std::int64_t> stage_bytes;
};

struct bqq_index {
    bqq::VectorIndex index;
};

struct bqq_range {
    bqq::VectorIndex::Range range;
};

namespace {

using namespace bqq::capi;

#define SAME(c, cpp) static_assert(int(c) == int(cpp), "the C and the C++ enumerator differ")
SAME(BQQ_METRIC_L2, bqq::MetricType::l2);
SAME(BQQ_METRIC_IP, bqq::MetricType::ip);
SAME(BQQ_METRIC_COSINE, bqq::MetricType::cosine);
#undef SAME

bqq::Effort to_effort(std::int32_t effort) {
    if (effort < BQQ_EFFORT_STANDARD || effort > BQQ_EFFORT_BEST)
        bad_argument("effort is " + std::to_string(effort) + ", expected a bqq_effort");
    return static_cast<bqq::Effort>(effort);
}

bqq::TrainOptions to_options(const bqq_train_options* given) {
    const bqq_train_options o = read_options(given, "bqq_train_options");
    if (o.reserved != 0) bad_argument("bqq_train_options.reserved is " + std::to_string(o.reserved) + ", expected 0");
    if (o.metric < BQQ_METRIC_L2 || o.metric > BQQ_METRIC_COSINE)
        bad_argument("metric is " + std::to_string(o.metric) + ", expected a bqq_metric");
    return {static_cast<bqq::MetricType>(o.metric), to_effort(o.effort), o.seed, o.threads,
            to_progress(o.progress, o.user)};
}

bqq::CodeOptions to_options(const bqq_code_options* given) {
    const bqq_code_options o = read_options(given, "bqq_code_options");
    return {to_effort(o.effort), o.threads, to_progress(o.progress, o.user)};
}

constexpr bqq::Index kMostRows = bqq::Index(1) << 39; // sizes in bytes stay within 64 bits

void check_count(bqq::Index count, const char* name) {
    if (count < 0 || count > kMostRows) bqq::detail::bad_value(name, count, "0 to 2^39");
}

/// `count` elements or rows, NULL if there are none.
void require_array(const void* data, bqq::Index count, const char* name, const char* count_name = "count") {
    check_count(count, count_name);
    if (count) require(data, name);
}

bqq::SearchOptions to_options(const bqq_search_options* given) {
    const bqq_search_options o = read_options(given, "bqq_search_options");
    if (o.reserved != 0) bad_argument("bqq_search_options.reserved is " + std::to_string(o.reserved) + ", expected 0");
    require_array(o.ids, o.id_count, "bqq_search_options.ids", "bqq_search_options.id_count");
    return {o.coarse, o.rescore, o.ids, o.id_count, o.threads, {}};
}

} // namespace

extern "C" {

bqq_status bqq_train_options_init(bqq_train_options* options, size_t struct_size) {
    return guarded([&] { fill_defaults(options, struct_size, "bqq_train_options"); });
}

bqq_status bqq_code_options_init(bqq_code_options* options, size_t struct_size) {
    return guarded([&] { fill_defaults(options, struct_size, "bqq_code_options"); });
}

bqq_status bqq_search_options_init(bqq_search_options* options, size_t struct_size) {
    return guarded([&] { fill_defaults(options, struct_size, "bqq_search_options"); });
}

bqq_status bqq_codec_train(const float* x, int64_t count, int64_t d, int64_t ldx, int64_t code_size,
                           const bqq_train_options* options, bqq_codec** out) {
    return make(out, [&] {
        require(x, "x");
        check_count(count, "count");
        return bqq::Codec::train(x, count, d, ldx, code_size, to_options(options));
    });
}

bqq_status bqq_codec_load(const char* path, bqq_codec** out) {
    return make(out, [&] {
        require(path, "path");
        return bqq::Codec::load(path);
    });
}

bqq_status bqq_codec_save(const bqq_codec* codec, const char* path) {
    return guarded([&] {
        require(codec, "codec");
        require(path, "path");
        codec->codec.save(path);
    });
}

void bqq_codec_free(bqq_codec* codec) { delete codec; }

bqq_status bqq_codec_info(const bqq_codec* codec, bqq_code_layout* layout) {
    return guarded([&] {
        require(codec, "codec");
        require(layout, "layout");
        check_struct_size(layout->struct_size, sizeof *layout, "bqq_code_layout");
        const bqq::Codec& c = codec->codec;
        assign(layout, {0, c.d(), c.code_size(), c.stages(), codec->stage_bytes.data(), std::int32_t(c.metric()), 0});
    });
}

bqq_status bqq_codec_prefix(const bqq_codec* codec, int64_t k, bqq_codec** out) {
    return make(out, [&] {
        require(codec, "codec");
        return codec->codec.prefix(k);
    });
}

bqq_status bqq_codec_encode(const bqq_codec* codec, const float* x, int64_t count, int64_t ldx,
                            const bqq_code_options* options, uint8_t* codes) {
    return guarded([&] {
        require(codec, "codec");
        require_array(x, count, "x");
        require_array(codes, count, "codes");
        codec->codec.encode(x, count, ldx, codes, to_options(options));
    });
}

bqq_status bqq_codec_decode(const bqq_codec* codec, const uint8_t* codes, int64_t count, float* out, int64_t ldo,
                            int threads) {
    return guarded([&] {
        require(codec, "codec");
        require_array(codes, count, "codes");
        require_array(out, count, "out");
        codec->codec.decode(codes, count, out, ldo, threads);
    });
}

bqq_status bqq_codec_search(const bqq_codec* codec, const uint8_t* codes, int64_t count, const float* q,
                            int64_t queries, int64_t ldq, int64_t k, const bqq_search_options* options,
                            float* distances, int64_t* ids) {
    return guarded([&] {
        require(codec, "codec");
        require_array(codes, count, "codes");
        require_array(q, queries, "q", "queries");
        require_array(distances, queries, "distances", "queries");
        require_array(ids, queries, "ids", "queries");
        bqq::VectorIndex index(codec->codec);
        index.add_codes(codes, count);
        index.search(q, queries, ldq, k, distances, ids, to_options(options));
    });
}

bqq_status bqq_index_create(const bqq_codec* codec, bqq_index** out) {
    return make(out, [&] {
        require(codec, "codec");
        return bqq::VectorIndex(codec->codec);
    });
}

bqq_status bqq_index_open(const char* path, bqq_index** out) {
    return make(out, [&] {
        require(path, "path");
        return bqq::VectorIndex::open(path);
    });
}

bqq_status bqq_index_save(const bqq_index* index, const char* path) {
    return guarded([&] {
        require(index, "index");
        require(path, "path");
        index->index.save(path);
    });
}

void bqq_index_free(bqq_index* index) { delete index; }

bqq_status bqq_index_codec(const bqq_index* index, bqq_codec** out) {
    return make(out, [&] {
        require(index, "index");
        return index->index.codec();
    });
}

int64_t bqq_index_size(const bqq_index* index) {
    std::int64_t size = 0;
    guarded([&] {
        require(index, "index");
        size = index->index.size();
    });
    return size;
}

bqq_status bqq_index_add(bqq_index* index, const float* x, int64_t count, int64_t ldx, const int64_t* ids,
                         const bqq_code_options* options) {
    return guarded([&] {
        require(index, "index");
        require_array(x, count, "x");
        index->index.add(x, count, ldx, ids, to_options(options));
    });
}

bqq_status bqq_index_add_codes(bqq_index* index, const uint8_t* codes, int64_t count, const int64_t* ids) {
    return guarded([&] {
        require(index, "index");
        require_array(codes, count, "codes");
        index->index.add_codes(codes, count, ids);
    });
}

bqq_status bqq_index_remove(bqq_index* index, const int64_t* ids, int64_t count, int64_t* removed) {
    return guarded([&] {
        require(index, "index");
        require_array(ids, count, "ids");
        const bqq::Index found = index->index.remove(ids, count);
        if (removed) *removed = found;
    });
}

bqq_status bqq_index_search(const bqq_index* index, const float* q, int64_t queries, int64_t ldq, int64_t k,
                            const bqq_search_options* options, float* distances, int64_t* ids) {
    return guarded([&] {
        require(index, "index");
        require_array(q, queries, "q", "queries");
        require_array(distances, queries, "distances", "queries");
        require_array(ids, queries, "ids", "queries");
        index->index.search(q, queries, ldq, k, distances, ids, to_options(options));
    });
}

bqq_status bqq_index_range_search(const bqq_index* index, const float* q, int64_t queries, int64_t ldq, float radius,
                                  const bqq_search_options* options, bqq_range** out) {
    return make(out, [&] {
        require(index, "index");
        require_array(q, queries, "q", "queries");
        return index->index.range_search(q, queries, ldq, radius, to_options(options));
    });
}

bqq_status bqq_range_results(const bqq_range* range, int64_t* queries, const int64_t** limits, const float** distances,
                             const int64_t** ids) {
    return guarded([&] {
        require(range, "range");
        const bqq::VectorIndex::Range& r = range->range;
        if (queries) *queries = std::int64_t(r.limits.size()) - 1;
        if (limits) *limits = r.limits.data();
        if (distances) *distances = r.distances.data();
        if (ids) *ids = r.ids.data();
    });
}

void bqq_range_free(bqq_range* range) { delete range; }

bqq_status bqq_index_reconstruct(const bqq_index* index, const int64_t* ids, int64_t count, float* out, int64_t ldo) {
    return guarded([&] {
        require(index, "index");
        require_array(ids, count, "ids");
        require_array(out, count, "out");
        index->index.reconstruct(ids, count, out, ldo);
    });
}

bqq_status bqq_index_codes(const bqq_index* index, const int64_t* ids, int64_t count, uint8_t* codes) {
    return guarded([&] {
        require(index, "index");
        require_array(ids, count, "ids");
        require_array(codes, count, "codes");
        index->index.codes(ids, count, codes);
    });
}

bqq_status bqq_index_ids(const bqq_index* index, int64_t* ids, int64_t capacity, int64_t* count) {
    return guarded([&] {
        require(index, "index");
        require_array(ids, capacity, "ids", "capacity");
        const std::vector<std::int64_t> all = index->index.ids();
        std::copy_n(all.begin(), std::min(capacity, std::int64_t(all.size())), ids);
        if (count) *count = std::int64_t(all.size());
    });
}

} // extern "C"
