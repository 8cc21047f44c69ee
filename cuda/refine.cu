#include "refine.cuh"

#include "refine_pass.cuh"
#include "rng.hpp"

#include <algorithm>
#include <cmath>

namespace bqq::cuda {
namespace {

// ---- start ----

__global__ void __launch_bounds__(256) refine_target(RefineBatch b) {
    SHARED(double, room, [8]);
    const int at = int(blockIdx.x);
    const Patch& patch = b.words.patches[at];
    if (!patch.active) return;
    const RefineLayout layout(b.words.rows, b.words.cols, b.words.l);
    float* state = b.state + layout.total * at;
    float *X = state + layout.X, *XT = state + layout.XT;
    float* x_row = state + layout.vectors + 5 * whole_float4(std::size_t(b.words.l));
    float* x_col = x_row + whole_float4(std::size_t(b.words.rows));
    double squares[1] = {0};
    for (int i = warp_of_thread(); i < patch.m; i += warps_of_block()) {
        double sum = 0;
        for (int j = lane_of_thread(); j < patch.n; j += 32) {
            const float x = float((double(patch.W[i * patch.ldw + j]) - patch.mean) / patch.divisor);
            X[std::size_t(i) * layout.ld_z + j] = x, XT[std::size_t(j) * layout.ld_y + i] = x;
            sum += double(x), squares[0] += double(x) * double(x);
        }
        sum = warp_sum(sum);
        if (lane_of_thread() == 0) x_row[i] = float(sum);
    }
    block_sum(squares, room);
    for (int j = int(threadIdx.x); j < patch.n; j += int(blockDim.x)) {
        double sum = 0;
        for (int i = 0; i < patch.m; ++i) sum += double(X[std::size_t(i) * layout.ld_z + j]);
        x_col[j] = float(sum);
    }
    if (threadIdx.x == 0) {
        RefineScalars s = {};
        s.XX = squares[0];
        *reinterpret_cast<RefineScalars*>(state + layout.scalars) = s;
    }
}

// Exponential numbers, then two more uniform ones: where the rows' windows start.
__global__ void __launch_bounds__(256) refine_random(RefineBatch b, std::uint64_t seed) {
    const int at = int(blockIdx.y);
    const Patch& patch = b.words.patches[at];
    const int group = int(blockIdx.x * blockDim.x + threadIdx.x);
    const int count = refine_pool_numbers + (b.words.l + 15) / 16 * 16; // the CPU pads l to 16
    if (!patch.active || 4 * group >= count + 2) return;
    const RefineLayout layout(b.words.rows, b.words.cols, b.words.l);
    float* state = b.state + layout.total * at;
    const detail::Philox philox{{std::uint32_t(seed), std::uint32_t(seed >> 32)},
                                {std::uint32_t(patch.block), std::uint32_t(std::uint64_t(patch.block) >> 32),
                                 0x80000000u | std::uint32_t(patch.stack)}};
    std::uint32_t values[4];
    philox(std::uint32_t(group), values);
    for (int q = 0; q < 4; ++q)
        if (4 * group + q < count) state[layout.pool + 4 * group + q] = -logf(1.0f - detail::to_uniform(values[q]));
    if (4 * group == count) // count is a multiple of four
        reinterpret_cast<RefineScalars*>(state + layout.scalars)->random =
            std::uint64_t(detail::to_uniform(values[0]) * 16777216.0f) << 32 |
            std::uint64_t(detail::to_uniform(values[1]) * 16777216.0f);
}

enum Placed : unsigned { in_bits = 1, in_C = 2, in_M = 4, in_counts = 8, in_atoms = 16, in_X = 32 };

__device__ __forceinline__ void copy(std::uint32_t* to, const std::uint32_t* from, int count) {
    for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) to[i] = from[i];
}
__device__ __forceinline__ void copy_atoms(const RefineView& p, const RefineSide& side, float* to, const float* from) {
    for (int k = warp_of_thread(); k < p.l; k += warps_of_block())
        for (int i = lane_of_thread(); i < side.count; i += 32) to[k * side.ld + i] = from[k * side.ld + i];
}

// Where a block works on its patch; by one thread.
__device__ inline RefineView open(const RefineBatch& b, int at, float* shared, unsigned placed) {
    const WordBatch& words = b.words;
    const RefineLayout a(words.rows, words.cols, words.l);
    float* state = b.state + a.total * at;
    const auto take = [&](unsigned bit, std::size_t home, std::size_t size) {
        if (!(placed & bit)) return state + home;
        shared += size;
        return shared - size;
    };
    const int m = words.patches[at].m, n = words.patches[at].n, l = words.l, lw = words_of(l);
    RefineView p{};
    p.l = l, p.bit_rows = a.bit_rows;
    std::uint32_t* bits = reinterpret_cast<std::uint32_t*>(take(in_bits, a.bits, a.bit_size));
    p.C = take(in_C, a.C, a.c_size);
    p.M = take(in_M, a.M, a.count_size);
    p.y.counts = take(in_counts, a.y_counts, a.count_size), p.z.counts = take(in_counts, a.z_counts, a.count_size);
    p.y.atoms = take(in_atoms, a.y_atoms, a.y_atoms_size), p.z.atoms = take(in_atoms, a.z_atoms, a.z_atoms_size);
    const bool near = (placed & in_X) != 0; // one copy serves both sides: its rows are odd
    p.y.X = take(in_X, a.X, a.x_size), p.y.i_step = a.ld_z, p.y.j_step = 1;
    p.z.X = near ? p.y.X : state + a.XT, p.z.i_step = near ? 1 : a.ld_y, p.z.j_step = near ? a.ld_z : 1;
    p.y.count = m, p.z.count = n, p.y.words = p.z.words = lw, p.y.ld = a.ld_y, p.z.ld = a.ld_z;
    p.y.bits = bits, p.z.bits = p.y.bits + words.rows * lw, p.before = p.z.bits + words.cols * lw;
    p.y.columns = p.before + max(words.rows, words.cols) * lw, p.z.columns = p.y.columns + l * a.bit_rows;
    float* v = state + a.vectors;
    const int step = int(whole_float4(std::size_t(l)));
    p.held = v, p.slope = v + step, p.diagonal = v + 2 * step, p.y.nu = v + 3 * step, p.z.nu = v + 4 * step;
    p.y.X_sum = v + 5 * step, p.z.X_sum = p.y.X_sum + whole_float4(std::size_t(words.rows));
    p.pool = state + a.pool;
    return p;
}

// Sums that a launch before this one has moved, made anew from the bits; atoms where they are placed. By all threads.
__device__ inline void resume(const RefineView& p, const RefineView& home, RefineRoom& room, unsigned placed) {
    move_atoms(p, p.y, p.z, p.y.bits), move_atoms(p, p.z, p.y, p.z.bits); // columns alone: no changes
    __syncthreads();
    count_pairs(p, p.y), count_pairs(p, p.z);
    if (placed & in_atoms) copy_atoms(p, p.y, p.y.atoms, home.y.atoms), copy_atoms(p, p.z, p.z.atoms, home.z.atoms);
    __syncthreads();
    if (threadIdx.x == 0) {
        room.nu[0] = room.nu[1] = 0;
        for (int k = 0; k < p.l; ++k) room.nu[0] += p.y.nu[k], room.nu[1] += p.z.nu[k];
    }
}

__global__ void __launch_bounds__(512)
    refine_block(RefineBatch b, AnnealSchedule o, std::int64_t passes, unsigned placed, int start) {
    SHARED_DYN(raw);
    SHARED(RefineRoom, rooms, [1]);
    SHARED(RefineView, views, [2]); // in global memory; where it is worked on
    SHARED(RefineScalars, scalars, [1]);
    SHARED(Jump, jumps, [3]); // a block of rows, all of Y, all of Z
    const int at = int(blockIdx.x);
    if (!b.words.patches[at].active) return;
    const RefineLayout layout(b.words.rows, b.words.cols, b.words.l);
    RefineScalars* kept = reinterpret_cast<RefineScalars*>(b.state + layout.total * at + layout.scalars);
    if (!start && kept->anneal.phase == AnnealPhase::done) return;
    RefineScalars& s = scalars[0];
    RefineRoom& room = rooms[0];
    const RefineView &home = views[0], &p = views[1];
    if (threadIdx.x == 0) {
        views[0] = open(b, at, nullptr, 0), views[1] = open(b, at, reinterpret_cast<float*>(raw), placed);
        s = *kept;
        jumps[0] = steps_of_generator(warps_of_block());
        jumps[1] = steps_of_generator(b.words.patches[at].m), jumps[2] = steps_of_generator(b.words.patches[at].n);
    }
    __syncthreads();
    std::uint32_t* Y = b.words.Y + (std::size_t(at) * b.words.stacks + b.stack) * b.words.rows * p.y.words;
    std::uint32_t* Z = b.words.Z + (std::size_t(at) * b.words.stacks + b.stack) * b.words.cols * p.z.words;
    copy(p.y.bits, Y, p.y.count * p.y.words), copy(p.z.bits, Z, p.z.count * p.z.words);
    if (placed & in_X)
        for (int i = warp_of_thread(); i < p.y.count; i += warps_of_block())
            for (int j = lane_of_thread(); j < p.z.count; j += 32)
                const_cast<float*>(p.y.X)[i * p.y.i_step + j] = home.y.X[i * p.y.i_step + j];
    __syncthreads();
    const double size = double(p.y.count) * double(p.z.count);
    if (start) {
        recount(p);
        solve_scales(p, p.y, s, room);
        if (threadIdx.x == 0) {
            s.initial_error = s.error;
            s.anneal.begin(o, s.error / size);
        }
    } else {
        resume(p, home, room, placed);
    }
    const Jump first_row = steps_of_generator(warp_of_thread() + 1);
    for (std::int64_t pass = 0; pass < passes; ++pass) {
        __syncthreads();
        if (s.anneal.phase == AnnealPhase::done) break;
        if (s.anneal.recount_due()) recount(p);
        const double T = s.anneal.temperature();
        int flips = 0;
#pragma unroll 1
        for (int turn = 0; turn < 2; ++turn) {
            const RefineSide &side = turn ? p.z : p.y, &other = turn ? p.y : p.z;
            const double r = s.scales[0], of_side = s.scales[turn ? 2 : 1], of_other = s.scales[turn ? 1 : 2];
            make_problem(p, other, room.nu[1 - turn], r, of_side, of_other, s.scales[3]);
            multiply_counts(p, side, other);
            __syncthreads();
            const int mine =
                anneal_rows(p, side, other, float(r), float(of_side), float(T), first_row(s.random), jumps[0]);
            if (lane_of_thread() == 0) room.flips[warp_of_thread()] = mine;
            __syncthreads();
            int flipped = 0;
            for (int w = 0; w < warps_of_block(); ++w) flipped += room.flips[w];
            flips += flipped;
            if (flipped) {
                move_atoms(p, side, other, p.before);
                __syncthreads();
                count_pairs(p, side);
            }
            __syncthreads();
            if (threadIdx.x == 0) s.random = jumps[1 + turn](s.random);
            solve_scales(p, side, s, room);
        }
        if (threadIdx.x == 0)
            s.anneal.advance(o, double(flips), double(p.l) * double(p.y.count + p.z.count), s.error / size);
    }
    copy(Y, p.y.bits, p.y.count * p.y.words), copy(Z, p.z.bits, p.z.count * p.z.words);
    if (placed & in_atoms) copy_atoms(p, p.y, home.y.atoms, p.y.atoms), copy_atoms(p, p.z, home.z.atoms, p.z.atoms);
    if (threadIdx.x == 0) *kept = s;
}

__global__ void __launch_bounds__(256) refine_moving(RefineBatch b, int* count) {
    const int at = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= b.words.count || !b.words.patches[at].active) return;
    const RefineLayout layout(b.words.rows, b.words.cols, b.words.l);
    const auto* s = reinterpret_cast<const RefineScalars*>(b.state + layout.total * at + layout.scalars);
    if (s->anneal.phase != AnnealPhase::done) atomicAdd(count, 1);
}

