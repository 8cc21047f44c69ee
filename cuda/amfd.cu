#include "amfd.cuh"

#include "amfd_step.cuh"
#include "rng.hpp"

#include <algorithm>

namespace bqq::cuda {
namespace {

constexpr int bilinear_blocks = 8; // of a patch, by phase
constexpr int partial_sums = 4;

// ---- start ----

__global__ void __launch_bounds__(256) amfd_target(AmfdBatch b) {
    SHARED(double, room, [32]);
    SHARED(AmfdView, view, [1]);
    const Patch& patch = b.patches[blockIdx.x];
    if (!patch.active) return;
    if (threadIdx.x == 0) view[0].open(b, blockIdx.x);
    __syncthreads();
    const AmfdView& p = view[0];
    const std::size_t vectors = AmfdLayout(b.rows, b.cols, b.l).vector_size;
    for (std::size_t i = threadIdx.x; i < vectors; i += blockDim.x) p.v.sy[i] = 0;
    __syncthreads();
    const double scale = 1 / patch.divisor;
    double total[1] = {0};
    for (int i = warp_of_thread(); i < b.rows; i += warps_of_block()) {
        double sum = 0;
        for (int j = lane_of_thread(); j < b.cols; j += 32) {
            const bool inside = i < p.m && j < p.n;
            const float x = inside ? float((double(patch.W[i * patch.ldw + j]) - patch.mean) * scale) : 0.0f;
            p.X[std::size_t(i) * p.ldn + j] = x;
            sum += double(x);
        }
        total[0] += sum;
        sum = warp_sum(sum);
        if (lane_of_thread() == 0 && i < p.m) p.v.x_row[i] = float(sum);
    }
    __syncthreads();
    for (int j = int(threadIdx.x); j < p.n; j += int(blockDim.x)) {
        double sum = 0;
        for (int i = 0; i < p.m; ++i) sum += double(p.X[std::size_t(i) * p.ldn + j]);
        p.v.x_col[j] = float(sum);
    }
    block_sum(total, room);
    if (threadIdx.x == 0) {
        AmfdScalars s = {};
        s.x_sum = total[0];
        s.soft = 1;
        *p.scalars = s;
    }
}

// Element order of the streams is row-major over the logical shape; each thread makes four.
__global__ void __launch_bounds__(256) amfd_random(AmfdBatch b, std::uint64_t seed, float eta) {
    const Patch& patch = b.patches[blockIdx.y];
    if (!patch.active) return;
    const AmfdLayout layout(b.rows, b.cols, b.l);
    float* state = b.state + layout.total * blockIdx.y;
    const std::size_t of_y = std::size_t(patch.m) * b.l, of_z = std::size_t(b.l) * patch.n, groups_y = (of_y + 3) / 4,
                      at = std::size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const bool is_z = at >= groups_y;
    const std::size_t group = is_z ? at - groups_y : at, count = is_z ? of_z : of_y;
    if (4 * group >= count) return;
    const detail::Philox philox{{std::uint32_t(seed), std::uint32_t(seed >> 32)},
                                {std::uint32_t(patch.block), std::uint32_t(std::uint64_t(patch.block) >> 32),
                                 std::uint32_t(patch.stack) << 1 | std::uint32_t(is_z)}};
    std::uint32_t values[4];
    philox(std::uint32_t(group), values);
    const std::size_t width = std::size_t(is_z ? patch.n : b.l), ld = std::size_t(is_z ? b.cols : b.l);
    float *x = state + (is_z ? layout.z : layout.y), *old = state + (is_z ? layout.z_old : layout.y_old);
#pragma unroll
    for (int q = 0; q < 4; ++q) {
        const std::size_t e = 4 * group + q, to = e / width * ld + e % width;
        if (e >= count) break;
        const float v = detail::to_uniform(values[q]);
        old[to] = v;
        x[to] = fmaf(-eta, v - 0.5f, v);
    }
}

// ---- one block does all of a patch ----

// Arrays of a patch in the order in which they are given shared memory.
enum Placed : unsigned { in_vectors = 1, in_y = 2, in_z = 4, in_R = 8, in_gy = 16, in_X = 32 };

struct Placement {
    unsigned what;
    std::size_t floats;
};

Placement place(const AmfdLayout& a, std::size_t floats) {
    Placement p{0, 0};
    const struct {
        unsigned bit;
        std::size_t size;
    } wants[] = {{in_vectors, a.vector_size}, {in_y, 2 * a.y_size}, {in_z, 2 * a.z_size}, {in_R, a.x_size},
                 {in_gy, a.y_size},           {in_X, a.x_size}};
    for (const auto& want : wants)
        if (p.floats + want.size <= floats) p.what |= want.bit, p.floats += want.size;
    return p;
}

__device__ __forceinline__ void copy_rows(float* to, const float* from, int rows, int cols, int ld) {
    for (int i = warp_of_thread(); i < rows; i += warps_of_block())
        for (int j = lane_of_thread(); j < cols; j += 32) to[std::size_t(i) * ld + j] = from[std::size_t(i) * ld + j];
}

// Column sums by the whole block: `room` takes the slices that share a column.
__device__ inline void all_columns(const AmfdView& p, const DescentSchedule& o, float* room, int room_floats) {
    const int groups = column_groups(p), slices = max(1, min(4, room_floats / (128 * groups)));
    float sum[4];
    for (int item = warp_of_thread(); item < groups * slices; item += warps_of_block()) {
        column_slice(p, o, item / slices, item % slices, slices, sum);
        if (slices == 1)
            put_column(p, item, lane_of_thread(), sum);
        else
#pragma unroll
            for (int q = 0; q < 4; ++q) room[(item * 4 + q) * 32 + lane_of_thread()] = sum[q];
    }
    if (slices == 1) return;
    __syncthreads();
    for (int group = warp_of_thread(); group < groups; group += warps_of_block()) {
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            sum[q] = 0;
            for (int s = 0; s < slices; ++s) sum[q] += room[((group * slices + s) * 4 + q) * 32 + lane_of_thread()];
        }
        put_column(p, group, lane_of_thread(), sum);
    }
}

// A patch whose arrays named in `placed` lie from `at` on. By one thread.
__device__ inline AmfdView view_in(float* at, const AmfdView& home, const AmfdBatch& b, unsigned placed) {
    AmfdView here = home;
    const AmfdLayout layout(b.rows, b.cols, b.l);
    const auto take = [&at](std::size_t size) {
        at += size;
        return at - size;
    };
    if (placed & in_vectors) here.v.place(take(layout.vector_size), b.rows, b.cols, b.l);
    if (placed & in_y) here.y = take(layout.y_size), here.y_old = take(layout.y_size);
    if (placed & in_z) here.z = take(layout.z_size), here.z_old = take(layout.z_size);
    if (placed & in_R) here.R = take(layout.x_size);
    if (placed & in_gy) here.gy = take(layout.y_size);
    if (placed & in_X) here.X = take(layout.x_size);
    return here;
}

template <int rows, bool rounded> __global__ void __launch_bounds__(4 * rows)
    amfd_block(AmfdBatch b, DescentSchedule o, std::int64_t first, std::int64_t end, unsigned placed) {
    using Tile = ProductTile<rows, rounded>;
    SHARED_DYN(raw);
    SHARED(SolveRoom<rows / 8>, room, [1]);
    SHARED(float, furthest, [rows / 8]);
    SHARED(AmfdScalars, scalars, [1]);
    SHARED(AmfdView, views, [2]); // in global memory; where it is worked on
    if (!b.patches[blockIdx.x].active) return;
    AmfdScalars& s = scalars[0];
    const AmfdView &home = views[0], &p = views[1];
    if (threadIdx.x == 0) {
        views[0].open(b, blockIdx.x);
        views[1] = view_in(reinterpret_cast<float*>(raw + Tile::bytes), views[0], b, placed);
        s = *views[0].scalars;
    }
    __syncthreads();
    const int vectors = int(AmfdLayout(b.rows, b.cols, b.l).vector_size);
    if (placed & in_vectors) copy_rows(p.v.sy, home.v.sy, 1, vectors, vectors);
    if (placed & in_y) copy_rows(p.y, home.y, p.m, p.l, p.l), copy_rows(p.y_old, home.y_old, p.m, p.l, p.l);
    if (placed & in_z) copy_rows(p.z, home.z, p.l, p.n, p.ldn), copy_rows(p.z_old, home.z_old, p.l, p.n, p.ldn);
    if (placed & in_X) copy_rows(p.X, home.X, p.m, p.n, p.ldn);

    Tile tile(raw);
    for (std::int64_t step = first; step < end; ++step) {
        __syncthreads();
        if (s.settled) break;
        const bool moving = step >= 0; // the step before the first only makes the sums
        const float T = float(o.temperature(step));
        float moved = 0;
        if (moving) {
            for (int i = 0; i < p.m; i += Tile::rows)
                for (int j = 0; j < p.n; j += Tile::cols) residual_tile(tile, p, s.a, o.zeta, i, j);
            __syncthreads();
            for (int i = 0; i < p.m; i += Tile::rows)
                for (int k = 0; k < p.l; k += Tile::cols) gradient_y_tile(tile, p, s.a, o.zeta, i, k);
            // What makes gy has been read when the first of these tiles passes its barriers: z may move.
            for (int k = 0; k < p.l; k += Tile::rows)
                for (int j = 0; j < p.n; j += Tile::cols)
                    gradient_z_tile(tile, p, s.a, o.zeta, k, j, [&](int c, int d, float sum) {
                        const int e = c * p.ldn + d;
                        float x = p.z[e], old = p.z_old[e];
                        update(x, old, fmaf(2.0f, sum, p.v.Qz[c]), p.v.Pz[c], o, T, moved);
                        p.z[e] = x, p.z_old[e] = old;
                    });
            __syncthreads();
        }
        rows_of_y(p, o, moving, T, warp_of_thread(), warps_of_block(), moved);
        rows_of_z(p, o, false, T, warp_of_thread(), warps_of_block(), moved);
        moved = warp_max(moved);
        if (lane_of_thread() == 0) furthest[warp_of_thread()] = moved;
        __syncthreads();
        all_columns(p, o, reinterpret_cast<float*>(raw),
                    Tile::bytes / 4); // in order before bilinears by the tiles' barriers
        double dots[2] = {}, lines[2] = {};
        for (int i = 0; i < p.m; i += Tile::rows)
            for (int j = 0; j < p.n; j += Tile::cols) dots_tile(tile, p, i, j, dots);
        bilinears(p, warp_of_thread(), warps_of_block(), lines);
        solve_scales(p, s, {dots[0], dots[1], lines[0], lines[1]}, room[0]);
        if (threadIdx.x == 0 && moving) {
            for (int w = 1; w < warps_of_block(); ++w) moved = fmaxf(moved, furthest[w]);
            finish_step(s, o, moved);
        }
        __syncthreads();
        prepare_step(p, s.a);
    }
    __syncthreads();
    if (placed & in_vectors) copy_rows(home.v.sy, p.v.sy, 1, vectors, vectors);
    if (placed & in_y) copy_rows(home.y, p.y, p.m, p.l, p.l), copy_rows(home.y_old, p.y_old, p.m, p.l, p.l);
    if (placed & in_z) copy_rows(home.z, p.z, p.l, p.n, p.ldn), copy_rows(home.z_old, p.z_old, p.l, p.n, p.ldn);
    if (threadIdx.x == 0) *home.scalars = s;
}

// ---- the blocks of a grid share a patch: a kernel for each phase ----

// The patch of blockIdx.y, opened in shared memory; false if there is nothing to do for it.
__device__ __forceinline__ bool open(const AmfdBatch& b, AmfdView& view) {
    if (threadIdx.x == 0) view.open(b, blockIdx.y);
    __syncthreads();
    return b.patches[blockIdx.y].active && !view.scalars->settled;
}

int tiles(int rows, int cols) { return (rows + 63) / 64 * ((cols + 63) / 64); }
__device__ __forceinline__ int tiles_across(int cols) { return (cols + 63) / 64; }

template <bool rounded> __global__ void __launch_bounds__(256) amfd_residual(AmfdBatch b, float zeta) {
    using Tile = ProductTile<64, rounded>;
    SHARED(float4, room, [Tile::bytes / 16]);
    SHARED(AmfdView, view, [1]);
    const AmfdView& p = view[0];
    if (!open(b, view[0])) return;
    const int across = tiles_across(b.cols), i = int(blockIdx.x) / across * 64, j = int(blockIdx.x) % across * 64;
    Tile tile(reinterpret_cast<unsigned char*>(room));
    residual_tile(tile, p, p.scalars->a, zeta, i, j);
}

// Tiles of gy, then those of gz.
template <bool rounded> __global__ void __launch_bounds__(256) amfd_gradients(AmfdBatch b, float zeta, int of_y) {
    using Tile = ProductTile<64, rounded>;
    SHARED(float4, room, [Tile::bytes / 16]);
    SHARED(AmfdView, view, [1]);
    const AmfdView& p = view[0];
    if (!open(b, view[0])) return;
    Tile tile(reinterpret_cast<unsigned char*>(room));
    const bool is_z = int(blockIdx.x) >= of_y;
    const int at = int(blockIdx.x) - (is_z ? of_y : 0), across = tiles_across(is_z ? b.cols : b.l);
    const int i = at / across * 64, j = at % across * 64;
    if (is_z)
        gradient_z_tile(tile, p, p.scalars->a, zeta, i, j,
                        [&](int k, int c, float sum) { p.gz[std::size_t(k) * p.ldn + c] = sum; });
    else
        gradient_y_tile(tile, p, p.scalars->a, zeta, i, j);
}

__global__ void __launch_bounds__(256) amfd_update(AmfdBatch b, DescentSchedule o, float T, int moving) {
    SHARED(AmfdView, view, [1]);
    const AmfdView& p = view[0];
    if (!open(b, view[0])) return;
    const int first = int(blockIdx.x) * warps_of_block() + warp_of_thread(), step = int(gridDim.x) * warps_of_block();
    float moved = 0;
    rows_of_y(p, o, moving != 0, T, first, step, moved);
    rows_of_z(p, o, moving != 0, T, first, step, moved);
    moved = warp_max(moved);
    // Numbers that are not negative are ordered as their bits are.
    if (lane_of_thread() == 0) atomicMax(reinterpret_cast<int*>(&p.scalars->moved), __float_as_int(moved));
}

__global__ void __launch_bounds__(256) amfd_columns(AmfdBatch b, DescentSchedule o) {
    SHARED(float, room, [8 * 4 * 32]);
    SHARED(AmfdView, view, [1]);
    const AmfdView& p = view[0];
    if (!open(b, view[0]) || int(blockIdx.x) >= column_groups(p)) return;
    float sum[4];
    column_slice(p, o, int(blockIdx.x), warp_of_thread(), 8, sum);
#pragma unroll
    for (int c = 0; c < 4; ++c) room[(warp_of_thread() * 4 + c) * 32 + lane_of_thread()] = sum[c];
    __syncthreads();
    if (warp_of_thread() == 0) {
#pragma unroll
        for (int c = 0; c < 4; ++c)
            for (int w = 1; w < 8; ++w) sum[c] += room[(w * 4 + c) * 32 + lane_of_thread()];
        put_column(p, int(blockIdx.x), lane_of_thread(), sum);
    }
}

// A tile of y z a block, then blocks with rows of the bilinear forms.
template <bool rounded> __global__ void __launch_bounds__(256) amfd_dots(AmfdBatch b, int of_products) {
    using Tile = ProductTile<64, rounded>;
    SHARED(float4, room, [Tile::bytes / 16]);
    SHARED(double, sums_room, [8 * partial_sums]);
    SHARED(AmfdView, view, [1]);
    const AmfdView& p = view[0];
    if (!open(b, view[0])) return;
    double dots[2] = {}, lines[2] = {};
    const int at = int(blockIdx.x), across = tiles_across(b.cols);
    if (at < of_products) {
        Tile tile(reinterpret_cast<unsigned char*>(room));
        dots_tile(tile, p, at / across * 64, at % across * 64, dots);
    } else {
        bilinears(p, (at - of_products) * 8 + warp_of_thread(), bilinear_blocks * 8, lines);
    }
    double sums[partial_sums] = {dots[0], dots[1], lines[0], lines[1]};
    block_sum(sums, sums_room);
    if (threadIdx.x == 0) {
        double* out = b.partial + (std::size_t(blockIdx.y) * gridDim.x + blockIdx.x) * partial_sums;
#pragma unroll
        for (int c = 0; c < partial_sums; ++c) out[c] = sums[c];
    }
}

__global__ void __launch_bounds__(256) amfd_solve(AmfdBatch b, DescentSchedule o, int parts, int moving) {
    SHARED(SolveRoom<8>, room, [1]);
    SHARED(AmfdScalars, scalars, [1]);
    SHARED(AmfdView, view, [1]);
    const AmfdView& p = view[0];
    if (!open(b, view[0])) return;
    if (threadIdx.x == 0) scalars[0] = *p.scalars;
    double sums[partial_sums] = {};
    const double* in = b.partial + std::size_t(blockIdx.y) * parts * partial_sums;
    for (int i = int(threadIdx.x); i < parts; i += int(blockDim.x))
#pragma unroll
        for (int c = 0; c < partial_sums; ++c) sums[c] += in[i * partial_sums + c];
    solve_scales(p, scalars[0], sums, room[0]);
    if (threadIdx.x == 0 && moving) finish_step(scalars[0], o, scalars[0].moved);
    __syncthreads();
    prepare_step(p, scalars[0].a);
    if (threadIdx.x == 0) {
        scalars[0].moved = 0; // what the next update raises
        *p.scalars = scalars[0];
    }
}

// ---- rounding ----

// A thread makes a word: of rows of Y first, then of columns of Z.
__global__ void __launch_bounds__(256) amfd_bits(AmfdBatch b, WordBatch words, int stack) {
    const Patch& patch = b.patches[blockIdx.y];
    if (!patch.active) return;
    const AmfdLayout layout(b.rows, b.cols, b.l);
    const float* state = b.state + layout.total * blockIdx.y;
    const int lw = words_of(b.l), at = int(blockIdx.x * blockDim.x + threadIdx.x);
    const std::size_t plane = std::size_t(blockIdx.y) * words.stacks + stack;
    std::uint32_t bits = 0;
    if (at < patch.m * lw) {
        const float* y = state + layout.y + std::size_t(at / lw) * b.l;
#pragma unroll 4
        for (int k = at % lw * 32, q = 0; q < 32 && k < b.l; ++q, ++k) bits |= std::uint32_t(y[k] > 0.5f) << q;
        words.Y[plane * words.rows * lw + at] = bits;
    } else if (at - patch.m * lw < patch.n * lw) {
        const int of_z = at - patch.m * lw, column = of_z % patch.n, word = of_z / patch.n;
        const float* z = state + layout.z + column;
#pragma unroll 4
        for (int k = 32 * word, q = 0; q < 32 && k < b.l; ++q, ++k)
            bits |= std::uint32_t(z[std::size_t(k) * b.cols] > 0.5f) << q;
        words.Z[plane * words.cols * lw + std::size_t(column) * lw + word] = bits;
    }
}

__global__ void __launch_bounds__(256) amfd_moving(AmfdBatch b, int* count) {
    const int at = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= b.count || !b.patches[at].active) return;
    const AmfdLayout layout(b.rows, b.cols, b.l);
    if (!reinterpret_cast<const AmfdScalars*>(b.state + layout.total * at + layout.scalars)->settled)
        atomicAdd(count, 1);
}

