#include "index_bqq.hpp"

#include <faiss/impl/AuxIndexStructures.h>
#include <faiss/impl/FaissAssert.h>
#include <faiss/utils/Heap.h>
#include <omp.h>

namespace bqq_faiss {

namespace {

using bqq_plugin::CodeTables;

/// What `body` returns; errors of bqq as FAISS's own.
template <class Body> auto guarded(Body&& body) {
    try {
        return body();
    } catch (const bqq::Error& error) {
        FAISS_THROW_MSG(error.what());
    }
}

int threads() { return omp_in_parallel() ? 1 : omp_get_max_threads(); }

bqq::MetricType metric_of(faiss::MetricType metric) {
    if (metric == faiss::METRIC_L2) return bqq::MetricType::l2;
    FAISS_THROW_IF_NOT_FMT(metric == faiss::METRIC_INNER_PRODUCT,
                           "metric is %d, expected METRIC_L2 or METRIC_INNER_PRODUCT", int(metric));
    return bqq::MetricType::ip;
}

bqq::CodeOptions code_options(bqq::Effort effort) {
    bqq::CodeOptions options;
    options.effort = effort, options.threads = threads();
    return options;
}

/// What is searched for, with the ids that a selector lets through.
class Options : public bqq::SearchOptions {
  public:
    Options(const faiss::SearchParameters* params, idx_t ntotal) {
        threads = bqq_faiss::threads();
        if (!params || !params->sel) return;
        selected_.reserve(1); // so that its address is none of "all"
        for (idx_t i = 0; i < ntotal; ++i)
            if (params->sel->is_member(i)) selected_.push_back(i);
        ids = selected_.data(), among = bqq::Index(selected_.size());
    }

  private:
    std::vector<idx_t> selected_;
};

/// The distances of CodeTables in FAISS's sense: inner products are largest first.
class Query {
  public:
    explicit Query(std::shared_ptr<const CodeTables> tables, faiss::MetricType metric)
        : tables_(std::move(tables)), table_(tables_ ? tables_->size() : 0),
          sign_(metric == faiss::METRIC_INNER_PRODUCT ? -1.0f : 1.0f) {}
    void set(const float* x) {
        if (tables_) tables_->query(x, table_.data());
    }
    float distance(const std::uint8_t* code) const { return sign_ * tables_->distance(table_.data(), code); }
    void distances(const std::uint8_t* const (&codes)[4], float (&out)[4]) const {
        tables_->distances(table_.data(), codes, out);
        for (float& d : out) d *= sign_;
    }
    float between(const float* v, const float* w) const { return sign_ * tables_->between(v, w); }

  private:
    std::shared_ptr<const CodeTables> tables_;
    std::vector<float> table_;
    float sign_;
};

/// Throws nothing once it is there: FAISS calls it in parallel loops that let no error out.
struct Computer : faiss::FlatCodesDistanceComputer {
    Computer(const IndexBqq& index)
        : FlatCodesDistanceComputer(index.codes.data(), index.code_size), tables(index.tables()),
          query(tables, index.metric_type), first(std::size_t(index.d)), second(std::size_t(index.d)) {}

    void set_query(const float* x) override { query.set(x); }
    float distance_to_code(const std::uint8_t* code) override { return query.distance(code); }
    /// Overrides that of FAISS 1.7.4 and newer.
    virtual void distances_batch_4(const idx_t i0, const idx_t i1, const idx_t i2, const idx_t i3, float& d0, float& d1,
                                   float& d2, float& d3) {
        const std::uint8_t* const four[] = {at(i0), at(i1), at(i2), at(i3)};
        float out[4];
        query.distances(four, out);
        d0 = out[0], d1 = out[1], d2 = out[2], d3 = out[3];
    }
    float symmetric_dis(idx_t i, idx_t j) override {
        tables->decode(at(i), first.data());
        if (j != decoded) tables->decode(at(j), second.data()); // graphs ask for many i and the same j
        decoded = j;
        return query.between(first.data(), second.data());
    }
    const std::uint8_t* at(idx_t i) const { return codes + std::size_t(i) * code_size; }