__global__ void __launch_bounds__(256) refine_report(RefineBatch b, AnnealErrors* errors) {
    const int at = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= b.words.count) return;
    const RefineLayout layout(b.words.rows, b.words.cols, b.words.l);
    const auto* s = reinterpret_cast<const RefineScalars*>(b.state + layout.total * at + layout.scalars);
    errors[at] = b.words.patches[at].active ? AnnealErrors{s->initial_error, s->error} : AnnealErrors{0, 0};
}

// ---- host ----

bool fits(const RefineBatch& b, const RefineOptions& options) {
    const WordBatch& w = b.words;
    return w.count >= 1 && w.count <= 65535 && w.rows >= 1 && w.cols >= 1 && w.rows <= 1 << 15 && w.cols <= 1 << 15 &&
           w.l >= 1 && w.l <= 4096 && b.stack >= 0 && b.stack < w.stacks && w.patches && w.Y && w.Z && b.state &&
           options.sweeps >= 0;
}

cudaError_t run(const RefineBatch& b, const RefineOptions& options, std::int64_t passes, bool start, int shared,
                cudaStream_t stream) {
    const RefineLayout a(b.words.rows, b.words.cols, b.words.l);
    const int threads = std::max(b.words.rows, b.words.cols) > 64 ? 512 : 256;
    const int fixed = int(sizeof(RefineRoom) + 2 * sizeof(RefineView) + sizeof(RefineScalars) + 3 * sizeof(Jump)) + 64;
    const std::size_t room = shared > fixed ? std::size_t(shared - fixed) / 4 : 0;
    const struct {
        unsigned bit;
        std::size_t size;
    } wants[] = {{in_bits, a.bit_size},
                 {in_C, a.c_size},
                 {in_M, a.count_size},
                 {in_counts, 2 * a.count_size},
                 {in_atoms, a.y_atoms_size + a.z_atoms_size},
                 {in_X, a.x_size}};
    unsigned placed = 0;
    std::size_t floats = 0;
    for (const auto& want : wants)
        if (floats + want.size <= room) placed |= want.bit, floats += want.size;
    return launch_kernel(refine_block, dim3(unsigned(b.words.count)), dim3(unsigned(threads)), 4 * floats, stream, b,
                         AnnealSchedule(options), passes, placed, int(start));
}

} // namespace

