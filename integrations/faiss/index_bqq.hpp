// Vector codes of bqq as indexes of FAISS 1.7.3 and newer.
#pragma once

#include "code_tables.hpp"

#include <bqq/vector_index.hpp>
#include <faiss/IndexFlatCodes.h>
#include <faiss/IndexIVF.h>
#include <faiss/impl/IDSelector.h>

#include <memory>
#include <mutex>
#include <string>

namespace bqq_faiss {

using idx_t = std::int64_t;

/// Codes in the order they were added, searched exhaustively: squared distances or inner products of queries and what
/// codes stand for. Everything that FAISS does over IndexFlatCodes works: IndexIDMap, IndexRefine, IndexHNSW, a coarse
/// quantiser. Errors are faiss::FaissException. Loops of its own use as many threads as OpenMP has, one inside its
/// parallel regions.
///
/// search and range_search keep a second copy of the codes in the order of the scan, made by the first of them (9
/// bytes more a vector). Who writes to `codes` by hand calls changed() after that.
struct IndexBqq : faiss::IndexFlatCodes {
    /// To be trained; metric: METRIC_L2 or METRIC_INNER_PRODUCT. Codes of code_size bytes, 2 to 512.
    IndexBqq(idx_t d, std::size_t code_size, faiss::MetricType metric = faiss::METRIC_L2);
    /// Trained; not for the metric `cosine`: normalise vectors and queries, and take another.
    explicit IndexBqq(const bqq::Codec& codec);

    bqq::Effort train_effort = bqq::Effort::standard, effort = bqq::Effort::standard; ///< of train, of add
    std::uint64_t seed = 0;                                                           ///< of train

    /// A file that bqq::VectorIndex::open, or ann.open in Python, reads as well. ids: of the vectors, ntotal of them,
    /// distinct and 0 or more; null: 0, 1, 2 and so on.
    void save(const std::string& path, const idx_t* ids = nullptr) const;
    /// ids, if not null, becomes those of the vectors; it must not be null where they are not 0, 1, 2 and so on.
    static std::unique_ptr<IndexBqq> load(const std::string& path, std::vector<idx_t>* ids = nullptr);

    /// Of a trained index.
    const bqq::Codec& codec() const;
    const std::shared_ptr<const bqq_plugin::CodeTables>& tables() const { return tables_; }
    void changed();

    void train(idx_t n, const float* x) override;
    void sa_encode(idx_t n, const float* x, std::uint8_t* bytes) const override;
    void sa_decode(idx_t n, const std::uint8_t* bytes, float* x) const override;
    void search(idx_t n, const float* x, idx_t k, float* distances, idx_t* labels,
                const faiss::SearchParameters* params = nullptr) const override;
    void range_search(idx_t n, const float* x, float radius, faiss::RangeSearchResult* result,
                      const faiss::SearchParameters* params = nullptr) const override;
    faiss::FlatCodesDistanceComputer* get_FlatCodesDistanceComputer() const override;
    void reset() override;
    std::size_t remove_ids(const faiss::IDSelector& sel) override;
    void check_compatible_for_merge(const faiss::Index& other) const override;

  private:
    void set_codec(const bqq::Codec& codec);
    bqq::VectorIndex packed() const;

    std::unique_ptr<const bqq::Codec> codec_;
    std::shared_ptr<const bqq_plugin::CodeTables> tables_;
    mutable std::mutex guard_;
    mutable std::unique_ptr<bqq::VectorIndex> packed_; // the first of the codes that begin at packed_from_
    mutable const std::uint8_t* packed_from_ = nullptr;
};

/// Codes in inverted lists. They are of whole vectors, so that a query has one table for all lists; residuals would
/// rank no better.
struct IndexIVFBqq : faiss::IndexIVF {
    /// quantizer: trained or not, as for other IVF indexes; stays the caller's unless own_fields is set.
    IndexIVFBqq(faiss::Index* quantizer, const bqq::Codec& codec, std::size_t nlist);

    bqq::Effort effort = bqq::Effort::standard; ///< of add

    void encode_vectors(idx_t n, const float* x, const idx_t* list_nos, std::uint8_t* codes,
                        bool include_listno = false) const override;
    void sa_decode(idx_t n, const std::uint8_t* bytes, float* x) const override;
    void reconstruct_from_offset(std::int64_t list_no, std::int64_t offset, float* recons) const override;
    /// The one that this FAISS declares overrides; the other is there for nobody.
    virtual faiss::InvertedListScanner* get_InvertedListScanner(bool store_pairs, const faiss::IDSelector* sel) const;
    virtual faiss::InvertedListScanner* get_InvertedListScanner(bool store_pairs, const faiss::IDSelector* sel,
                                                                const faiss::IVFSearchParameters* params) const;

  private:
    bqq::Codec codec_;
    std::shared_ptr<const bqq_plugin::CodeTables> tables_;
};

} // namespace bqq_faiss
