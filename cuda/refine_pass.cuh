// The parts of a pass of the refinement, each by the whole block: what the rows see, their sweep, what follows their
// flips.
#pragma once

#include "block.cuh"
#include "refine.cuh"
#include "solve4.cuh"

namespace bqq::cuda {

/// x -> a x + c, modulo 2^64.
struct Jump {
    unsigned long long a, c;
    __device__ __forceinline__ unsigned long long operator()(unsigned long long x) const { return a * x + c; }
};

/// `count` steps of the generator that places the rows' windows in the pool.
__device__ inline Jump steps_of_generator(int count) {
    Jump all{1, 0}, power{6364136223846793005ull, 1442695040888963407ull};
    for (; count; count >>= 1) {
        if (count & 1) all = {all.a * power.a, power(all.c)};
        power = {power.a * power.a, power(power.c)};
    }
    return all;
}

/// One side of the factorisation: `count` rows of bits (Y, or Z transposed), and what the other side makes of X.
struct RefineSide {
    int count, words, ld;          // rows; words of a row; floats of a row of atoms
    int i_step, j_step;            // X of row i and the other side's row j: X[i * i_step + j * j_step]
    std::uint32_t *bits, *columns; // count x words; l x bit_rows, the transpose
    const float *X, *X_sum;
    float *counts, *nu, *atoms; // l x l: <column k, column q>; its diagonal; l x ld: sum_j other_jk X_ij
};

/// A patch at work.
struct RefineView {
    int l, bit_rows;
    RefineSide y, z;
    std::uint32_t* before; // of the side that is swept
    float *C, *M, *held, *slope, *diagonal, *pool;
};

__device__ __forceinline__ int bits_in(const std::uint32_t* words, int count) {
    int sum = 0;
    for (int w = 0; w < count; ++w) sum += __popc(words[w]);
    return sum;
}

/// The columns of a side's bits and, in the order of its rows, what their changes since `before` (NULL: from zero) add
/// to the other side's atoms. A warp has a column.
__device__ inline void move_atoms(const RefineView& p, const RefineSide& side, const RefineSide& other,
                                  const std::uint32_t* before) {
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

__device__ inline void count_pairs(const RefineView& p, const RefineSide& side) {
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

/// With atoms Phi_k = r O_k + s 1 of the other side's bits O: M = -Gram, and what no bit of this side moves.
__device__ inline void make_problem(const RefineView& p, const RefineSide& other, float all_nu, double r, double s,
                                    double t, double u) {
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

/// C = bits N on tensor cores, exactly: counts as 256 times a high and a low part of eight bits each.
__device__ inline void multiply_counts(const RefineView& p, const RefineSide& side, const RefineSide& other) {
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

/// A Metropolis sweep over the rows of a side, a warp each. Bits are visited in order: lanes behind one that flips look
/// again. Returns this thread's flips (counted by lane 0).
__device__ inline int anneal_rows(const RefineView& p, const RefineSide& side, const RefineSide& other, float r,
                                  float s, float T, unsigned long long random, const Jump& stride) {
    const int lane = lane_of_thread();
    const float size = float(other.count), rr = -r * r, rs = -r * s;
    int flips = 0;
    for (int row = warp_of_thread(); row < side.count; row += warps_of_block(), random = stride(random)) {
        float* c = p.C + row * p.l;
        const float* e = p.pool + int(random >> 40) % refine_pool_numbers;
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

constexpr int refine_sums = 11;

/// Shared by the block.
struct RefineRoom {
    double sums[16 * refine_sums], total[refine_sums];
    float nu[2]; // sums of nu of Y, of Z
    int flips[16];
    Solve4 solve;
};

/// The scales for the bits as they are. `moved` is the side whose atoms fit both.
__device__ inline void solve_scales(const RefineView& p, const RefineSide& moved, RefineScalars& out,
                                    RefineRoom& room) {
    const int lane = lane_of_thread();
    const RefineSide &y = p.y, &z = p.z;
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
        warp_sums(s, room.sums, refine_sums);
        warp_sums(more, room.sums + 4, refine_sums);
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
        warp_sums(s, room.sums + 6, refine_sums);
    }
    __syncthreads();
    if (int(threadIdx.x) < refine_sums)
        room.total[threadIdx.x] = sum_of_warps(room.sums, refine_sums, int(threadIdx.x));
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

/// From scratch: columns, pair counts, atoms.
__device__ inline void recount(const RefineView& p) {
    move_atoms(p, p.y, p.z, nullptr);
    move_atoms(p, p.z, p.y, nullptr);
    __syncthreads();
    count_pairs(p, p.y);
    count_pairs(p, p.z);
    __syncthreads();
}

} // namespace bqq::cuda