    std::shared_ptr<const CodeTables> tables;
    Query query;
    std::vector<float> first, second;
    idx_t decoded = -1;
};

struct Scanner : faiss::InvertedListScanner {
    Scanner(const IndexIVFBqq& index, std::shared_ptr<const CodeTables> tables, bool store_pairs,
            const faiss::IDSelector* sel)
        : InvertedListScanner(store_pairs, sel), query(std::move(tables), index.metric_type) {
        keep_max = index.metric_type == faiss::METRIC_INNER_PRODUCT;
        code_size = index.code_size;
    }
    void set_query(const float* x) override { query.set(x); }
    void set_list(idx_t list, float) override { list_no = list; }
    float distance_to_code(const std::uint8_t* code) const override { return query.distance(code); }

    /// Those of FAISS 1.7.3 forget `sel`.
    std::size_t scan_codes(std::size_t n, const std::uint8_t* codes, const idx_t* ids, float* distances, idx_t* labels,
                           std::size_t k) const override {
        std::size_t updates = 0;
        for_all(n, codes, ids, [&](std::size_t j, float distance) {
            if (keep_max ? distance <= distances[0] : distance >= distances[0]) return;
            (keep_max ? faiss::minheap_replace_top<float> : faiss::maxheap_replace_top<float>)(k, distances, labels,
                                                                                               distance, label(ids, j));
            ++updates;
        });
        return updates;
    }
    void scan_codes_range(std::size_t n, const std::uint8_t* codes, const idx_t* ids, float radius,
                          faiss::RangeQueryResult& result) const override {
        for_all(n, codes, ids, [&](std::size_t j, float distance) {
            if (keep_max ? distance > radius : distance < radius) result.add(distance, label(ids, j));
        });
    }

    Query query;

