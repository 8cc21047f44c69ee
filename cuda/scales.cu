#include "scales.cuh"

#include "block.cuh"

namespace bqq::cuda {
namespace {

__device__ __forceinline__ int common_bits(const std::uint32_t* a, const std::uint32_t* b, int words) {
    int sum = 0;
    for (int w = 0; w < words; ++w) sum += __popc(a[w] & b[w]);
    return sum;
}
__device__ __forceinline__ int bits_of(const std::uint32_t* a, int words) {
    int sum = 0;
    for (int w = 0; w < words; ++w) sum += __popc(a[w]);
    return sum;
}

using Count = unsigned long long;

struct Words {
    int m, n, lw;
    const float* W;
    std::int64_t ldw;
    const std::uint32_t *Y, *Z; // of stack 0
    std::size_t y_plane, z_plane;

    __device__ Words(const WordBatch& b, int at)
        : m(b.patches[at].m), n(b.patches[at].n), lw(words_of(b.l)), W(b.patches[at].W), ldw(b.patches[at].ldw),
          Y(b.Y + std::size_t(at) * b.stacks * b.rows * lw), Z(b.Z + std::size_t(at) * b.stacks * b.cols * lw),
          y_plane(std::size_t(b.rows) * lw), z_plane(std::size_t(b.cols) * lw) {}
    __device__ __forceinline__ const std::uint32_t* row(int i, int a) const { return Y + i * y_plane + a * lw; }
    __device__ __forceinline__ const std::uint32_t* col(int i, int b) const { return Z + i * z_plane + b * lw; }
};

// A block for every pair of stacks j <= i of a patch.
__global__ void __launch_bounds__(256) scale_sums_of_pair(WordBatch batch, int p, std::int64_t* grams, double* sums) {
    SHARED(Count, room, [8 * 10]);
    SHARED(double, rhs_room, [8 * 3]);
    SHARED(double, mean, [1]);
    const int at = int(blockIdx.y);
    if (!batch.patches[at].active) return;
    int i = 0, j = int(blockIdx.x);
    while (j > i) j -= ++i;
    const Words q(batch, at);
    Count s[10] =
        {}; // PP, P_i rho_j, P_j rho_i, P_i zeta_j, P_j zeta_i, P_i, rho rho, zeta zeta, and sums of rho, zeta
    for (int a = warp_of_thread(); a < q.m; a += warps_of_block()) {
        const int rho_i = bits_of(q.row(i, a), q.lw), rho_j = bits_of(q.row(j, a), q.lw);
        Count P_i = 0, P_j = 0;
        for (int b = lane_of_thread(); b < q.n; b += 32) {
            const unsigned Pi = unsigned(common_bits(q.row(i, a), q.col(i, b), q.lw)),
                           Pj = unsigned(common_bits(q.row(j, a), q.col(j, b), q.lw));
            P_i += Pi, P_j += Pj;
            s[0] += Count(Pi) * Pj;
            s[3] += Count(Pi) * unsigned(bits_of(q.col(j, b), q.lw));
            s[4] += Count(Pj) * unsigned(bits_of(q.col(i, b), q.lw));
        }
        s[1] += P_i * unsigned(rho_j), s[2] += P_j * unsigned(rho_i), s[5] += P_i;
        if (lane_of_thread() == 0) s[6] += Count(unsigned(rho_i)) * unsigned(rho_j);
        if (lane_of_thread() == 0) s[8] += (i == j ? unsigned(rho_i) : 0u);
    }
    for (int b = int(threadIdx.x); b < q.n; b += int(blockDim.x)) {
        const unsigned zeta_i = unsigned(bits_of(q.col(i, b), q.lw)), zeta_j = unsigned(bits_of(q.col(j, b), q.lw));
        s[7] += Count(zeta_i) * zeta_j;
        s[9] += i == j ? zeta_i : 0u;
    }
    block_sum(s, room);
    const int count = 3 * p + 1, u = 3 * p;
    std::int64_t* gram = grams + std::size_t(at) * count * count;
    if (threadIdx.x == 0) {
        const auto set = [&](int x, int y, Count value) {
            gram[x * count + y] = gram[y * count + x] = std::int64_t(value);
        };
        set(3 * i, 3 * j, s[0]);
        set(3 * i, 3 * j + 1, s[1]), set(3 * j, 3 * i + 1, s[2]);
        set(3 * i, 3 * j + 2, s[3]), set(3 * j, 3 * i + 2, s[4]);
        set(3 * i + 1, 3 * j + 1, Count(q.n) * s[6]), set(3 * i + 2, 3 * j + 2, Count(q.m) * s[7]);
        if (i == j) {
            set(3 * i, u, s[5]), set(3 * i + 1, u, Count(q.n) * s[8]), set(3 * i + 2, u, Count(q.m) * s[9]);
            if (i == 0) set(u, u, Count(q.m) * Count(q.n));
        }
    }
    if (i != j) return;
    double sum[1] = {0};
    for (int a = warp_of_thread(); a < q.m; a += warps_of_block())
        for (int b = lane_of_thread(); b < q.n; b += 32) sum[0] += double(q.W[a * q.ldw + b]);
    block_sum(sum, rhs_room);
    if (threadIdx.x == 0) mean[0] = sum[0] / (double(q.m) * double(q.n));
    __syncthreads();
    double right[3] = {0, 0, 0};
    for (int a = warp_of_thread(); a < q.m; a += warps_of_block()) {
        double row = 0;
        for (int b = lane_of_thread(); b < q.n; b += 32) {
            const double x = double(q.W[a * q.ldw + b]) - mean[0];
            row += x;
            right[0] += x * common_bits(q.row(i, a), q.col(i, b), q.lw);
            right[2] += x * bits_of(q.col(i, b), q.lw);
        }
        right[1] += row * bits_of(q.row(i, a), q.lw);
    }
    block_sum(right, rhs_room);
    if (threadIdx.x == 0) {
        double* out = sums + std::size_t(at) * (count + 1);
        out[3 * i] = right[0], out[3 * i + 1] = right[1], out[3 * i + 2] = right[2];
        if (i == 0) out[u] = 0, out[u + 1] = mean[0];
    }
}

// sum_k Y_ik Z_jk of different stacks is never needed: <s_i, t_j> = (sum rho_i)(sum zeta_j), from the last row.
__global__ void __launch_bounds__(64) scale_sums_of_margins(WordBatch batch, int p, std::int64_t* grams) {
    const int at = int(blockIdx.x);
    if (!batch.patches[at].active) return;
    const int count = 3 * p + 1, u = 3 * p;
    std::int64_t* gram = grams + std::size_t(at) * count * count;
    const std::int64_t m = batch.patches[at].m, n = batch.patches[at].n;
    for (int pair = int(threadIdx.x); pair < p * p; pair += int(blockDim.x)) {
        const int s = 3 * (pair / p) + 1, t = 3 * (pair % p) + 2;
        gram[s * count + t] = gram[t * count + s] = gram[s * count + u] / n * (gram[t * count + u] / m);
    }
}

__global__ void __launch_bounds__(256)
    spread_of_residual(WordBatch batch, int p, const float* all_scales, float* residual, Spread* spread) {
    SHARED(double, room, [8 * 2]);
    SHARED(double, mean, [1]);
    SHARED(float, extremes, [8 * 2]);
    const int at = int(blockIdx.x);
    if (!batch.patches[at].active) return;
    const Words q(batch, at);
    const float* scales = all_scales + std::size_t(at) * (3 * p + 1);
    float* out = residual ? residual + std::size_t(at) * batch.rows * batch.cols : nullptr;
    const auto error_at = [&](int a, int b, double constant) {
        double what = constant;
        for (int i = 0; i < p; ++i)
            what += double(scales[3 * i]) * common_bits(q.row(i, a), q.col(i, b), q.lw) +
                    double(scales[3 * i + 2]) * bits_of(q.col(i, b), q.lw);
        return double(q.W[a * q.ldw + b]) - what;
    };
    const auto constant_of = [&](int a) {
        double constant = p ? double(scales[3 * p]) : 0;
        for (int i = 0; i < p; ++i) constant += double(scales[3 * i + 1]) * bits_of(q.row(i, a), q.lw);
        return constant;
    };
    double sums[2] = {0, 0};
    float low = __int_as_float(0x7F800000), high = -low;
    for (int a = warp_of_thread(); a < q.m; a += warps_of_block()) {
        const double constant = constant_of(a);
        for (int b = lane_of_thread(); b < q.n; b += 32) {
            const double e = error_at(a, b, constant);
            const float rounded = float(e);
            if (out) out[std::size_t(a) * batch.cols + b] = rounded;
            sums[0] += e * e, sums[1] += double(rounded);
            low = fminf(low, rounded), high = fmaxf(high, rounded);
        }
    }
    block_sum(sums, room);
    low = -warp_max(-low), high = warp_max(high);
    if (lane_of_thread() == 0) extremes[2 * warp_of_thread()] = low, extremes[2 * warp_of_thread() + 1] = high;
    const double size = double(q.m) * double(q.n);
    if (threadIdx.x == 0) mean[0] = sums[1] / size;
    __syncthreads();
    double squares[1] = {0};
    for (int a = warp_of_thread(); a < q.m; a += warps_of_block()) {
        const double constant = constant_of(a);
        for (int b = lane_of_thread(); b < q.n; b += 32) {
            const double v = double(float(error_at(a, b, constant))) - mean[0];
            squares[0] += v * v;
        }
    }
    block_sum(squares, room);
    if (threadIdx.x == 0) {
        for (int w = 1; w < warps_of_block(); ++w)
            low = fminf(low, extremes[2 * w]), high = fmaxf(high, extremes[2 * w + 1]);
        spread[at] = {{mean[0], sqrt(squares[0] / size), double(high) - double(low)}, sums[0]};
    }
}

// ---- words and planes ----

struct Repack {
    WordBatch batch;
    int p;
    std::uint8_t *Y, *Z;
    __device__ __forceinline__ std::size_t y_bytes() const { return std::size_t(batch.rows) * ((batch.l + 7) / 8); }
    __device__ __forceinline__ std::size_t z_bytes() const { return std::size_t(batch.l) * ((batch.cols + 7) / 8); }
};

__global__ void __launch_bounds__(256) words_to_planes(Repack q) {
    const WordBatch& b = q.batch;
    const int at = int(blockIdx.y) / q.p, i = int(blockIdx.y) % q.p, lw = words_of(b.l);
    const std::size_t plane = std::size_t(at) * b.stacks + i, to = blockIdx.y;
    const std::size_t e = std::size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (e < q.y_bytes()) {
        const int width = (b.l + 7) / 8, a = int(e / width), byte = int(e % width);
        const std::uint32_t word = a < b.patches[at].m ? b.Y[plane * b.rows * lw + std::size_t(a) * lw + byte / 4] : 0u;
        q.Y[to * q.y_bytes() + e] = std::uint8_t(word >> (8 * (byte % 4)));
    } else if (e - q.y_bytes() < q.z_bytes()) {
        const std::size_t f = e - q.y_bytes();
        const int width = (b.cols + 7) / 8, k = int(f / width), first = int(f % width) * 8;
        unsigned byte = 0;
        for (int c = 0; c < 8; ++c)
            if (first + c < b.patches[at].n)
                byte |= (b.Z[plane * b.cols * lw + std::size_t(first + c) * lw + k / 32] >> (k % 32) & 1u) << c;
        q.Z[to * q.z_bytes() + f] = std::uint8_t(byte);
    }
}

__global__ void __launch_bounds__(256) planes_to_words(Repack q) {
    const WordBatch& b = q.batch;
    const int at = int(blockIdx.y) / q.p, i = int(blockIdx.y) % q.p, lw = words_of(b.l);
    const std::size_t plane = std::size_t(at) * b.stacks + i, from = blockIdx.y;
    const std::size_t e = std::size_t(blockIdx.x) * blockDim.x + threadIdx.x, of_y = std::size_t(b.rows) * lw;
    std::uint32_t bits = 0;
    if (e < of_y) {
        const int width = (b.l + 7) / 8, a = int(e / lw), word = int(e % lw);
        for (int c = 0; c < 4; ++c)
            if (4 * word + c < width)
                bits |= std::uint32_t(q.Y[from * q.y_bytes() + std::size_t(a) * width + 4 * word + c]) << (8 * c);
        b.Y[plane * of_y + e] = bits;
    } else if (e - of_y < std::size_t(b.cols) * lw) {
        const std::size_t f = e - of_y;
        const int width = (b.cols + 7) / 8, column = int(f / lw), word = int(f % lw);
        for (int c = 0; c < 32 && 32 * word + c < b.l; ++c)
            bits |= std::uint32_t(
                        q.Z[from * q.z_bytes() + std::size_t(32 * word + c) * width + column / 8] >> (column % 8) & 1u)
                    << c;
        b.Z[plane * b.cols * lw + f] = bits;
    }
}

__global__ void __launch_bounds__(256)
    copy_words_kernel(WordBatch from, int stack, const int* where, WordBatch to, int to_stack) {
    const int at = int(blockIdx.y), lw = words_of(from.l), of_y = from.rows * lw, of_z = from.cols * lw;
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (where[at] < 0 || i >= of_y + of_z) return;
    const std::size_t source = std::size_t(at) * from.stacks + stack,
                      target = std::size_t(where[at]) * to.stacks + to_stack;
    if (i < of_y)
        to.Y[target * of_y + i] = from.Y[source * of_y + i];
    else
        to.Z[target * of_z + (i - of_y)] = from.Z[source * of_z + (i - of_y)];
}

__global__ void __launch_bounds__(32) set_first(unsigned long long* first, unsigned long long value) {
    if (threadIdx.x == 0) *first = value;
}

__global__ void __launch_bounds__(256) invalid_kernel(const float* W, std::int64_t m, std::int64_t n, std::int64_t ldw,
                                                      float most, unsigned long long* first) {
    for (std::int64_t i = std::int64_t(blockIdx.x) * warps_of_block() + warp_of_thread(); i < m;
         i += std::int64_t(gridDim.x) * warps_of_block())
        for (std::int64_t j = lane_of_thread(); j < n; j += 32)
            if (!(fabsf(W[i * ldw + j]) <= most)) {
                atomicMin(first, static_cast<unsigned long long>(i * n + j));
                break; // what follows in this lane's row comes later
            }
}

bool fits(const WordBatch& b, int p) {
    return b.count >= 1 && b.count <= 65535 && b.rows >= 1 && b.cols >= 1 && b.rows <= 1 << 20 && b.cols <= 1 << 20 &&
           b.l >= 1 && b.l <= 65535 && p >= 0 && p <= b.stacks && b.patches && b.Y && b.Z;
}

} // namespace

cudaError_t scale_sums(const WordBatch& b, int p, std::int64_t* gram, double* rhs, cudaStream_t stream) {
    if (!fits(b, p) || p < 1 || !gram || !rhs) return cudaErrorInvalidValue;
    const cudaError_t e = launch_kernel(scale_sums_of_pair, dim3(unsigned(p * (p + 1) / 2), unsigned(b.count)),
                                        dim3(256), 0, stream, b, p, gram, rhs);
    if (e != cudaSuccess) return e;
    return launch_kernel(scale_sums_of_margins, dim3(unsigned(b.count)), dim3(64), 0, stream, b, p, gram);
}

cudaError_t residuals(const WordBatch& b, int p, const float* scales, float* residual, Spread* spread,
                      cudaStream_t stream) {
    if (!fits(b, p) || (p && !scales) || !spread) return cudaErrorInvalidValue;
    return launch_kernel(spread_of_residual, dim3(unsigned(b.count)), dim3(256), 0, stream, b, p, scales, residual,
                         spread);
}

cudaError_t planes_of_words(const WordBatch& b, int p, std::uint8_t* Y, std::uint8_t* Z, cudaStream_t stream) {
    if (!fits(b, p) || p < 1 || std::int64_t(b.count) * p > 65535 || !Y || !Z) return cudaErrorInvalidValue;
    const std::size_t bytes =
        std::size_t(b.rows) * std::size_t((b.l + 7) / 8) + std::size_t(b.l) * std::size_t((b.cols + 7) / 8);
    return launch_kernel(words_to_planes, dim3(unsigned((bytes + 255) / 256), unsigned(b.count * p)), dim3(256), 0,
                         stream, Repack{b, p, Y, Z});
}

cudaError_t words_of_planes(const WordBatch& b, int p, const std::uint8_t* Y, const std::uint8_t* Z,
                            cudaStream_t stream) {
    if (!fits(b, p) || p < 1 || std::int64_t(b.count) * p > 65535 || !Y || !Z) return cudaErrorInvalidValue;
    const std::size_t words = std::size_t(b.rows + b.cols) * std::size_t(words_of(b.l));
    return launch_kernel(planes_to_words, dim3(unsigned((words + 255) / 256), unsigned(b.count * p)), dim3(256), 0,
                         stream, Repack{b, p, const_cast<std::uint8_t*>(Y), const_cast<std::uint8_t*>(Z)});
}

cudaError_t copy_words(const WordBatch& from, int stack, const int* where, const WordBatch& to, int to_stack,
                       cudaStream_t stream) {
    if (!fits(from, 0) || stack < 0 || stack >= from.stacks || !fits(to, 0) || to_stack < 0 || to_stack >= to.stacks ||
        to.rows != from.rows || to.cols != from.cols || to.l != from.l || !where)
        return cudaErrorInvalidValue;
    const unsigned words = unsigned(from.rows + from.cols) * unsigned(words_of(from.l));
    return launch_kernel(copy_words_kernel, dim3((words + 255) / 256, unsigned(from.count)), dim3(256), 0, stream, from,
                         stack, where, to, to_stack);
}

cudaError_t find_invalid(const float* W, std::int64_t m, std::int64_t n, std::int64_t ldw, float most,
                         unsigned long long* first, cudaStream_t stream) {
    if (!W || !first || m < 1 || n < 1 || ldw < n) return cudaErrorInvalidValue;
    const cudaError_t e = launch_kernel(set_first, dim3(1), dim3(32), 0, stream, first,
                                        static_cast<unsigned long long>(m) * static_cast<unsigned long long>(n));
    if (e != cudaSuccess) return e;
    const unsigned blocks = m / 8 < 4096 ? unsigned(m / 8 + 1) : 4096u;
    return launch_kernel(invalid_kernel, dim3(blocks), dim3(256), 0, stream, W, m, n, ldw, most, first);
}

} // namespace bqq::cuda
