// The C interface of vector codes, called in any order with any numbers; indexes of one codec meet codes, vectors and
// options of another. Only what its contract asks of a caller is kept: pointers are NULL or reach as far as the sizes
// say.
#include "calls.hpp"

#include "bqq/bqq_ann.h"

#include <unistd.h>

#include <cmath>
#include <memory>
#include <set>

namespace {

using fuzz::Bytes;
using fuzz::cancel;
using fuzz::good;
using fuzz::promise;
using fuzz::Record;

std::size_t z(std::int64_t i) { return std::size_t(std::max<std::int64_t>(i, 0)); }

template <class T, void (*Free)(T*)> struct Delete {
    void operator()(T* p) const { Free(p); }
};
template <class T, void (*Free)(T*)> using Owner = std::unique_ptr<T, Delete<T, Free>>;
using Codec = Owner<bqq_codec, bqq_codec_free>;
using Index = Owner<bqq_index, bqq_index_free>;
using Range = Owner<bqq_range, bqq_range_free>;

bqq_code_layout info(const bqq_codec* codec) {
    bqq_code_layout a = BQQ_CODE_LAYOUT_INIT;
    promise(good(bqq_codec_info(codec, &a)), "a codec tells what it is like");
    std::int64_t bytes = a.metric != BQQ_METRIC_IP;
    for (std::int64_t s = 0; s < a.stages; ++s) bytes += a.stage_bytes[s];
    promise(a.stages >= 1 && bytes == a.code_size, "the bytes of a code are those of its stages and the norm");
    return a;
}

class Session {
  public:
    Session(const std::uint8_t* data, std::size_t size) : in_(data, size) {}

    void run() {
        start();
        for (int call = 0; call < 16 && !in_.empty(); ++call) step();
    }

  private:
    void step() {
        switch (in_.take<std::uint8_t>() % 12) {
        case 0:
            return in_.often() ? start() : in_.often() ? prefix() : train();
        case 1:
            return encode();
        case 2:
            return search_codes();
        case 3:
            return create();
        case 4:
        case 5:
            return add();
        case 6:
            return remove();
        case 7:
        case 8:
            return search();
        case 9:
            return range_search();
        case 10:
            return look_up();
        default:
            return in_.often() ? files() : texts();
        }
    }

    template <class Made, class T> void keep(std::vector<Made>& all, bqq_status status, T* out) {
        Made made(out);
        promise(good(status) == bool(made), "an object is there if the call went well, else NULL");
        if (made) all.push_back(std::move(made));
        if (all.size() > 3) all.erase(all.begin());
    }
    template <class Made> auto* any(const std::vector<Made>& all) {
        return all.empty() ? nullptr : all[z(in_.within(0, 2)) % all.size()].get();
    }
    /// Most often the one that fits, else a number.
    std::int64_t nearly(std::int64_t right) { return in_.often() ? right : in_.number(); }
    int threads() { return in_.often() ? 1 : int(in_.within(-1, 2)); }
    std::vector<std::int64_t> some_ids(std::int64_t count) {
        std::vector<std::int64_t> ids(z(count) + 1);
        for (std::int64_t& id : ids) id = in_.number();
        return ids;
    }
    /// Rows for d numbers each, ld apart, whatever ld is.
    std::vector<float> rows(std::int64_t count, std::int64_t d, std::int64_t ld) {
        std::vector<float> X = in_.reals(z(std::min<std::int64_t>(count * d, 60)), in_.often());
        X.resize(z(count * std::max(d, ld >= d && ld < 100 ? ld : d)) + 1);
        return X;
    }
    /// What a caller may give: a row behind the first needs its place in memory.
    static std::int64_t reachable(std::int64_t ld, std::int64_t count) {
        return ld >= 100 && count > 1 ? ld % 100 : ld;
    }

    void train() {
        const std::int64_t d = nearly(in_.within(1, 9));
        if (d > 40) return; // memory
        const std::int64_t ld = reachable(nearly(d + in_.within(0, 1)), 2);
        const std::int64_t count = in_.often() ? in_.within(1, 40) : -in_.within(0, 2), size = nearly(in_.within(2, 6));
        const std::vector<float> X = rows(count, std::max<std::int64_t>(d, 1), ld);
        Record<bqq_train_options> options(in_, !in_.often());
        int reports = int(in_.within(0, 50));
        if (options.whole()) {
            if (in_.often()) options->metric = int(in_.within(0, 2)), options->reserved = 0;
            if (in_.often() || options->effort == BQQ_EFFORT_BEST) options->effort = BQQ_EFFORT_FAST;
            options->threads = threads();
            options->progress = in_.often() ? nullptr : cancel, options->user = &reports;
        } else if (options.legal() && in_.often()) {
            return; // leaves the defaults, which take longer
        }
        bqq_codec* out = nullptr;
        const bqq_status status =
            bqq_codec_train(X.data(), count, d, ld, size > 60 ? -size : size, options.get(), &out);
        keep(codecs_, status, out);
    }

