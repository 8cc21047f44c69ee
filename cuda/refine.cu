#include "refine.cuh"

#include "refine_pass.cuh"
#include "rng.hpp"

#include <algorithm>
#include <cmath>
#include <type_traits>

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
    float *x_row = state + layout.X_sums, *x_col = x_row + b.words.rows;
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

enum Placed : unsigned {
    in_bits = 1,
    in_C = 2,
    in_counts = 4,
    in_atoms = 8,
    in_X = 16,
    in_pool = 32,
    near_core = in_bits | in_C | in_counts,
    near_all = near_core | in_atoms | in_X
};

template <class T> __device__ __forceinline__ void copy(T* to, const T* from, int count) {
    for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) to[i] = from[i];
}
template <class T> __device__ __forceinline__ void clear(T* to, std::size_t count) {
    for (std::size_t i = threadIdx.x; i < count; i += blockDim.x) to[i] = 0;
}
__device__ __forceinline__ void copy_atoms(const RefineView& p, const RefineSide& side, float* to, const float* from) {
    for (int k = warp_of_thread(); k < p.l; k += warps_of_block())
        for (int i = lane_of_thread(); i < side.count; i += 32) to[k * side.ld + i] = from[k * side.ld + i];
}

// Where a block works on its patch: what is not `placed` in shared memory is in global memory.
__device__ inline RefineView open(const RefineBatch& b, int at, float* shared, unsigned placed) {
    const WordBatch& words = b.words;
    const RefineLayout a(words.rows, words.cols, words.l);
    float* state = b.state + a.total * at;
    const auto take = [&](unsigned bit, std::size_t home, std::size_t size) {
        if (!(placed & bit)) return state + home;
        shared += size;
        return shared - size;
    };
    const int l = words.l, lw = words_of(l);
    RefineView p{};
    p.l = l, p.words = lw, p.bit_rows = a.bit_rows, p.tall = a.tall, p.ld_c = a.ld_c, p.planes = a.planes;
    float* some = take(in_bits, a.bits, a.bit_size);
    const auto next = [&some](auto*& to, int count) {
        to = reinterpret_cast<std::remove_reference_t<decltype(to)>>(some);
        some += count;
    };
    p.C = take(in_C, a.C, a.c_size);
    p.y.counts = reinterpret_cast<std::uint32_t*>(take(in_counts, a.y_counts, a.count_size));
    p.z.counts = reinterpret_cast<std::uint32_t*>(take(in_counts, a.z_counts, a.count_size));
    p.y.atoms = take(in_atoms, a.y_atoms, a.y_atoms_size), p.z.atoms = take(in_atoms, a.z_atoms, a.z_atoms_size);
    const bool near = (placed & in_X) != 0; // one copy serves both sides: its rows are odd
    float* X = take(in_X, a.X, a.x_size);
    p.y.X = X, p.y.i_step = a.ld_z, p.y.j_step = 1;
    p.z.X = near ? X : state + a.XT, p.z.i_step = near ? 1 : a.ld_y, p.z.j_step = near ? a.ld_z : 1;
    p.y.count = words.patches[at].m, p.z.count = words.patches[at].n, p.y.ld = a.ld_y, p.z.ld = a.ld_z;
    p.pool = take(in_pool, a.pool, a.pool_size);
    next(p.y.bits, words.rows * lw), next(p.z.bits, words.cols * lw);
    next(p.y.columns, l * a.bit_rows), next(p.z.columns, l * a.bit_rows), next(p.changed, l * a.bit_rows);
    next(p.held, l), next(p.slope, l), next(p.shift, l), next(p.diag, l);
    next(p.y.nu, l), next(p.y.ones, l), next(p.y.next_ones, l);
    next(p.z.nu, l), next(p.z.ones, l), next(p.z.next_ones, l);
    next(p.y.X_sum, words.rows), next(p.z.X_sum, words.cols);
    return p;
}