// ---- host ----

bool fits(const AmfdBatch& b) {
    return b.count >= 1 && b.count <= 65535 && b.rows >= 1 && b.cols >= 1 && b.l >= 1 && b.rows <= 1 << 15 &&
           b.cols <= 1 << 15 && b.l <= 65535 && b.patches && b.state;
}

template <int rows, bool rounded> cudaError_t run_block(const AmfdBatch& b, const DescentSchedule& o,
                                                        std::int64_t first, std::int64_t end, int shared,
                                                        cudaStream_t stream) {
    using Tile = ProductTile<rows, rounded>;
    constexpr int fixed = int(sizeof(SolveRoom<rows / 8>) + sizeof(AmfdScalars) + 2 * sizeof(AmfdView)) + rows / 2 + 64;
    const int room = shared - fixed - Tile::bytes;
    if (room < 0) return cudaErrorInvalidValue;
    const Placement placed = place(AmfdLayout(b.rows, b.cols, b.l), std::size_t(room) / 4);
    return launch_kernel(amfd_block<rows, rounded>, dim3(unsigned(b.count)), dim3(4 * rows),
                         Tile::bytes + 4 * placed.floats, stream, b, o, first, end, placed.what);
}

template <bool rounded> cudaError_t run_phases(const AmfdBatch& b, const DescentSchedule& o, std::int64_t first,
                                               std::int64_t end, cudaStream_t stream) {
    if (!b.partial) return cudaErrorInvalidValue;
    const unsigned count = unsigned(b.count);
    const int of_products = tiles(b.rows, b.cols), of_y = tiles(b.rows, b.l), of_z = tiles(b.l, b.cols);
    const int groups = (b.l + 31) / 32 + (b.cols + 31) / 32, parts = of_products + bilinear_blocks;
    const unsigned row_blocks = unsigned((b.rows + b.l + 7) / 8);
    for (std::int64_t step = first; step < end; ++step) {
        const int moving = step >= 0;
        const float T = float(o.temperature(step));
        cudaError_t e = cudaSuccess;
        const auto launch = [&](auto kernel, unsigned blocks, auto... args) {
            if (e == cudaSuccess) e = launch_kernel(kernel, dim3(blocks, count), dim3(256), 0, stream, b, args...);
        };
        if (moving) {
            launch(amfd_residual<rounded>, unsigned(of_products), o.zeta);
            launch(amfd_gradients<rounded>, unsigned(of_y + of_z), o.zeta, of_y);
        }
        launch(amfd_update, row_blocks, o, T, moving);
        launch(amfd_columns, unsigned(groups), o);
        launch(amfd_dots<rounded>, unsigned(parts), of_products);
        launch(amfd_solve, 1u, o, parts, moving);
        if (e != cudaSuccess) return e;
    }
    return cudaSuccess;
}

