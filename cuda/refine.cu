#include "refine.cuh"

#include "block.cuh"
#include "rng.hpp"
#include "solve4.cuh"

#include <algorithm>
#include <cmath>

namespace bqq::cuda {
namespace {

// As in cpp/src/refine.cpp.
constexpr int pool_numbers = 8192;
constexpr int heating_sweeps = 100, first_passes = 30, last_passes = 200, recount_every = 64;

// x -> a x + c, modulo 2^64.
struct Jump {
    unsigned long long a, c;
    __device__ __forceinline__ unsigned long long operator()(unsigned long long x) const { return a * x + c; }
};

// `count` steps of the generator that places the rows' windows in the pool.
__device__ inline Jump steps_of_generator(int count) {
    Jump all{1, 0}, power{6364136223846793005ull, 1442695040888963407ull};
    for (; count; count >>= 1) {
        if (count & 1) all = {all.a * power.a, power(all.c)};
        power = {power.a * power.a, power(power.c)};
    }
    return all;
}

struct Options {
    double T_first, hotter, cooling, melting;
    std::int64_t sweeps, heating;
};

// One side of the factorisation: `count` rows of bits (Y, or Z transposed), and what the other side makes of X.
struct Side {
    int count, words, ld;          // rows; words of a row; floats of a row of atoms
    int i_step, j_step;            // X of row i and the other side's row j: X[i * i_step + j * j_step]
    std::uint32_t *bits, *columns; // count x words; l x bit_rows, the transpose
    const float *X, *X_sum;
    float *counts, *nu, *atoms; // l x l: <column k, column q>; its diagonal; l x ld: sum_j other_jk X_ij
};

struct View {
    int l, bit_rows;
    Side y, z;
    std::uint32_t* before; // of the side that is swept
    float *C, *M, *held, *slope, *diagonal, *pool;
};

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
    const int count = pool_numbers + (b.words.l + 15) / 16 * 16; // the CPU pads l to 16
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

// ---- parts of a pass, by the whole block ----

__device__ __forceinline__ int bits_in(const std::uint32_t* words, int count) {
    int sum = 0;
    for (int w = 0; w < count; ++w) sum += __popc(words[w]);
    return sum;
}

// The columns of a side's bits and, in the order of its rows, what their changes since `before` (NULL: from zero) add
// to the other side's atoms. A warp has a column.
__device__ inline void move_atoms(const View& p, const Side& side, const Side& other, const std::uint32_t* before) {
    const int lane = lane_of_thread();
    for (int k = warp_of_thread(); k < p.l; k += warps_of_block()) {
        float* atoms = other.atoms + k * other.ld;
        if (!before)
            for (int j = lane; j < other.count; j += 32) atoms[j] = 0;
        for (int first = 0; first < side.count; first += 32) {
            const int at = (first + lane) * side.words + k / 32;
            const bool inside = first + lane < side.count;
            const unsigned now = inside ? side.bits[at] >> (k % 32) & 1u : 0u;
            const unsigned old = inside && before ? before[at] >> (k % 32) & 1u : 0u;
            const unsigned column = __ballot_sync(full_warp, int(now));
            unsigned changed = __ballot_sync(full_warp, int(now ^ old));
            if (lane == 0) side.columns[k * p.bit_rows + first / 32] = column;
            while (changed) {
                const int i = __ffs(int(changed)) - 1;
                changed &= changed - 1;
                const float d = column >> i & 1u ? 1.0f : -1.0f;
                const float* X = side.X + std::size_t(first + i) * side.i_step;
                for (int j = lane; j < other.count; j += 32)
                    atoms[j] = fmaf(d, X[std::size_t(j) * side.j_step], atoms[j]);
            }
        }
    }
}

__device__ inline void count_pairs(const View& p, const Side& side) {
    const int words = words_of(side.count);
    for (int k = warp_of_thread(); k < p.l; k += warps_of_block())
        for (int q = lane_of_thread(); q < p.l; q += 32) {
            int sum = 0;
            for (int w = 0; w < words; ++w)
                sum += __popc(side.columns[k * p.bit_rows + w] & side.columns[q * p.bit_rows + w]);
            side.counts[k * p.l + q] = float(sum);
            if (q == k) side.nu[k] = float(sum);
        }
}

// With atoms Phi_k = r O_k + s 1 of the other side's bits O: M = -Gram, and what no bit of this side moves.
__device__ inline void make_problem(const View& p, const Side& other, float all_nu, double r, double s, double t,
                                    double u) {
    const double size = double(other.count), all = s * (t * double(all_nu) + u * size);
    const float a = float(-r * r), b = float(-r * s);
    for (int k = warp_of_thread(); k < p.l; k += warps_of_block()) {
        const float nu = other.nu[k];
        float sum = 0;
        for (int q = lane_of_thread(); q < p.l; q += 32) {
            const float count = other.counts[k * p.l + q], nu_q = other.nu[q];
            const float c = float(-r * s * double(nu_q) - s * s * size);
            const float m = fmaf(a, count, fmaf(b, nu, c));
            p.M[k * p.l + q] = m;
            if (q == k) p.diagonal[k] = -m;
            sum += count;
        }
        sum = warp_sum(sum);
        if (lane_of_thread() == 0) {
            p.held[k] = float(r * (t * double(sum) + u * double(nu)) + all);
            p.slope[k] = float(-r * s) * nu; // of rho in the correlations
        }
    }
}

// C = bits N on tensor cores, exactly: counts as 256 times a high and a low part of eight bits each.
__device__ inline void multiply_counts(const View& p, const Side& side, const Side& other) {
    const int lane = lane_of_thread(), g = lane / 4, t = lane % 4;
    const int across = (p.l + 7) / 8, tiles = (side.count + 15) / 16 * across;
    const bool high = other.count > 255;
    for (int item = warp_of_thread(); item < tiles; item += warps_of_block()) {
        const int row = item / across * 16 + g, q = item % across * 8 + g;
        float low_sum[4] = {}, high_sum[4] = {};
        for (int k = 0; k < p.l; k += 16) {
            std::uint32_t a[4], low[2], above[2];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int i = row + e % 2 * 8, from = k + e / 2 * 8 + 2 * t;
                const std::uint32_t two = i < side.count ? side.bits[i * side.words + from / 32] >> (from % 32) : 0u;
                a[e] = ((two & 1u) | (two & 2u) << 15) * 0x3F80u;
            }
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int from = k + e * 8 + 2 * t;
                const int x = q < p.l && from < p.l ? int(other.counts[q * p.l + from]) : 0,
                          y = q < p.l && from + 1 < p.l ? int(other.counts[q * p.l + from + 1]) : 0;
                low[e] = pack_bf16(float(x & 255), float(y & 255)), above[e] = pack_bf16(float(x >> 8), float(y >> 8));
            }
            mma_bf16(low_sum, a, low);
            if (high) mma_bf16(high_sum, a, above);
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int i = row + e / 2 * 8, column = item % across * 8 + 2 * t + e % 2;
            if (i < side.count && column < p.l) p.C[i * p.l + column] = fmaf(256.0f, high_sum[e], low_sum[e]);
        }
    }
}