// Everything that follows from the bits, which have been copied; atoms if this is the first launch. By all threads.
template <int near> __device__ inline void begin(const RefineView& p, const float* state, RefineRoom& room,
                                                 const RefineLayout& home, unsigned placed, bool start) {
    if (placed & in_X)
        for (int i = warp_of_thread(); i < p.y.count; i += warps_of_block())
            for (int j = lane_of_thread(); j < p.z.count; j += 32)
                const_cast<float*>(p.y.X)[i * p.y.i_step + j] = state[home.X + i * p.y.i_step + j];
    if (placed & in_pool) copy(const_cast<float*>(p.pool), state + home.pool, refine_pool_numbers + p.l);
    const auto clear_side = [&](const RefineSide& side) {
        clear(side.counts, home.count_size), clear(side.next_ones, std::size_t(p.l));
        make_columns(p, side);
    };
    clear_side(p.y), clear_side(p.z);
    __syncthreads();
    if (start)
        make_atoms<near>(p, p.y, p.z), make_atoms<near>(p, p.z, p.y);
    else if (placed & in_atoms)
        copy_atoms(p, p.y, p.y.atoms, room.home.y_atoms), copy_atoms(p, p.z, p.z.atoms, room.home.z_atoms);
    if (!start) clear(p.changed, std::size_t(p.l) * p.bit_rows);
    (void)count_pairs<near>(p, p.y, p.z); // where z has none yet
    __syncthreads();
    sum_for_scales<near>(p, p.y, true, count_pairs<near>(p, p.z, p.y), room);
}

// What a turn leaves: sums to be added up, and whether its pair counts were made anew.
__device__ __forceinline__ void use_next_ones(RefineSide& side) {
    int* now = side.next_ones;
    side.next_ones = side.ones, side.ones = now;
}

