// The phases of a descent step, each for the warps or the tiles that call it: one block does all of a patch, or the
// blocks of a grid share each phase.
#pragma once

#include "amfd.cuh"
#include "product_tile.cuh"
#include "solve4.cuh"

namespace bqq::cuda {

using detail::DescentSchedule;

/// The vectors of a patch: sums of y, z and of the look-ahead f = x + zeta (x - x_old), and what a step makes of them.
struct AmfdVectors {
    float *sy, *fy, *x_row, *bias;          ///< m: rowsum y, rowsum fy, rowsum X, -u - s rowsum fy
    float *sz, *x_col;                      ///< n: colsum z, colsum X
    float *cy, *cy2, *fcy, *fcy2, *Py, *Qy; ///< l: column sums of y, y^2, fy, fy^2; gradient terms
    float *cz, *cz2, *fcz, *fcz2, *Pz, *Qz; ///< l: row sums of z, ...

    __device__ void place(float* at, int rows, int cols, int l) {
        const auto take = [&at](float*& p, int count) {
            p = at;
            at += AmfdLayout::up(std::size_t(count));
        };
        take(sy, rows), take(fy, rows), take(x_row, rows), take(bias, rows), take(sz, cols), take(x_col, cols);
        take(cy, l), take(cy2, l), take(fcy, l), take(fcy2, l), take(Py, l), take(Qy, l);
        take(cz, l), take(cz2, l), take(fcz, l), take(fcz2, l), take(Pz, l), take(Qz, l);
    }
};

/// A patch at work. Kernels keep it in shared memory: as locals its pointers would take most of the registers.
struct AmfdView {
    int m, n, l, ldn;
    float *X, *R, *y, *y_old, *z, *z_old, *gy, *gz;
    AmfdVectors v;
    AmfdScalars* scalars;