// A Metropolis sweep over the rows of a side, a warp each. Bits are visited in order: lanes behind one that flips look
// again. Returns this thread's flips (counted by lane 0).
__device__ inline int anneal_rows(const View& p, const Side& side, const Side& other, float r, float s, float T,
                                  unsigned long long random, const Jump& stride) {
    const int lane = lane_of_thread();
    const float size = float(other.count), rr = -r * r, rs = -r * s;
    int flips = 0;
    for (int row = warp_of_thread(); row < side.count; row += warps_of_block(), random = stride(random)) {
        float* c = p.C + row * p.l;
        const float* e = p.pool + int(random >> 40) % pool_numbers;
        const int rho = bits_in(side.bits + row * side.words, side.words);
        float weighted = 0;
        for (int w = 0; w < side.words; ++w) {
            const unsigned word = side.bits[row * side.words + w];
            if (lane == 0) p.before[row * side.words + w] = word;
            if (word >> lane & 1u) weighted += other.nu[32 * w + lane];
        }
        weighted = warp_sum(weighted);
        const float constant = fmaf(rs, weighted, s * side.X_sum[row] - size * s * s * float(rho));
        for (int q = lane; q < p.l; q += 32) {
            const float sum = fmaf(p.slope[q], float(rho), constant) - p.held[q];
            c[q] = fmaf(rr, c[q], fmaf(r, side.atoms[q * side.ld + row], sum));
        }
        for (int w = 0; w < side.words; ++w) {
            const int q = 32 * w + lane;
            const bool inside = q < p.l;
            const float diagonal = inside ? p.diagonal[q] : 0.0f, bar = inside ? -T * e[q] : 0.0f;
            unsigned word = side.bits[row * side.words + w], pending = full_warp;
            const unsigned start = word;
            while (pending) {
                const float d = word >> lane & 1u ? -1.0f : 1.0f;
                const bool wins = inside && 2 * d * c[q] - diagonal > bar;
                const unsigned winners = __ballot_sync(full_warp, wins) & pending;
                if (!winners) break;
                const int first = __ffs(int(winners)) - 1, k = 32 * w + first;
                const float step = word >> first & 1u ? -1.0f : 1.0f;
                const float* M = p.M + k * p.l;
                for (int j = lane; j < p.l; j += 32) c[j] = fmaf(step, M[j], c[j]);
                word ^= 1u << first;
                pending = first == 31 ? 0u : full_warp << (first + 1);
            }
            __syncwarp(); // all lanes have read the word
            if (lane == 0 && word != start) side.bits[row * side.words + w] = word, flips += __popc(word ^ start);
        }
    }
    return flips;
}