    /// Codecs of one and two stages that are trained once, since that takes longest; an index hands out its codec.
    void start() {
        static const std::vector<Index> trained = [] {
            std::vector<Index> all;
            std::vector<float> X(40 * 9);
            for (std::size_t i = 0; i < X.size(); ++i) X[i] = float(int(i * 37 % 23) - 11) / 4;
            bqq_train_options options = {sizeof options, 0, 0, BQQ_EFFORT_FAST, 1, 0, nullptr, nullptr};
            for (options.metric = 0; options.metric < 3; ++options.metric)
                for (const int d : {1, 4, 9}) {
                    bqq_codec* codec = nullptr;
                    bqq_index* index = nullptr;
                    good(bqq_codec_train(X.data(), 40, d, 9, d == 4 ? 14 : 3, &options, &codec));
                    good(bqq_index_create(codec, &index));
                    bqq_codec_free(codec);
                    all.emplace_back(index);
                }
            return all;
        }();
        bqq_codec* out = nullptr;
        const bqq_status status = bqq_index_codec(trained[in_.take<std::uint8_t>() % trained.size()].get(), &out);
        keep(codecs_, status, out);
    }

    void prefix() {
        const bqq_codec* codec = any(codecs_);
        bqq_codec* out = nullptr;
        const bqq_status status = bqq_codec_prefix(codec, nearly(1), &out);
        keep(codecs_, status, out);
    }

    Record<bqq_code_options> code_options() {
        Record<bqq_code_options> options(in_, !in_.often());
        if (!options.whole()) return options;
        if (in_.often()) options->effort = BQQ_EFFORT_FAST;
        options->threads = threads();
        reports_ = int(in_.within(0, 50));
        options->progress = in_.often() ? nullptr : cancel, options->user = &reports_;
        return options;
    }

    void encode() {
        const bqq_codec* codec = any(codecs_);
        if (!codec) return;
        const bqq_code_layout a = info(codec);
        const std::int64_t count = in_.within(0, 5), ld = reachable(nearly(a.d), count);
        const std::vector<float> X = rows(count, a.d, ld);
        std::vector<std::uint8_t> codes(z(count * a.code_size) + 1);
        auto options = code_options();
        if (good(bqq_codec_encode(codec, X.data(), count, ld, options.get(), codes.data())))
            promise(ld >= a.d, "a short row is an error");
        if (!in_.often()) codes = in_.rest(), codes.resize(z(count * a.code_size) + 1);
        const std::int64_t ldo = reachable(nearly(a.d), count);
        std::vector<float> out(z(count * std::max(a.d, std::min<std::int64_t>(ldo, 100))) + 1);
        if (good(bqq_codec_decode(codec, codes.data(), count, out.data(), ldo, threads())))
            for (const float v : out) promise(std::isfinite(v), "what a code stands for is finite");
    }

    struct Search {
        Record<bqq_search_options> record;
        std::vector<std::int64_t> ids;

        Search(Session& s, Bytes& in) : record(in, !in.often()) {
            if (!record.whole()) return;
            bqq_search_options& o = *record.get();
            if (in.often()) o.coarse = in.within(0, 2), o.rescore = in.often() ? 0 : in.number(), o.reserved = 0;
            o.ids = nullptr, o.id_count = in.often() ? 0 : in.number(), o.threads = s.threads();
            if (in.often()) return;
            if (o.id_count > 20) o.id_count %= 20;
            ids = s.some_ids(o.id_count);
            o.ids = ids.data();
        }
    };