cudaError_t run(const AmfdBatch& b, const DescentSchedule& o, std::int64_t first, std::int64_t end,
                const AmfdLaunch& launch, cudaStream_t stream) {
    if (!fits(b)) return cudaErrorInvalidValue;
    if (launch.by_phase)
        return launch.rounded ? run_phases<true>(b, o, first, end, stream)
                              : run_phases<false>(b, o, first, end, stream);
    const bool tall = b.rows > 64;
    if (launch.rounded)
        return tall ? run_block<128, true>(b, o, first, end, launch.shared, stream)
                    : run_block<64, true>(b, o, first, end, launch.shared, stream);
    return tall ? run_block<128, false>(b, o, first, end, launch.shared, stream)
                : run_block<64, false>(b, o, first, end, launch.shared, stream);
}

} // namespace

std::size_t amfd_state_floats(int rows, int cols, int l) { return AmfdLayout(rows, cols, l).total; }

std::size_t amfd_partial_doubles(int count, int rows, int cols) {
    return std::size_t(count) * std::size_t(tiles(rows, cols) + bilinear_blocks) * partial_sums;
}

AmfdLaunch amfd_launch(int count, int rows, int cols, int l, int shared, int processors, bool rounded) {
    const AmfdLayout a(rows, cols, l);
    const std::size_t variables = 4 * (a.vector_size + 2 * a.y_size + 2 * a.z_size) + 24 * 1024;
    // Two blocks on a multiprocessor hide each other's barriers, where that costs neither of them R.
    const int half = shared / 2 - 1024;
    const bool two = count > processors && variables + 4 * a.x_size <= std::size_t(half);
    return {rounded, variables > std::size_t(shared) && count < processors, two ? half : shared};
}