  private:
    idx_t label(const idx_t* ids, std::size_t j) const {
        return store_pairs ? idx_t(faiss::lo_build(std::uint64_t(list_no), j)) : ids[j];
    }
    /// Calls take(j, distance) for all that `sel` lets through, four codes at a time.
    template <class Take> void for_all(std::size_t n, const std::uint8_t* codes, const idx_t* ids, Take&& take) const {
        std::size_t places[4], count = 0;
        for (std::size_t j = 0; j < n; ++j) {
            if (sel && !sel->is_member(ids[j])) continue;
            places[count++] = j;
            if (count < 4) continue;
            const std::uint8_t* const four[] = {codes + places[0] * code_size, codes + places[1] * code_size,
                                                codes + places[2] * code_size, codes + places[3] * code_size};
            float distances[4];
            query.distances(four, distances);
            for (int i = 0; i < 4; ++i) take(places[i], distances[i]);
            count = 0;
        }
        for (std::size_t i = 0; i < count; ++i) take(places[i], query.distance(codes + places[i] * code_size));
    }
};

faiss::MetricType metric_of(const bqq::Codec& codec) {
    FAISS_THROW_IF_NOT_MSG(codec.metric() != bqq::MetricType::cosine,
                           "the codec is one for cosines, which FAISS does not have: normalise vectors and queries "
                           "and train a codec for l2 or ip");
    return codec.metric() == bqq::MetricType::ip ? faiss::METRIC_INNER_PRODUCT : faiss::METRIC_L2;
}

} // namespace

IndexBqq::IndexBqq(idx_t d, std::size_t code_size, faiss::MetricType metric) : IndexFlatCodes(code_size, d, metric) {
    metric_of(metric);
    FAISS_THROW_IF_NOT_FMT(d >= 1 && d <= bqq::kMaxDimension, "d is %ld, expected 1 to %ld", long(d),
                           long(bqq::kMaxDimension));
    FAISS_THROW_IF_NOT_FMT(code_size >= bqq::kMinCodeSize && code_size <= bqq::kMaxCodeSize,
                           "code_size is %zu, expected %ld to %ld", code_size, long(bqq::kMinCodeSize),
                           long(bqq::kMaxCodeSize));
    is_trained = false;
}

IndexBqq::IndexBqq(const bqq::Codec& codec)
    : IndexFlatCodes(std::size_t(codec.code_size()), codec.d(), metric_of(codec)) {
    set_codec(codec);
}

void IndexBqq::set_codec(const bqq::Codec& codec) {
    auto tables = std::make_shared<const CodeTables>(codec);
    codec_ = std::make_unique<const bqq::Codec>(codec);
    tables_ = std::move(tables);
    is_trained = true;
    changed();
}

const bqq::Codec& IndexBqq::codec() const {
    FAISS_THROW_IF_NOT_MSG(codec_, "the index is not trained");
    return *codec_;
}

void IndexBqq::train(idx_t n, const float* x) {
    FAISS_THROW_IF_NOT_FMT(ntotal == 0, "the index holds %ld codes, which another training would make void: reset it",
                           long(ntotal));
    bqq::TrainOptions options;
    options.metric = metric_of(metric_type), options.effort = train_effort, options.seed = seed;
    options.threads = threads();
    guarded([&] { set_codec(bqq::Codec::train(x, n, d, d, bqq::Index(code_size), options)); });
}

void IndexBqq::sa_encode(idx_t n, const float* x, std::uint8_t* bytes) const {
    guarded([&] { codec().encode(x, n, d, bytes, code_options(effort)); });
}

void IndexBqq::sa_decode(idx_t n, const std::uint8_t* bytes, float* x) const {
    guarded([&] { codec().decode(bytes, n, x, d, threads()); });
}

void IndexBqq::changed() {
    const std::lock_guard<std::mutex> lock(guard_);
    packed_.reset();
}

/// All codes, packed; those that came since the last call are added.
bqq::VectorIndex IndexBqq::packed() const {
    const std::lock_guard<std::mutex> lock(guard_);
    if (!packed_ || packed_from_ != codes.data() || packed_->size() > ntotal) {
        packed_ = std::make_unique<bqq::VectorIndex>(codec());
        packed_from_ = codes.data();
    }
    const idx_t done = packed_->size();
    if (done < ntotal) packed_->add_codes(codes.data() + std::size_t(done) * code_size, ntotal - done);
    return *packed_;
}

void IndexBqq::search(idx_t n, const float* x, idx_t k, float* distances, idx_t* labels,
                      const faiss::SearchParameters* params) const {
    FAISS_THROW_IF_NOT_FMT(k > 0, "k is %ld, expected 1 or more", long(k));
    if (n == 0) return;
    guarded([&] { packed().search(x, n, d, k, distances, labels, Options(params, ntotal)); });
}

void IndexBqq::range_search(idx_t n, const float* x, float radius, faiss::RangeSearchResult* result,
                            const faiss::SearchParameters* params) const {
    const auto found = guarded([&] { return packed().range_search(x, n, d, radius, Options(params, ntotal)); });
    for (std::size_t i = 0; i < std::size_t(n); ++i)
        result->lims[i] = std::size_t(found.limits[i + 1] - found.limits[i]);
    result->do_allocation(); // makes sums of them
    std::copy(found.distances.begin(), found.distances.end(), result->distances);
    std::copy(found.ids.begin(), found.ids.end(), result->labels);
}

faiss::FlatCodesDistanceComputer* IndexBqq::get_FlatCodesDistanceComputer() const { return new Computer(*this); }

void IndexBqq::reset() {
    IndexFlatCodes::reset();
    changed();
}

std::size_t IndexBqq::remove_ids(const faiss::IDSelector& sel) {
    const std::size_t removed = IndexFlatCodes::remove_ids(sel);
    changed();
    return removed;
}

void IndexBqq::check_compatible_for_merge(const faiss::Index& other) const {
    IndexFlatCodes::check_compatible_for_merge(other);
    const auto* codes_of = dynamic_cast<const IndexBqq*>(&other);
    FAISS_THROW_IF_NOT_MSG(codes_of && tables_ && codes_of->tables_ && tables_->same(*codes_of->tables_),
                           "only indexes of the same codec can be merged");
}

void IndexBqq::save(const std::string& path, const idx_t* ids) const {
    guarded([&] {
        if (!ids) return packed().save(path);
        bqq::VectorIndex index(codec());
        index.add_codes(codes.data(), ntotal, ids);
        index.save(path);
    });
}

std::unique_ptr<IndexBqq> IndexBqq::load(const std::string& path, std::vector<idx_t>* ids) {
    return guarded([&] {
        const auto file = bqq::VectorIndex::open(path);
        const std::vector<idx_t> names = file.ids();
        for (std::size_t i = 0; i < names.size() && !ids; ++i)
            FAISS_THROW_IF_NOT_FMT(names[i] == idx_t(i), "%s: its ids are not 0, 1, 2 and so on: pass ids",
                                   path.c_str());
        auto index = std::make_unique<IndexBqq>(file.codec());
        index->codes.resize(names.size() * index->code_size);
        file.codes(names.data(), bqq::Index(names.size()), index->codes.data());
        index->ntotal = idx_t(names.size());
        if (ids) *ids = names;
        return index;
    });
}

IndexIVFBqq::IndexIVFBqq(faiss::Index* quantizer, const bqq::Codec& codec, std::size_t nlist)
    : IndexIVF(quantizer, std::size_t(codec.d()), nlist, std::size_t(codec.code_size()), metric_of(codec)),
      codec_(codec), tables_(std::make_shared<const CodeTables>(codec)) {}

void IndexIVFBqq::encode_vectors(idx_t n, const float* x, const idx_t* list_nos, std::uint8_t* codes,
                                 bool include_listno) const {
    const std::size_t coarse = include_listno ? coarse_code_size() : 0, whole = coarse + code_size;
    std::vector<std::uint8_t> plain(coarse ? std::size_t(n) * code_size : 0);
    guarded([&] { codec_.encode(x, n, d, coarse ? plain.data() : codes, code_options(effort)); });
    for (std::size_t i = 0; i < std::size_t(n); ++i) {
        if (coarse) {
            encode_listno(std::max<idx_t>(list_nos[i], 0), codes + i * whole);
            std::copy_n(plain.data() + i * code_size, code_size, codes + i * whole + coarse);
        }
        if (list_nos[i] < 0) std::fill_n(codes + i * whole, whole, std::uint8_t(0)); // of no list: never stored
    }
}

void IndexIVFBqq::sa_decode(idx_t n, const std::uint8_t* bytes, float* x) const {
    const std::size_t coarse = coarse_code_size(), whole = coarse + code_size;
    for (std::size_t i = 0; i < std::size_t(n); ++i)
        tables_->decode(bytes + i * whole + coarse, x + i * std::size_t(d));
}

void IndexIVFBqq::reconstruct_from_offset(std::int64_t list_no, std::int64_t offset, float* recons) const {
    faiss::InvertedLists::ScopedCodes code(invlists, std::size_t(list_no), std::size_t(offset));
    tables_->decode(code.get(), recons);
}

faiss::InvertedListScanner* IndexIVFBqq::get_InvertedListScanner(bool store_pairs, const faiss::IDSelector* sel) const {
    return new Scanner(*this, tables_, store_pairs, sel);
}
faiss::InvertedListScanner* IndexIVFBqq::get_InvertedListScanner(bool store_pairs, const faiss::IDSelector* sel,
                                                                 const faiss::IVFSearchParameters*) const {
    return new Scanner(*this, tables_, store_pairs, sel);
}

} // namespace bqq_faiss