    /// Results of any search: sorted, of ids that are there.
    static void check(int metric, std::int64_t queries, std::int64_t k, const std::vector<float>& distances,
                      const std::vector<std::int64_t>& ids, const std::set<std::int64_t>& present) {
        const float sign = metric == BQQ_METRIC_L2 ? 1 : -1;
        for (std::int64_t i = 0; i < queries * k; ++i) {
            const float distance = sign * distances[z(i)];
            promise(std::isfinite(distance), "a distance is a number");
            if (i % k) promise(sign * distances[z(i - 1)] <= distance, "the best come first");
            promise(ids[z(i)] < 0 || present.count(ids[z(i)]), "an id is there");
        }
    }
    template <class Call> void search(const bqq_code_layout& a, const std::set<std::int64_t>& present, Call&& call) {
        const std::int64_t queries = in_.within(0, 5), ld = reachable(nearly(a.d), queries);
        const std::int64_t k = in_.often() ? in_.within(1, 9) : -in_.within(-80, 3);
        const std::vector<float> Q = rows(queries, a.d, ld);
        std::vector<float> distances(z(queries * std::max<std::int64_t>(k, 1)) + 1);
        std::vector<std::int64_t> ids(distances.size());
        Search options(*this, in_);
        if (!good(call(Q.data(), queries, ld, k, options.record.get(), distances.data(), ids.data()))) return;
        promise(k > 0 && ld >= a.d, "no k and short rows are errors");
        check(a.metric, queries, k, distances, ids, present);
    }

    void search_codes() {
        const bqq_codec* codec = any(codecs_);
        if (!codec) return;
        const bqq_code_layout a = info(codec);
        const std::int64_t count = in_.within(0, 70);
        std::vector<std::uint8_t> codes(z(count * a.code_size) + 1);
        for (std::size_t i = 0; i < codes.size() && i < 100; ++i) codes[i] = in_.take<std::uint8_t>();
        std::set<std::int64_t> present;
        for (std::int64_t i = 0; i < count; ++i) present.insert(i);
        search(a, present, [&](auto... rest) { return bqq_codec_search(codec, codes.data(), count, rest...); });
    }

    void create() {
        bqq_index* out = nullptr;
        const bqq_status status = bqq_index_create(any(codecs_), &out);
        keep(indexes_, status, out);
    }

    bqq_index* index() {
        if (indexes_.empty()) create();
        return any(indexes_);
    }
    bqq_code_layout layout_of(const bqq_index* index) {
        bqq_codec* codec = nullptr;
        promise(good(bqq_index_codec(index, &codec)), "an index has a codec");
        owned_.reset(codec); // the layout points into it
        return info(codec);
    }
    std::set<std::int64_t> ids_of(const bqq_index* index) {
        std::int64_t count = 0;
        promise(good(bqq_index_ids(index, nullptr, 0, &count)) && count == bqq_index_size(index), "ids can be counted");
        std::vector<std::int64_t> ids(z(count));
        promise(good(bqq_index_ids(index, ids.data(), count, nullptr)), "and told");
        std::set<std::int64_t> all(ids.begin(), ids.end());
        promise(all.size() == ids.size(), "ids are distinct");
        return all;
    }

    void add() {
        bqq_index* to = index();
        if (!to) return;
        const bqq_code_layout a = layout_of(to);
        const std::int64_t count = in_.often() ? in_.within(0, 6) : in_.within(-2, 70), before = bqq_index_size(to);
        const std::vector<std::int64_t> ids = some_ids(std::min<std::int64_t>(count, 20));
        const bool named = !in_.often() && count <= 20;
        bool done = false;
        if (in_.often()) {
            std::vector<std::uint8_t> codes(z(count * a.code_size) + 1);
            for (std::size_t i = 0; i < codes.size() && i < 60; ++i) codes[i] = in_.take<std::uint8_t>();
            done = good(bqq_index_add_codes(to, codes.data(), count, named ? ids.data() : nullptr));
        } else {
            const std::int64_t ld = reachable(nearly(a.d), count);
            const std::vector<float> X = rows(count, a.d, ld);
            auto options = code_options();
            done = good(bqq_index_add(to, X.data(), count, ld, named ? ids.data() : nullptr, options.get()));
        }
        promise(bqq_index_size(to) == before + (done ? count : 0), "all are added or none");
        ids_of(to);
    }

    void remove() {
        bqq_index* from = index();
        if (!from) return;
        const std::int64_t count = in_.often() ? in_.within(0, 6) : in_.within(-2, 20), before = bqq_index_size(from);
        const std::vector<std::int64_t> ids = some_ids(count);
        std::int64_t removed = 0;
        if (good(bqq_index_remove(from, ids.data(), count, in_.often() ? &removed : nullptr)))
            promise(bqq_index_size(from) <= before && removed <= before, "what is not there can't be removed");
        ids_of(from);
    }