// A turn is: the scales by warp 0 while all warps multiply bits and counts; the sweep; atoms, counts and sums.
template <int W, int near> __global__ void __launch_bounds__(512)
    refine_block(RefineBatch b, AnnealSchedule o, std::int64_t passes, unsigned placed, int start) {
    SHARED_DYN(raw);
    SHARED(RefineRoom, rooms, [1]);
    SHARED(RefineView, views, [1]);
    SHARED(RefineScalars, scalars, [1]);
    SHARED(Jump, jumps, [27]); // by a row to eight; to a warp; by the block's rows; by those of Y, of Z
    const int at = int(blockIdx.x);
    if (!b.words.patches[at].active) return;
    const RefineLayout layout(b.words.rows, b.words.cols, b.words.l);
    RefineScalars* kept = reinterpret_cast<RefineScalars*>(b.state + layout.total * at + layout.scalars);
    if (!start && kept->anneal.phase == AnnealPhase::done) return;
    RefineScalars& s = scalars[0];
    RefineRoom& room = rooms[0];
    RefineView& p = views[0];
    if (threadIdx.x == 0) {
        p = open(b, at, reinterpret_cast<float*>(raw), placed);
        s = *kept, room.flips = 0, room.passes = 0;
        float* state = b.state + layout.total * at;
        const std::size_t plane = std::size_t(at) * b.words.stacks + b.stack;
        room.home = {kept, state + layout.y_atoms, state + layout.z_atoms, b.words.Y + plane * b.words.rows * p.words,
                     b.words.Z + plane * b.words.cols * p.words};
    }
    if (const int i = int(threadIdx.x); i < 27)
        jumps[i] = steps_of_generator(i < 8     ? i + 1
                                      : i < 24  ? 8 * (i - 8)
                                      : i == 24 ? 8 * warps_of_block()
                                      : i == 25 ? b.words.patches[at].m
                                                : b.words.patches[at].n);
    __syncthreads();
    copy(p.y.bits, room.home.Y, p.y.count * p.words), copy(p.z.bits, room.home.Z, p.z.count * p.words);
    const float* X_sums = b.state + layout.total * at + layout.X_sums;
    copy(const_cast<float*>(p.y.X_sum), X_sums, p.y.count);
    copy(const_cast<float*>(p.z.X_sum), X_sums + b.words.rows, p.z.count);
    __syncthreads();
    begin<near>(p, b.state + layout.total * at, room, layout, placed, start != 0);
    bool counted = true, first = true;
#pragma unroll 1
    for (bool of_z = false;; of_z = !of_z) {
        __syncthreads();
        if (warp_of_thread() == 0) {
            if (lane_of_thread() == 0 && counted) {
                if (first || of_z) use_next_ones(p.y);
                if (first || !of_z) use_next_ones(p.z);
            }
            __syncwarp();
            if (start || !first) solve_scales(p, s, room);
            if (lane_of_thread() == 0) {
                const double size = double(p.y.count) * double(p.z.count);
                if (!first) s.random = jumps[of_z ? 25 : 26](s.random);
                if (first && start) s.initial_error = s.error, s.anneal.begin(o, s.error / size);
                if (!first && !of_z) {
                    s.anneal.advance(o, double(room.flips), double(p.l) * double(p.y.count + p.z.count),
                                     s.error / size);
                    room.flips = 0;
                }
                if (!of_z) room.over = passes == room.passes++ || s.anneal.phase == AnnealPhase::done;
            }
            __syncwarp();
            make_problem(p, of_z ? p.y : p.z, s, of_z, room.meets);
        }
        const RefineSide &side = of_z ? p.z : p.y, &other = of_z ? p.y : p.z;
        multiply_counts<near>(p, side, other);
        first = false;
        __syncthreads();
        if (!of_z) {
            if (room.over) break;
            if (s.anneal.recount_due()) {
                make_atoms<near>(p, p.y, p.z), make_atoms<near>(p, p.z, p.y);
                __syncthreads();
            }
        }
        const Sweep sweep{room.meets, jumps[lane_of_thread() % 8](jumps[8 + warp_of_thread()](s.random)), jumps[24]};
        clear(side.next_ones, std::size_t(p.l));
        const int flips = anneal_rows<W, near>(p, side, other, sweep);
        if (lane_of_thread() == 0 && flips) atomicAdd(&room.flips, flips);
        counted = __syncthreads_or(flips) != 0;
        unsigned long long pairs = 0;
        if (counted) {
            move_atoms<near>(p, side, other);
            pairs = count_pairs<near>(p, side, other);
        }
        sum_for_scales<near>(p, side, counted, pairs, room);
    }
    copy(room.home.Y, p.y.bits, p.y.count * p.words), copy(room.home.Z, p.z.bits, p.z.count * p.words);
    if (placed & in_atoms)
        copy_atoms(p, p.y, room.home.y_atoms, p.y.atoms), copy_atoms(p, p.z, room.home.z_atoms, p.z.atoms);
    if (threadIdx.x == 0) *room.home.scalars = s;
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
    const int fixed = int(sizeof(RefineRoom) + sizeof(RefineView) + sizeof(RefineScalars) + 27 * sizeof(Jump)) + 64;
    // Two blocks of 256 threads may share a multiprocessor.
    const std::size_t room = shared > fixed ? std::size_t(shared - fixed) / 4 : 0,
                      half = std::size_t(std::max(0, shared / 2 - 1024 - fixed)) / 4;
    const struct {
        unsigned bit;
        std::size_t size, room;
    } wants[] = {{in_bits, a.bit_size, room},
                 {in_C, a.c_size, room},
                 {in_counts, 2 * a.count_size, room},
                 {in_atoms, a.y_atoms_size + a.z_atoms_size, room},
                 {in_X, a.x_size, room},
                 {in_pool, a.pool_size, threads == 512 ? room : half}};
    unsigned placed = 0;
    std::size_t floats = 0;
    for (const auto& want : wants)
        if (floats + want.size <= want.room) placed |= want.bit, floats += want.size;
    const bool core = (placed & near_core) == near_core, all = (placed & near_all) == near_all;
    const auto kernel = all && b.words.l <= 32     ? refine_block<1, 2>
                        : all && b.words.l <= 64   ? refine_block<2, 2>
                        : core && b.words.l <= 64  ? refine_block<2, 1>
                        : core && b.words.l <= 128 ? refine_block<4, 1>
                                                   : refine_block<0, 0>;
    return launch_kernel(kernel, dim3(unsigned(b.words.count)), dim3(unsigned(threads)), 4 * floats, stream, b,
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