constexpr int solve_sums = 11;

struct Room {
    double sums[16 * solve_sums], total[solve_sums];
    float nu[2]; // sums of nu of Y, of Z
    int flips[16];
    Solve4 solve;
};

// The scales for the bits as they are. `moved` is the side whose atoms fit both.
__device__ inline void solve_scales(const View& p, const Side& moved, RefineScalars& out, Room& room) {
    const int lane = lane_of_thread();
    const Side &y = p.y, &z = p.z;
    {
        double s[4] = {};    // <Gy, Gz>, nu_z Gy 1, 1 Gy 1, b_r
        double more[2] = {}; // nu_y Gz 1, 1 Gz 1
        for (int k = warp_of_thread(); k < p.l; k += warps_of_block()) {
            double of_y = 0, of_z = 0;
            for (int q = lane; q < p.l; q += 32) {
                const float a = y.counts[k * p.l + q], b = z.counts[k * p.l + q];
                s[0] += double(a) * double(b), of_y += double(a), of_z += double(b);
            }
            s[1] += of_y * double(z.nu[k]), s[2] += of_y, more[0] += of_z * double(y.nu[k]), more[1] += of_z;
            float sum = 0;
            for (int i = lane; i < moved.count; i += 32)
                if (moved.columns[k * p.bit_rows + i / 32] >> lane & 1u) sum += moved.atoms[k * moved.ld + i];
            s[3] += double(sum);
        }
        warp_sums(s, room.sums, solve_sums);
        warp_sums(more, room.sums + 4, solve_sums);
    }
    {
        double s[5] = {}; // sums of nu_y, nu_z, nu_y nu_z; b_s, b_t
        for (int k = int(threadIdx.x); k < p.l; k += int(blockDim.x)) {
            const double a = double(y.nu[k]), b = double(z.nu[k]);
            s[0] += a, s[1] += b, s[2] += a * b;
        }
        for (int i = int(threadIdx.x); i < y.count; i += int(blockDim.x))
            s[3] += double(y.X_sum[i]) * bits_in(y.bits + i * y.words, y.words);
        for (int i = int(threadIdx.x); i < z.count; i += int(blockDim.x))
            s[4] += double(z.X_sum[i]) * bits_in(z.bits + i * z.words, z.words);
        warp_sums(s, room.sums + 6, solve_sums);
    }
    __syncthreads();
    if (int(threadIdx.x) < solve_sums) room.total[threadIdx.x] = sum_of_warps(room.sums, solve_sums, int(threadIdx.x));
    __syncthreads();
    if (threadIdx.x == 0) {
        const double* s = room.total;
        const double m = double(y.count), n = double(z.count), all_y = s[6], all_z = s[7];
        room.solve.system = {{{s[0], s[1], s[4], s[8]},
                              {s[1], n * s[2], all_y * all_z, n * all_y},
                              {s[4], all_y * all_z, m * s[5], m * all_z},
                              {s[8], n * all_y, m * all_z, m * n}},
                             {s[3], s[9], s[10], 0}};
        room.nu[0] = float(all_y), room.nu[1] = float(all_z);
        solve4(room.solve, out.scales);
        double error = out.XX;
        for (int i = 0; i < 4; ++i) {
            double Ax = 0;
            for (int j = 0; j < 4; ++j) Ax += room.solve.system.A[i][j] * out.scales[j];
            error += out.scales[i] * (Ax - 2 * room.solve.system.b[i]);
        }
        out.error = error;
    }
    __syncthreads();
}

