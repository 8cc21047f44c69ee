// Discrete refinement of one stack for a batch of patches on the device: the twin of cpp/src/refine.hpp (without a
// metric), same annealing, same random numbers. Device pointers, work ordered on the stream that comes last; nothing is
// allocated here and nothing waits.
#pragma once

#include "scales.cuh"
#include "search/refine.hpp"

namespace bqq::cuda {

using detail::AnnealErrors;
using detail::AnnealPhase;
using detail::AnnealSchedule;
using detail::RefineOptions;

/// What a patch carries from pass to pass besides its arrays.
struct RefineScalars {
    double scales[4]; ///< r, s, t, u of X
    double XX, error, initial_error;
    std::uint64_t random;
    detail::AnnealState anneal;
};

constexpr int refine_pool_numbers = detail::tuning::kPoolNumbers;

/// Where the arrays of a patch lie in its part of the workspace, in floats. X: rows x cols, XT: its transpose; atoms:
/// l x ld of the other side's length, odd. counts: a row of 16 words_of(l) words for each bit, padded to `tall` rows,
/// and one more; twice that where a count may exceed 256. C: ld_c floats a row.
struct RefineLayout {
    std::size_t scalars, pool, X_sums, y_atoms, z_atoms, X, XT, C, y_counts, z_counts, bits, total;
    std::size_t pool_size, y_atoms_size, z_atoms_size, x_size, c_size, count_size, bit_size;
    int ld_y, ld_z, bit_rows, tall, ld_c, planes; ///< ld_y, ld_z: odd numbers of floats of a row of atoms of Y, of Z
    __host__ __device__ constexpr RefineLayout(int rows, int cols, int l)
        : scalars(0), pool(0), X_sums(0), y_atoms(0), z_atoms(0), X(0), XT(0), C(0), y_counts(0), z_counts(0), bits(0),
          total(whole_float4(sizeof(RefineScalars) / 4)),
          pool_size(whole_float4(refine_pool_numbers + std::size_t(l) + 18)),
          y_atoms_size(whole_float4(std::size_t(l) * (rows | 1))),
          z_atoms_size(whole_float4(std::size_t(l) * (cols | 1))), x_size(whole_float4(std::size_t(rows) * (cols | 1))),
          c_size(0), count_size(0), bit_size(0), ld_y(rows | 1), ld_z(cols | 1), bit_rows(0), tall((l + 15) / 16 * 16),
          ld_c(tall + 4), planes((rows > cols ? rows : cols) > 256 ? 2 : 1) {
        const int lw = words_of(l), most = rows > cols ? rows : cols;
        c_size = std::size_t(most) * ld_c;
        count_size = std::size_t(planes) * (tall + 1) * 16 * lw;
        bit_rows = words_of(most) | 1;
        bit_size = whole_float4(std::size_t(rows + cols) * lw + 3 * std::size_t(l) * bit_rows + 10 * std::size_t(l) +
                                rows + cols);
        take(pool, pool_size), take(X_sums, whole_float4(std::size_t(rows + cols)));
        take(y_atoms, y_atoms_size), take(z_atoms, z_atoms_size);
        take(X, x_size), take(XT, x_size + whole_float4(cols)), take(C, c_size);
        take(y_counts, count_size), take(z_counts, count_size), take(bits, bit_size);
    }

  private:
    __host__ __device__ constexpr void take(std::size_t& at, std::size_t size) {
        at = total;
        total += size;
    }
};

struct RefineBatch {
    WordBatch words; ///< its patches' targets, and the bits of `stack`, read and written
    int stack;
    float* state; ///< refine_state_floats(...) for each patch, aligned to 16 bytes
};

std::size_t refine_state_floats(int rows, int cols, int l);

/// Targets, random numbers, sums of the bits as they are.
cudaError_t refine_start(const RefineBatch& batch, const RefineOptions& options, std::uint64_t seed, int shared,
                         cudaStream_t stream);

/// Up to `passes` more passes (over all rows, all columns and the scales) of every patch that is not done; at most
/// AnnealSchedule(options).most_passes() are needed. The bits in `words` are those after the last pass. shared: bytes a
/// block may take.
cudaError_t refine_passes(const RefineBatch& batch, const RefineOptions& options, std::int64_t passes, int shared,
                          cudaStream_t stream);

/// errors[count]; 0 for a patch that is not active.
cudaError_t refine_errors(const RefineBatch& batch, AnnealErrors* errors, cudaStream_t stream);

/// *count += the patches that are active and not done.
cudaError_t refine_count_moving(const RefineBatch& batch, int* count, cudaStream_t stream);

} // namespace bqq::cuda