std::size_t refine_state_floats(int rows, int cols, int l) { return RefineLayout(rows, cols, l).total; }

cudaError_t refine_start(const RefineBatch& b, const RefineOptions& options, std::uint64_t seed, int shared,
                         cudaStream_t stream) {
    if (!fits(b, options)) return cudaErrorInvalidValue;
    const unsigned count = unsigned(b.words.count);
    const unsigned groups = unsigned(refine_pool_numbers + (b.words.l + 15) / 16 * 16) / 4 + 1;
    cudaError_t e = launch_kernel(refine_target, dim3(count), dim3(256), 0, stream, b);
    if (e == cudaSuccess)
        e = launch_kernel(refine_random, dim3((groups + 255) / 256, count), dim3(256), 0, stream, b, seed);
    return e == cudaSuccess ? run(b, options, 0, true, shared, stream) : e;
}

cudaError_t refine_passes(const RefineBatch& b, const RefineOptions& options, std::int64_t passes, int shared,
                          cudaStream_t stream) {
    if (!fits(b, options) || passes < 0) return cudaErrorInvalidValue;
    return run(b, options, passes, false, shared, stream);
}

cudaError_t refine_errors(const RefineBatch& b, AnnealErrors* errors, cudaStream_t stream) {
    if (b.words.count < 1 || !b.words.patches || !b.state || !errors) return cudaErrorInvalidValue;
    return launch_kernel(refine_report, dim3(unsigned(b.words.count + 255) / 256), dim3(256), 0, stream, b, errors);
}

cudaError_t refine_count_moving(const RefineBatch& b, int* count, cudaStream_t stream) {
    if (b.words.count < 1 || !b.words.patches || !b.state || !count) return cudaErrorInvalidValue;
    return launch_kernel(refine_moving, dim3(unsigned(b.words.count + 255) / 256), dim3(256), 0, stream, b, count);
}

} // namespace bqq::cuda