// From scratch: columns, pair counts, atoms.
__device__ inline void recount(const View& p) {
    move_atoms(p, p.y, p.z, nullptr);
    move_atoms(p, p.z, p.y, nullptr);
    __syncthreads();
    count_pairs(p, p.y);
    count_pairs(p, p.z);
    __syncthreads();
}

// What follows a pass with `flips`; by one thread.
__device__ inline void next_pass(RefineScalars& s, const Options& o, double bits, int flips, double size) {
    s.unit = fmin(s.unit, s.error / size);
    ++s.passes;
    if (s.phase == RefinePhase::quench && (flips == 0 || s.passes >= first_passes)) {
        s.phase = RefinePhase::anneal, s.passes = 0;
    } else if (s.phase == RefinePhase::anneal) {
        s.cooling = s.cooling || s.sweep + 1 >= o.heating || double(flips) > o.melting * bits;
        if (s.cooling && s.colder == 1) s.colder = pow(o.cooling, 1 / double(o.sweeps - s.sweep));
        s.T *= s.cooling ? s.colder : o.hotter;
        if (++s.sweep >= o.sweeps) s.phase = RefinePhase::cool, s.passes = 0;
    } else if (s.phase == RefinePhase::cool && (flips == 0 || s.passes >= last_passes)) {
        s.phase = RefinePhase::done;
    }
}

enum Placed : unsigned { in_bits = 1, in_C = 2, in_M = 4, in_counts = 8, in_atoms = 16, in_X = 32 };

__device__ __forceinline__ void copy(std::uint32_t* to, const std::uint32_t* from, int count) {
    for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) to[i] = from[i];
}
__device__ __forceinline__ void copy_atoms(const View& p, const Side& side, float* to, const float* from) {
    for (int k = warp_of_thread(); k < p.l; k += warps_of_block())
        for (int i = lane_of_thread(); i < side.count; i += 32) to[k * side.ld + i] = from[k * side.ld + i];
}