    void search() {
        const bqq_index* in = index();
        if (!in) return;
        search(layout_of(in), ids_of(in), [&](auto... rest) { return bqq_index_search(in, rest...); });
    }

    void range_search() {
        const bqq_index* in = index();
        if (!in) return;
        const bqq_code_layout a = layout_of(in);
        const std::int64_t queries = in_.within(0, 3), ld = reachable(nearly(a.d), queries);
        const std::vector<float> Q = rows(queries, a.d, ld);
        Search options(*this, in_);
        const float radius = in_.real(false);
        bqq_range* out = nullptr;
        const bqq_status status = bqq_index_range_search(in, Q.data(), queries, ld, radius, options.record.get(), &out);
        const Range made(out);
        promise(good(status) == bool(made), "results are there if the call went well");
        if (!made) return;
        std::int64_t told = -1;
        const std::int64_t *limits = nullptr, *ids = nullptr;
        const float* distances = nullptr;
        promise(good(bqq_range_results(out, &told, &limits, &distances, &ids)) && told == queries && !limits[0],
                "told");
        const std::set<std::int64_t> present = ids_of(in);
        for (std::int64_t q = 0; q < queries; ++q)
            for (std::int64_t i = limits[q]; i < limits[q + 1]; ++i)
                promise(present.count(ids[i]) &&
                            (a.metric == BQQ_METRIC_L2 ? distances[i] < radius : distances[i] > radius),
                        "all are within the radius");
    }

    void look_up() {
        const bqq_index* in = index();
        if (!in) return;
        const bqq_code_layout a = layout_of(in);
        const std::int64_t count = in_.within(0, 5), ldo = reachable(nearly(a.d), count);
        const std::vector<std::int64_t> ids = some_ids(count);
        std::vector<float> out(z(count * std::max(a.d, std::min<std::int64_t>(ldo, 100))) + 1);
        std::vector<std::uint8_t> codes(z(count * a.code_size) + 1);
        const std::set<std::int64_t> present = ids_of(in);
        const bool there =
            std::all_of(ids.begin(), ids.begin() + count, [&](auto id) { return present.count(id) > 0; });
        promise(good(bqq_index_codes(in, ids.data(), count, codes.data())) == there, "codes of ids that are there");
        promise(good(bqq_index_reconstruct(in, ids.data(), count, out.data(), ldo)) == (there && ldo >= a.d),
                "and what they stand for");
    }

    void files() {
        static const std::string path = "/dev/shm/bqq-fuzz-ann-" + std::to_string(::getpid());
        bqq_codec* codec = nullptr;
        bqq_index* opened = nullptr;
        if (in_.often()) {
            const bqq_index* in = index();
            if (!in) return;
            promise(good(bqq_index_save(in, path.c_str())), "an index can be saved");
            const bqq_status status = bqq_index_open(path.c_str(), &opened);
            promise(good(status), "and opened");
            promise(ids_of(in) == ids_of(opened), "with all that is in it");
            keep(indexes_, status, opened);
        } else {
            const bqq_codec* from = any(codecs_);
            if (!from) return;
            promise(good(bqq_codec_save(from, path.c_str())), "a codec can be saved");
            promise(!good(bqq_index_open(path.c_str(), &opened)) && !opened, "it is no index");
        }
        const bqq_status status = bqq_codec_load(path.c_str(), &codec);
        promise(good(status), "a codec can be read");
        keep(codecs_, status, codec);
        ::unlink(path.c_str());
    }

    void texts() {
        Record<bqq_train_options> a(in_, true);
        Record<bqq_code_options> b(in_, true);
        Record<bqq_search_options> c(in_, true);
        Record<bqq_code_layout> layout(in_, true);
        good(bqq_train_options_init(a.get(), a.memory[0]));
        good(bqq_code_options_init(b.get(), b.memory[0]));
        good(bqq_search_options_init(c.get(), c.memory[0]));
        good(bqq_codec_info(any(codecs_), layout.get()));
        promise(bqq_index_size(nullptr) == 0, "nothing");
    }

    Bytes in_;
    std::vector<Codec> codecs_;
    std::vector<Index> indexes_;
    Codec owned_;
    int reports_ = 0;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Session(data, size).run();
    return 0;
}