    __device__ void open(const AmfdBatch& b, std::size_t at) {
        const AmfdLayout a(b.rows, b.cols, b.l);
        float* state = b.state + a.total * at;
        m = b.patches[at].m, n = b.patches[at].n, l = b.l, ldn = b.cols;
        X = state + a.X, R = state + a.R, y = state + a.y, y_old = state + a.y_old, z = state + a.z;
        z_old = state + a.z_old, gy = state + a.gy, gz = state + a.gz;
        v.place(state + a.vectors, b.rows, b.cols, b.l);
        scalars = reinterpret_cast<AmfdScalars*>(state + a.scalars);
    }
};

__device__ __forceinline__ float ahead(float x, float old, float zeta) { return fmaf(zeta, x - old, x); }

// ---- operands of the products ----

/// psi(i, k) = -(r fy_ik + t), as A (i, k) or, turned, with the sum over i.
template <bool turned> struct Psi {
    static constexpr bool k_fast = !turned;
    const float *y, *old;
    int l;
    float zeta, r, t;
    __device__ __forceinline__ float operator()(int i, int k) const {
        const int at = (turned ? k : i) * l + (turned ? i : k);
        return fmaf(r, ahead(y[at], old[at], zeta), t);
    }
};
/// fz(k, j), or phi(k, j) = r fz_kj + s turned: B (j, k) with the sum over the columns.
template <bool turned> struct Phi {
    static constexpr bool k_fast = turned;
    const float *z, *old;
    int ldn;
    float zeta, r, s;
    __device__ __forceinline__ float operator()(int k, int j) const {
        const int at = (turned ? j : k) * ldn + (turned ? k : j);
        const float f = ahead(z[at], old[at], zeta);
        return turned ? fmaf(r, f, s) : f;
    }
};
template <bool k_fast_> struct Plain {
    static constexpr bool k_fast = k_fast_;
    const float* x;
    int ld;
    __device__ __forceinline__ float operator()(int i, int j) const { return x[i * ld + j]; }
};

// ---- products, a tile each ----

/// R = X - M at the look-ahead point.
template <class Tile> __device__ __forceinline__ void residual_tile(Tile& tile, const AmfdView& p, const double* a,
                                                                    float zeta, int i0, int j0) {
    const Psi<false> psi{p.y, p.y_old, p.l, zeta, float(-a[0]), float(-a[2])};
    const Phi<false> fz{p.z, p.z_old, p.ldn, zeta, 0, 0};
    tile.run(i0, j0, p.m, p.n, p.l, psi, fz, [&](int i, int j, float sum) {
        const int at = i * p.ldn + j;
        p.R[at] = p.X[at] + p.v.bias[i] + sum;
    });
}

/// gy = R phi^T
template <class Tile> __device__ __forceinline__ void gradient_y_tile(Tile& tile, const AmfdView& p, const double* a,
                                                                      float zeta, int i0, int j0) {
    const Plain<true> R{p.R, p.ldn};
    const Phi<true> phi{p.z, p.z_old, p.ldn, zeta, float(a[0]), float(a[1])};
    tile.run(i0, j0, p.m, p.l, p.n, R, phi, [&](int i, int k, float sum) { p.gy[i * p.l + k] = sum; });
}

/// gz = psi^T R, given to out(k, j, sum).
template <class Tile, class Out> __device__ __forceinline__ void
gradient_z_tile(Tile& tile, const AmfdView& p, const double* a, float zeta, int i0, int j0, Out&& out) {
    const Psi<true> psi{p.y, p.y_old, p.l, zeta, float(-a[0]), float(-a[2])};
    const Plain<false> R{p.R, p.ldn};
    tile.run(i0, j0, p.l, p.n, p.m, psi, R, out);
}

/// sums += (sum P^2, sum P X) over a tile of P = y z.
template <class Tile>
__device__ __forceinline__ void dots_tile(Tile& tile, const AmfdView& p, int i0, int j0, double (&sums)[2]) {
    float square = 0, cross = 0;
    tile.run(i0, j0, p.m, p.n, p.l, Plain<true>{p.y, p.l}, Plain<false>{p.z, p.ldn}, [&](int i, int j, float sum) {
        square = fmaf(sum, sum, square);
        cross = fmaf(sum, p.X[i * p.ldn + j], cross);
    });
    sums[0] += double(square), sums[1] += double(cross);
}

// ---- the update and the sums ----

/// x_new of one variable from its gradient term G = c grad + Q; moved receives |x_new - x|.
__device__ __forceinline__ void update(float& x, float& old, float G, float P, const DescentSchedule& o, float T,
                                       float& moved) {
    const float f = ahead(x, old, o.zeta);
    G = fmaf(fmaf(-2.0f, f, 1.0f), P, G);
    G = fmaf(T, x - 0.5f, G);
    const float next = fminf(fmaxf(fmaf(-o.eta, G, 2 * x - old), 0.0f), 1.0f);
    moved = fmaxf(moved, fabsf(next - x));
    old = x;
    x = next;
}

/// Rows of y from `first` in steps of `step` by a warp each: their sums after an update, if there is one.
__device__ __forceinline__ void rows_of_y(const AmfdView& p, const DescentSchedule& o, bool step_y, float T, int first,
                                          int step, float& moved) {
    for (int i = first; i < p.m; i += step) {
        float sum = 0, sum_f = 0;
        for (int k = lane_of_thread(); k < p.l; k += 32) {
            const int at = i * p.l + k;
            float x = p.y[at], old = p.y_old[at];
            if (step_y) {
                update(x, old, fmaf(-2.0f, p.gy[at], p.v.Qy[k]), p.v.Py[k], o, T, moved);
                p.y[at] = x, p.y_old[at] = old;
            }
            sum += x, sum_f += ahead(x, old, o.zeta);
        }
        sum = warp_sum(sum), sum_f = warp_sum(sum_f);
        if (lane_of_thread() == 0) p.v.sy[i] = sum, p.v.fy[i] = sum_f;
    }
}

__device__ __forceinline__ void rows_of_z(const AmfdView& p, const DescentSchedule& o, bool step_z, float T, int first,
                                          int step, float& moved) {
    for (int k = first; k < p.l; k += step) {
        float sum[4] = {};
        for (int j = lane_of_thread(); j < p.n; j += 32) {
            const int at = k * p.ldn + j;
            float x = p.z[at], old = p.z_old[at];
            if (step_z) {
                update(x, old, fmaf(2.0f, p.gz[at], p.v.Qz[k]), p.v.Pz[k], o, T, moved);
                p.z[at] = x, p.z_old[at] = old;
            }
            const float f = ahead(x, old, o.zeta);
            sum[0] += x, sum[1] = fmaf(x, x, sum[1]), sum[2] += f, sum[3] = fmaf(f, f, sum[3]);
        }
#pragma unroll
        for (int q = 0; q < 4; ++q) sum[q] = warp_sum(sum[q]);
        if (lane_of_thread() == 0) p.v.cz[k] = sum[0], p.v.cz2[k] = sum[1], p.v.fcz[k] = sum[2], p.v.fcz2[k] = sum[3];
    }
}

/// Column sums, 32 columns a warp: groups of y first, then those of z.
__device__ __forceinline__ int column_groups(const AmfdView& p) { return (p.l + 31) / 32 + (p.n + 31) / 32; }

/// The part of rows slice, slice + slices, ... in the sums of this lane's column.
__device__ __forceinline__ void column_slice(const AmfdView& p, const DescentSchedule& o, int group, int slice,
                                             int slices, float (&sum)[4]) {
    const int groups_y = (p.l + 31) / 32;
#pragma unroll
    for (int q = 0; q < 4; ++q) sum[q] = 0;
    if (group < groups_y) {
        const int k = 32 * group + lane_of_thread();
        if (k < p.l)
            for (int i = slice; i < p.m; i += slices) {
                const int at = i * p.l + k;
                const float x = p.y[at], f = ahead(x, p.y_old[at], o.zeta);
                sum[0] += x, sum[1] = fmaf(x, x, sum[1]), sum[2] += f, sum[3] = fmaf(f, f, sum[3]);
            }
    } else {
        const int j = 32 * (group - groups_y) + lane_of_thread();
        if (j < p.n)
            for (int k = slice; k < p.l; k += slices) sum[0] += p.z[k * p.ldn + j];
    }
}

__device__ __forceinline__ void put_column(const AmfdView& p, int group, int lane, const float (&sum)[4]) {
    const int groups_y = (p.l + 31) / 32;
    if (group < groups_y) {
        const int k = 32 * group + lane;
        if (k < p.l) p.v.cy[k] = sum[0], p.v.cy2[k] = sum[1], p.v.fcy[k] = sum[2], p.v.fcy2[k] = sum[3];
    } else {
        const int j = 32 * (group - groups_y) + lane;
        if (j < p.n) p.v.sz[j] = sum[0];
    }
}

/// sums += (sum_a sy_a (y cz)_a, sum_k cy_k (z sz)_k) over the rows of this warp: those of y, then those of z.
__device__ __forceinline__ void bilinears(const AmfdView& p, int first, int step, double (&sums)[2]) {
    for (int i = first; i < p.m; i += step) {
        float sum = 0;
        for (int k = lane_of_thread(); k < p.l; k += 32) sum = fmaf(p.y[i * p.l + k], p.v.cz[k], sum);
        sums[0] += double(p.v.sy[i]) * double(sum);
    }
    for (int k = first; k < p.l; k += step) {
        float sum = 0;
        for (int j = lane_of_thread(); j < p.n; j += 32) sum = fmaf(p.z[k * p.ldn + j], p.v.sz[j], sum);
        sums[1] += double(p.v.cy[k]) * double(sum);
    }
}

// ---- the scales ----

constexpr int step_sums = 16;

/// Shared memory of a block of `warps` warps that solves.
template <int warps> struct SolveRoom {
    double sums[warps * step_sums], total[step_sums];
    Solve4 solve;
};

/// Scales from the thread-wise sums of yz.yz, X.yz, sy.yz, sz.yz, and those of the vectors, which are made here. All
/// threads of the block.
template <int warps> __device__ __forceinline__ void solve_scales(const AmfdView& p, AmfdScalars& out,
                                                                  const double (&products)[4], SolveRoom<warps>& room) {
    // A few sums at a time: all at once would need more registers than the products.
    warp_sums(products, room.sums, step_sums);
    {
        double s[4] = {};
        for (int i = int(threadIdx.x); i < p.m; i += int(blockDim.x)) {
            const double sy = double(p.v.sy[i]);
            s[0] += double(p.v.x_row[i]) * sy, s[1] += sy * sy;
        }
        for (int j = int(threadIdx.x); j < p.n; j += int(blockDim.x)) {
            const double sz = double(p.v.sz[j]);
            s[2] += double(p.v.x_col[j]) * sz, s[3] += sz * sz;
        }
        warp_sums(s, room.sums + 4, step_sums);
    }
    {
        double s[4] = {};
        for (int k = int(threadIdx.x); k < p.l; k += int(blockDim.x))
            s[0] += double(p.v.cy[k]), s[1] += double(p.v.cz[k]), s[2] += double(p.v.cy2[k]),
                s[3] += double(p.v.cz2[k]);
        warp_sums(s, room.sums + 8, step_sums);
    }
    {
        double s[4] = {};
        for (int k = int(threadIdx.x); k < p.l; k += int(blockDim.x)) {
            const double cy = double(p.v.cy[k]), cy2 = double(p.v.cy2[k]), cz = double(p.v.cz[k]),
                         cz2 = double(p.v.cz2[k]);
            s[0] += cy * cz, s[1] += cy2 * cz2, s[2] += cy2 * cz, s[3] += cy * cz2;
        }
        warp_sums(s, room.sums + 12, step_sums);
    }
    __syncthreads();
    if (threadIdx.x < step_sums) room.total[threadIdx.x] = sum_of_warps(room.sums, step_sums, int(threadIdx.x));
    __syncthreads();
    if (warp_of_thread() != 0) return;
    if (lane_of_thread() == 0) {
        const double* s = room.total;
        detail::MeanFieldSums q;
        q.m = double(p.m), q.n = double(p.n);
        q.yz_yz = s[0], q.X_yz = s[1], q.sy_yz = s[2], q.sz_yz = s[3];
        q.X_sy = s[4], q.sy_sy = s[5], q.X_sz = s[6], q.sz_sz = s[7], q.X = out.x_sum;
        q.cy = s[8], q.cz = s[9], q.cy2 = s[10], q.cz2 = s[11];
        q.cy_cz = s[12], q.cy2_cz2 = s[13], q.cy2_cz = s[14], q.cy_cz2 = s[15];
        room.solve.system = detail::mean_field_system(q);
        out.soft = 4 * ((q.cy - q.cy2) + (q.cz - q.cz2)) / (double(p.l) * double(p.m + p.n));
    }
    __syncwarp();
    solve4(room.solve, out.a);
}

/// The vectors of the next step: gradient terms and the bias of R. Threads of the block.
__device__ __forceinline__ void prepare_step(const AmfdView& p, const double* a) {
    const double r = a[0], s = a[1], t = a[2], u = a[3];
    for (int k = int(threadIdx.x); k < p.l; k += int(blockDim.x)) {
        const double cy = double(p.v.fcy[k]), cy2 = double(p.v.fcy2[k]), cz = double(p.v.fcz[k]),
                     cz2 = double(p.v.fcz2[k]);
        p.v.Py[k] = float(r * r * cz2 + 2 * r * s * cz + double(p.n) * s * s);
        p.v.Qy[k] = float((r * r + 2 * r * t) * (cz - cz2));
        p.v.Pz[k] = float(r * r * cy2 + 2 * r * t * cy + double(p.m) * t * t);
        p.v.Qz[k] = float((r * r + 2 * r * s) * (cy - cy2));
    }
    for (int i = int(threadIdx.x); i < p.m; i += int(blockDim.x)) p.v.bias[i] = float(-u - s * double(p.v.fy[i]));
}

/// Counts a step and decides whether the patch has settled; by one thread, after the scales are solved.
__device__ __forceinline__ void finish_step(AmfdScalars& out, const DescentSchedule& o, float moved) {
    out.moved = moved;
    out.steps += 1;
    out.settled = o.settled(moved, out.soft, out.still);
}

} // namespace bqq::cuda
