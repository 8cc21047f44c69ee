// Searching vector codes: all of them for each query, without decoding.
#pragma once

#include "bqq/codec.hpp"

namespace bqq {

struct SearchOptions {
    /// Stages of the codec that are scanned first, 1 to stages(); 0: all. The best by those are ranked by the whole
    /// code.
    Index coarse = 0;
    /// How many of the best of the scan, which adds in 8 and 16 bits, are ranked again by float32 sums over their
    /// codes, at least k; 0: 2k + 4 (stages + 1), after a coarse scan 3k + 35, and where those may not be enough
    /// another scan finds the others.
    Index rescore = 0;
    /// Search among these ids alone (`among` of them; unknown ones are ignored). NULL: all.
    const std::int64_t* ids = nullptr;
    Index among = 0;
    int threads = 0;
    /// Called on the calling thread all the while; may throw to end the search.
    std::function<void()> poll;
};

/// Codes with ids, packed for the scan. One thread may change an index while others search: a call sees it before or
/// after a change. Copies share it.
class BQQ_API VectorIndex {
  public:
    explicit VectorIndex(const Codec& codec);
    /// A file of save: mapped, its checksum checked, O(bytes). Changes stay in memory. Throws Error(format | io).
    static VectorIndex open(const std::string& path);
    /// As bqq::save.
    void save(const std::string& path) const;

    const Codec& codec() const;
    Index size() const;

    /// Vectors as of Codec::encode, with ids of their own, distinct and 0 or more; NULL: the next ones, from one more
    /// than the largest there ever was. All or nothing.
    void add(const float* X, Index count, Index ldx, const std::int64_t* ids = nullptr,
             const CodeOptions& options = {});
    void add_codes(const std::uint8_t* codes, Index count, const std::int64_t* ids = nullptr);
    /// Returns how many there were; the others are ignored.
    Index remove(const std::int64_t* ids, Index count);

    /// Q: queries x d, ldq apart. distances, ids: queries x k, best first; by codec().metric() squared distances or
    /// inner products or cosines, of the query and what the code stands for. Ties: smallest id first. Where there are
    /// fewer than k, ids are -1 and distances the largest float (ip, cosine: its negative), as in FAISS. About queries
    /// size() code_size() / 16 vector instructions.
    void search(const float* Q, Index queries, Index ldq, Index k, float* distances, std::int64_t* ids,
                const SearchOptions& options = {}) const;
    /// All with a distance less than radius (ip, cosine: more), best first; those of query i are limits[i] to
    /// limits[i + 1]. coarse and rescore are ignored.
    struct Range {
        std::vector<Index> limits;
        std::vector<float> distances;
        std::vector<std::int64_t> ids;
    };
    Range range_search(const float* Q, Index queries, Index ldq, float radius, const SearchOptions& options = {}) const;

    /// What the codes of these ids stand for, count x d; the codes themselves. Throws Error(invalid_argument) for an id
    /// that is not there.
    void reconstruct(const std::int64_t* ids, Index count, float* out, Index ldo) const;
    void codes(const std::int64_t* ids, Index count, std::uint8_t* out) const;
    /// All ids, in the order they lie in.
    std::vector<std::int64_t> ids() const;

    struct Impl;

  private:
    explicit VectorIndex(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
    std::shared_ptr<Impl> impl_;
};

} // namespace bqq
