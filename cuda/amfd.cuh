// Annealed mean-field descent for a batch of patches on the device; the twin of cpp/src/amfd.hpp. Device pointers, work
// ordered on the stream that comes last; nothing is allocated here and nothing waits.
#pragma once

#include "scales.cuh"
#include "search/amfd.hpp"

namespace bqq::cuda {

using detail::AmfdOptions;

/// What a patch carries from step to step besides its arrays.
struct AmfdScalars {
    double a[4];  ///< r, s, t, u of X
    double soft;  ///< 4 mean(x(1-x)) over y and z: 1 at all 1/2, 0 when all are bits
    double x_sum; ///< of X
    float moved;  ///< largest change of a variable in the last step
    int still;    ///< steps in a row in which nothing moved
    int steps;    ///< done
    int settled;  ///< ended early
};

/// Where the arrays of a patch lie in its part of the workspace, in floats. X, R: m x ldn; y, y_old, gy: m x l; z,
/// z_old, gz: l x ldn.
struct AmfdLayout {
    std::size_t scalars, vectors, y, y_old, z, z_old, R, gy, X, gz, total;
    std::size_t y_size, z_size, x_size, vector_size;
    __host__ __device__ constexpr AmfdLayout(int rows, int cols, int l)
        : scalars(0), vectors(0), y(0), y_old(0), z(0), z_old(0), R(0), gy(0), X(0), gz(0), total(0),
          y_size(up(std::size_t(rows) * l)), z_size(up(std::size_t(l) * cols)), x_size(up(std::size_t(rows) * cols)),
          vector_size(4 * up(rows) + 2 * up(cols) + 12 * up(l)) {
        total = up(sizeof(AmfdScalars) / 4);
        take(vectors, vector_size), take(y, y_size), take(y_old, y_size), take(z, z_size), take(z_old, z_size);
        take(R, x_size), take(gy, y_size), take(X, x_size), take(gz, z_size);
    }
    __host__ __device__ static constexpr std::size_t up(std::size_t count) { return whole_float4(count); }

  private:
    __host__ __device__ constexpr void take(std::size_t& at, std::size_t size) {
        at = total;
        total += size;
    }
};

/// Patches of at most rows x cols.
struct AmfdBatch {
    int count, rows, cols, l;
    const Patch* patches; ///< device, count
    float* state;         ///< device, amfd_state_floats(rows, cols, l) for each patch, aligned to 16 bytes
    double* partial;      ///< device, amfd_partial_doubles(*this); NULL if the block kernel does them
};

struct AmfdLaunch {
    bool rounded = false;   ///< products of bfloat16 operands on tensor cores, as bf16 levels of the CPU do
    bool by_phase = false;  ///< several blocks a patch, a kernel for each phase of a step: for few large patches
    int shared = 48 * 1024; ///< bytes of shared memory a block may take
};

std::size_t amfd_state_floats(int rows, int cols, int l);
std::size_t amfd_partial_doubles(int count, int rows, int cols);

/// How to work on a batch on a device with `shared` bytes for a block and `processors` multiprocessors: by phase when
/// the patches are too few for one block each and too large for shared memory.
AmfdLaunch amfd_launch(int count, int rows, int cols, int l, int shared, int processors, bool rounded);

/// Target, first values, scales.
cudaError_t amfd_start(const AmfdBatch& batch, const AmfdOptions& options, std::uint64_t seed, const AmfdLaunch& launch,
                       cudaStream_t stream);

/// Steps first .. first + count - 1 of options.steps.
cudaError_t amfd_steps(const AmfdBatch& batch, const AmfdOptions& options, std::int64_t first, std::int64_t count,
                       const AmfdLaunch& launch, cudaStream_t stream);

/// *count += the patches that are active and have not settled.
cudaError_t amfd_count_moving(const AmfdBatch& batch, int* count, cudaStream_t stream);

/// Bits 1 where y, z > 1/2, to stack `stack` of `words`, which has the patches of the batch.
cudaError_t amfd_round(const AmfdBatch& batch, const WordBatch& words, int stack, cudaStream_t stream);

} // namespace bqq::cuda
