// What a codec holds, and what encoding derives of it.
#pragma once

#include "bqq/codec.hpp"
#include "kernels/table.hpp"
#include "memory.hpp"

namespace bqq::detail {

constexpr Index kRowBlock = 32; ///< vectors that go through encoding together

inline std::size_t z(Index i) { return std::size_t(i); }

/// The entry that a code has in group g.
inline Index entry_of(const std::uint8_t* code, Index g) { return code[g / 2] >> 4 * (g % 2) & 15; }

/// Entries of one stage, as the search for codes reads them.
struct StageTables {
    Index groups, d, ld; ///< ld: of entries, d padded
    Index K() const { return kEntries * groups; }
    AlignedArray<float> entries;         ///< K x ld
    AlignedArray<float> minus_twice;     ///< d x K: -2 entries, transposed
    AlignedArray<float> squares;         ///< K
    AlignedArray<std::int16_t> products; ///< as bqq_code_search
    float scale = 1;

    /// entries: K x d. reach: the largest cost that is to be expected.
    StageTables(const bqq_kernels& kernels, const float* entries, Index groups, Index d, float reach);
};

/// How a code is searched for.
struct CodeSchedule {
    Index sweeps, descents;
    float from, to; ///< temperatures, in units of the stage
};
const CodeSchedule& code_schedule(Effort effort);

/// sweeps x K numbers, gumbel-distributed times the temperatures, which fall geometrically.
std::vector<std::uint16_t> code_noise(const StageTables& stage, const CodeSchedule& schedule, float unit,
                                      std::uint64_t seed, std::uint32_t stream);

struct Stage {
    Index bytes;
    float unit, reach;         ///< of temperature: mean squared error / (4 groups); largest cost
    float norm_low, norm_step; ///< of the norm byte of a code that ends with this stage
};

/// Codes of rows of one stage.
class RowCoder {
  public:
    RowCoder(const bqq_kernels& kernels, const StageTables& stage, const CodeSchedule& schedule,
             const std::uint16_t* noise);
    /// R: rows <= kRowBlock vectors, ld apart. codes: an entry a byte, [rows, groups]; used as starts if `given`.
    /// turns: of the noise of each row; NULL: none.
    void code(const float* R, Index ld, Index rows, std::uint8_t* codes, bool given, const std::uint32_t* turns);
    /// R -= what the codes stand for.
    void subtract(float* R, Index ld, Index rows, const std::uint8_t* codes) const;

  private:
    const bqq_kernels& kernels_;
    const StageTables& stage_;
    bqq_code_search search_;
    AlignedArray<float> costs_;
    AlignedArray<std::uint16_t> scores_;
    std::vector<std::int64_t> wide_;
};

} // namespace bqq::detail

namespace bqq {

struct Codec::Impl {
    MetricType metric = MetricType::l2;
    Index d = 0;
    bool centered = true; ///< norms are those of w_hat - center, else of w_hat
    std::vector<detail::Stage> stages;
    std::vector<float> center;                                      ///< d
    std::vector<std::int8_t> entries;                               ///< [groups, 16, d]
    std::vector<float> scales;                                      ///< [groups, 16]
    std::vector<std::unique_ptr<const detail::StageTables>> tables; ///< by stage

    bool has_norm() const { return metric != MetricType::ip; }
    Index bytes() const; ///< of all groups
    Index groups() const { return 2 * bytes(); }
    Index code_size() const { return bytes() + has_norm(); }
    std::vector<float> float_entries() const; ///< [groups, 16, d]
    float norm(std::uint8_t byte) const { return stages.back().norm_low + float(byte) * stages.back().norm_step; }
    void make_tables();
    /// Whether no sum of a search, for vectors of at most 1e15, leaves float32.
    bool bounded() const;
    /// x divided by its norm for cosine, less the center, to `out` with zeros up to ld. Throws
    /// Error(invalid_argument) about vector `at` of `name`.
    void center_row(const float* x, const char* name, Index at, float* out, Index ld) const;
};

} // namespace bqq