cudaError_t amfd_start(const AmfdBatch& b, const AmfdOptions& options, std::uint64_t seed, const AmfdLaunch& launch,
                       cudaStream_t stream) {
    if (!fits(b)) return cudaErrorInvalidValue;
    const std::size_t values = AmfdLayout::up(std::size_t(b.rows) * b.l) + AmfdLayout::up(std::size_t(b.l) * b.cols);
    cudaError_t e = launch_kernel(amfd_target, dim3(unsigned(b.count)), dim3(256), 0, stream, b);
    if (e == cudaSuccess)
        e = launch_kernel(amfd_random, dim3(unsigned((values / 4 + 255) / 256), unsigned(b.count)), dim3(256), 0,
                          stream, b, seed, float(options.eta));
    return e == cudaSuccess ? run(b, DescentSchedule(options), -1, 0, launch, stream) : e;
}

cudaError_t amfd_steps(const AmfdBatch& b, const AmfdOptions& options, std::int64_t first, std::int64_t count,
                       const AmfdLaunch& launch, cudaStream_t stream) {
    if (first < 0 || count < 0 || first + count > options.steps) return cudaErrorInvalidValue;
    return run(b, DescentSchedule(options), first, first + count, launch, stream);
}

cudaError_t amfd_round(const AmfdBatch& b, const WordBatch& words, int stack, cudaStream_t stream) {
    if (!fits(b) || words.count != b.count || words.rows != b.rows || words.cols != b.cols || words.l != b.l ||
        stack < 0 || stack >= words.stacks || !words.Y || !words.Z)
        return cudaErrorInvalidValue;
    const unsigned threads = unsigned(b.rows + b.cols) * unsigned(words_of(b.l));
    return launch_kernel(amfd_bits, dim3((threads + 255) / 256, unsigned(b.count)), dim3(256), 0, stream, b, words,
                         stack);
}

cudaError_t amfd_count_moving(const AmfdBatch& b, int* count, cudaStream_t stream) {
    if (!fits(b) || !count) return cudaErrorInvalidValue;
    return launch_kernel(amfd_moving, dim3(unsigned(b.count + 255) / 256), dim3(256), 0, stream, b, count);
}

} // namespace bqq::cuda