// Where a block works on its patch; by one thread.
__device__ inline View open(const RefineBatch& b, int at, float* shared, unsigned placed) {
    const WordBatch& words = b.words;
    const RefineLayout a(words.rows, words.cols, words.l);
    float* state = b.state + a.total * at;
    const auto take = [&](unsigned bit, std::size_t home, std::size_t size) {
        if (!(placed & bit)) return state + home;
        shared += size;
        return shared - size;
    };
    const int m = words.patches[at].m, n = words.patches[at].n, l = words.l, lw = words_of(l);
    View p{};
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

__global__ void __launch_bounds__(512)
    refine_block(RefineBatch b, Options o, std::int64_t passes, unsigned placed, int start) {
    SHARED_DYN(raw);
    SHARED(Room, rooms, [1]);
    SHARED(View, views, [2]); // in global memory; where it is worked on
    SHARED(RefineScalars, scalars, [1]);
    SHARED(Jump, jumps, [3]); // a block of rows, all of Y, all of Z
    const int at = int(blockIdx.x);
    if (!b.words.patches[at].active) return;
    const RefineLayout layout(b.words.rows, b.words.cols, b.words.l);
    RefineScalars* kept = reinterpret_cast<RefineScalars*>(b.state + layout.total * at + layout.scalars);
    if (!start && kept->phase == RefinePhase::done) return;
    RefineScalars& s = scalars[0];
    Room& room = rooms[0];
    const View &home = views[0], &p = views[1];
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
            s.initial_error = s.error, s.unit = s.error / size;
            s.T = o.T_first, s.colder = 1;
            s.phase = o.sweeps ? RefinePhase::quench : RefinePhase::cool;
        }
    } else {
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
    const Jump first_row = steps_of_generator(warp_of_thread() + 1);
    for (std::int64_t pass = 0; pass < passes; ++pass) {
        __syncthreads();
        if (s.phase == RefinePhase::done) break;
        const bool annealing = s.phase == RefinePhase::anneal;
        if ((annealing && s.sweep % recount_every == recount_every - 1) ||
            (s.phase == RefinePhase::cool && s.passes == 0))
            recount(p); // moved sums gather rounding
        const double T = annealing ? s.unit * s.T : 0;
        int flips = 0;
#pragma unroll 1
        for (int turn = 0; turn < 2; ++turn) {
            const Side &side = turn ? p.z : p.y, &other = turn ? p.y : p.z;
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
        if (threadIdx.x == 0) next_pass(s, o, double(p.l) * double(p.y.count + p.z.count), flips, size);
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
    if (s->phase != RefinePhase::done) atomicAdd(count, 1);
}

// ---- host ----

bool fits(const RefineBatch& b, const RefineOptions& options) {
    const WordBatch& w = b.words;
    return w.count >= 1 && w.count <= 65535 && w.rows >= 1 && w.cols >= 1 && w.rows <= 1 << 15 && w.cols <= 1 << 15 &&
           w.l >= 1 && w.l <= 4096 && b.stack >= 0 && b.stack < w.stacks && w.patches && w.Y && w.Z && b.state &&
           options.sweeps >= 0;
}

Options device_options(const RefineOptions& options) {
    return {options.T_first, std::pow(options.T_most / options.T_first, 1 / double(heating_sweeps)),
            options.cooling, options.melting,
            options.sweeps,  std::min<std::int64_t>(options.sweeps / 4, heating_sweeps)};
}

cudaError_t run(const RefineBatch& b, const RefineOptions& options, std::int64_t passes, bool start, int shared,
                cudaStream_t stream) {
    const RefineLayout a(b.words.rows, b.words.cols, b.words.l);
    const int threads = std::max(b.words.rows, b.words.cols) > 64 ? 512 : 256;
    const int fixed = int(sizeof(Room) + 2 * sizeof(View) + sizeof(RefineScalars) + 3 * sizeof(Jump)) + 64;
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
                         device_options(options), passes, placed, int(start));
}

} // namespace

std::size_t refine_state_floats(int rows, int cols, int l) { return RefineLayout(rows, cols, l).total; }

std::int64_t refine_most_passes(const RefineOptions& options) {
    return (options.sweeps ? first_passes + options.sweeps : 0) + last_passes;
}

cudaError_t refine_start(const RefineBatch& b, const RefineOptions& options, std::uint64_t seed, int shared,
                         cudaStream_t stream) {
    if (!fits(b, options)) return cudaErrorInvalidValue;
    const unsigned count = unsigned(b.words.count);
    const unsigned groups = unsigned(pool_numbers + (b.words.l + 15) / 16 * 16) / 4 + 1;
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

cudaError_t refine_count_moving(const RefineBatch& b, int* count, cudaStream_t stream) {
    if (b.words.count < 1 || !b.words.patches || !b.state || !count) return cudaErrorInvalidValue;
    return launch_kernel(refine_moving, dim3(unsigned(b.words.count + 255) / 256), dim3(256), 0, stream, b, count);
}

} // namespace bqq::cuda
