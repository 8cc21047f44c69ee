#include "matmul.cuh"

#include "block.cuh"
#include "strided.cuh"

#include <algorithm>

namespace bqq::cuda {
namespace {

// ---- preparation ----

struct PackJob {
    const std::uint8_t *Y, *Z;
    const float* scales;
    std::uint32_t *z_words, *y_words;
    float* stacks;
    double* constants;
    std::int64_t rows, cols; // of a block of W_hat as stored
    int J, K, p, l;          // of the matrix that is multiplied
    int zw, lw, transposed;

    // Plane of stack i of block (j, k) of the matrix that is multiplied.
    __device__ __forceinline__ std::size_t plane(int j, int k, int i) const {
        return (transposed ? std::size_t(k) * J + j : std::size_t(j) * K + k) * p + i;
    }
};

// 32 bits of a row of a bit matrix (`height` rows of `row_bytes`) or of its transpose.
__device__ __forceinline__ std::uint32_t word_of(const std::uint8_t* plane, std::int64_t row_bytes, std::int64_t height,
                                                 std::int64_t row, int word, bool transposed) {
    std::uint32_t bits = 0;
    if (transposed) {
        for (int b = 0; b < 32; ++b) {
            const std::int64_t from = 32 * std::int64_t(word) + b;
            if (from < height) bits |= std::uint32_t(plane[from * row_bytes + row / 8] >> (row % 8) & 1) << b;
        }
    } else {
        for (int b = 0; b < 4; ++b)
            if (4 * word + b < row_bytes) bits |= std::uint32_t(plane[row * row_bytes + 4 * word + b]) << (8 * b);
    }
    return bits;
}

__global__ void __launch_bounds__(256) matmul_pack(PackJob q) {
    const std::size_t at = std::size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const std::int64_t y_bytes = (q.l + 7) / 8, z_bytes = (q.cols + 7) / 8;
    const std::size_t latents = std::size_t(q.J) * q.p * q.l, all_z = std::size_t(q.K) * q.zw * latents;
    const std::int64_t height = q.transposed ? q.cols : q.rows;
    const std::size_t words = std::size_t(q.K) * q.p * q.lw, all_y = std::size_t(q.J) * words * height;
    if (at < all_z) {
        const std::size_t row = at % latents;
        const int word = int(at / latents % q.zw), k = int(at / latents / q.zw), e = int(row % q.l);
        const std::size_t plane = q.plane(int(row / q.l / q.p), k, int(row / q.l % q.p));
        q.z_words[at] = q.transposed ? word_of(q.Y + plane * q.rows * y_bytes, y_bytes, q.rows, e, word, true)
                                     : word_of(q.Z + plane * q.l * z_bytes, z_bytes, q.l, e, word, false);
    } else if (at - all_z < all_y) {
        const std::size_t to = at - all_z, row = to % height, word = to / height % words;
        const std::size_t plane = q.plane(int(to / height / words), int(word / q.lw / q.p), int(word / q.lw % q.p));
        q.y_words[to] = q.transposed
                            ? word_of(q.Z + plane * q.l * z_bytes, z_bytes, q.l, row, int(word % q.lw), true)
                            : word_of(q.Y + plane * q.rows * y_bytes, y_bytes, q.rows, row, int(word % q.lw), false);
    }
}

__global__ void __launch_bounds__(256) matmul_scales(PackJob q) {
    const int at = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= q.J * q.K) return;
    const std::size_t block = q.plane(at / q.K, at % q.K, 0) / q.p;
    const float* scales = q.scales + block * (3 * q.p + 1);
    double constant = double(scales[3 * q.p]);
    for (int i = 0; i < q.p; ++i) {
        const double r = double(scales[3 * i]), s = double(scales[3 * i + (q.transposed ? 2 : 1)]),
                     t = double(scales[3 * i + (q.transposed ? 1 : 2)]);
        constant += double(q.l) / 2 * (s + r / 2 + t);
        float* to = q.stacks + (std::size_t(at) * q.p + i) * 3;
        to[0] = float(r), to[1] = float(s + r / 2), to[2] = float(r / 2 + t);
    }
    q.constants[at] = constant;
}

// ---- what a stage multiplies ----

// A stage is `groups` bit matrices of `height` rows and `words` words, each with inputs of its own. input(group, q, b)
// is what bit q is multiplied by in column b; side collects a sum over all inputs. Results go to result(...) by split
// of the words, sides to bias(...).

struct StageZ { // groups: block columns; rows: latents; side: sigma
    const std::uint32_t* bits;
    const void* x;
    std::int64_t row_stride, col_stride, n, cols;
    float* v;      // [K][batch][latents]
    double* sigma; // [K][batch]
    std::int64_t latents;
    int words, K, batch;
    Dtype dtype;

    __device__ __forceinline__ std::int64_t height() const { return latents; }
    __device__ __forceinline__ std::int64_t height_of(int) const { return latents; }
    __device__ __forceinline__ float input(int k, std::int64_t q, int b, double& side) const {
        const std::int64_t at = k * cols + q;
        if (q >= cols || at >= n || b >= batch) return 0;
        const float value = read(x, dtype, at * row_stride + b * col_stride);
        side += double(value);
        return value;
    }
    __device__ __forceinline__ float* result(int k, int, int b) const {
        return v + (std::size_t(k) * batch + b) * latents;
    }
    __device__ __forceinline__ double* bias(int k, int, int b) const { return sigma + std::size_t(k) * batch + b; }
};

struct StageY { // groups: block rows; rows: of a block; side: what every row gets
    const std::uint32_t* bits;
    const float* v;
    const double *sigma, *constants;
    const float* stacks;
    float* partial; // [splits][batch][m]
    double* shared; // [splits][J][batch]
    std::int64_t rows, m, latents;
    int words, J, K, p, l, lw, batch;

    __device__ __forceinline__ std::int64_t height() const { return rows; }
    __device__ __forceinline__ std::int64_t height_of(int j) const { return min(rows, m - j * rows); }
    __device__ __forceinline__ float input(int j, std::int64_t q, int b, double& side) const {
        const int word = int(q / 32), e = word % lw * 32 + int(q % 32), i = word / lw % p, k = word / lw / p;
        if (word >= words || e >= l || b >= batch) return 0;
        const double sum = sigma[std::size_t(k) * batch + b];
        const std::size_t block = std::size_t(j) * K + k;
        const float* stack = stacks + (block * p + i) * 3;
        const float value = v[(std::size_t(k) * batch + b) * latents + (std::size_t(j) * p + i) * l + e];
        side += double(stack[2]) * double(value);
        if (i == 0 && e == 0) side += constants[block] * sum;
        return fmaf(stack[0], value, stack[1] * float(sum));
    }
    __device__ __forceinline__ float* result(int j, int split, int b) const {
        return partial + (std::size_t(split) * batch + b) * m + std::size_t(j) * rows;
    }
    __device__ __forceinline__ double* bias(int j, int split, int b) const {
        return shared + (std::size_t(split) * J + j) * batch + b;
    }
};

// ---- few columns: tables ----

constexpr int chunk_words = 8;             // 256 inputs
constexpr int entries = chunk_words * 128; // 64 tables of 16 sums

// A thread is a row, for `columns` columns from blockIdx.z / splits on. Tables hold one column, or pairs of columns:
// the 16 entries of a table then lie in different banks, whatever the lanes look up.
template <class Stage, int columns> __global__ void __launch_bounds__(256)
    matmul_tables(Stage stage, int splits, int words_per_split) {
    SHARED(float, inputs, [chunk_words * 32 * columns]);
    SHARED(float2, tables, [entries * columns / 2]);
    SHARED(double, room, [8 * columns]);
    float* table = reinterpret_cast<float*>(tables);
    const int group = int(blockIdx.y), split = int(blockIdx.z) % splits, b0 = int(blockIdx.z) / splits * columns;
    const int begin = split * words_per_split, end = min(stage.words, begin + words_per_split);
    const std::int64_t row = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x, height = stage.height();
    const bool inside = row < stage.height_of(group);
    const std::uint32_t* bits = stage.bits + std::size_t(group) * stage.words * height + (inside ? row : 0);
    float sum[columns] = {};
    double side[columns] = {};
    for (int word = begin; word < end; word += chunk_words) {
        const int count = min(chunk_words, end - word);
        for (int q = int(threadIdx.x); q < 32 * count; q += int(blockDim.x))
#pragma unroll
            for (int b = 0; b < columns; ++b)
                inputs[q * columns + b] = stage.input(group, 32 * std::int64_t(word) + q, b0 + b, side[b]);
        __syncthreads();
        for (int entry = int(threadIdx.x); entry < 128 * count; entry += int(blockDim.x)) {
            const int of = entry / 16 * 4, value = entry % 16;
#pragma unroll
            for (int b = 0; b < columns; ++b) {
                float half_sum = 0;
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    half_sum = fmaf(value >> i & 1 ? 0.5f : -0.5f, inputs[(of + i) * columns + b], half_sum);
                table[columns == 1 ? entry : (b / 2 * entries + entry) * 2 + b % 2] = half_sum;
            }
        }
        __syncthreads();
        if (inside)
            for (int w = 0; w < count; ++w) {
                std::uint32_t word_bits = bits[std::size_t(word + w) * height];
#pragma unroll
                for (int nibble = 0; nibble < 8; ++nibble) {
                    const int entry = (w * 8 + nibble) * 16 + int(word_bits & 15);
                    word_bits >>= 4;
                    if constexpr (columns == 1) {
                        sum[0] += table[entry];
                    } else {
#pragma unroll
                        for (int b = 0; b < columns; b += 2) {
                            const float2 x = tables[b / 2 * entries + entry];
                            sum[b] += x.x, sum[b + 1] += x.y;
                        }
                    }
                }
            }
    }
#pragma unroll
    for (int b = 0; b < columns; ++b)
        if (inside && b0 + b < stage.batch) stage.result(group, split, b0 + b)[row] = sum[b];
    if (blockIdx.x == 0) {
        block_sum(side, room);
        if (threadIdx.x == 0)
#pragma unroll
            for (int b = 0; b < columns; ++b)
                if (b0 + b < stage.batch) *stage.bias(group, split, b0 + b) = side[b];
    }
}

// ---- many columns: tensor cores ----

// 128 rows x 64 columns a block, a word of 32 columns of bits at a time. Bits become +-1/2 in registers, exactly;
// inputs are split into terms that add up to them.
template <class Stage, int terms> __global__ void __launch_bounds__(256)
    matmul_tiles(Stage stage, int splits, int words_per_split) {
    constexpr int ld = 20; // words of a row of 16 pairs, padded so that fragments meet all banks
    SHARED(std::uint32_t, pairs, [terms * 64 * ld]);
    const int group = int(blockIdx.y), split = int(blockIdx.z) % splits, b0 = int(blockIdx.z) / splits * 64;
    const int begin = split * words_per_split, end = min(stage.words, begin + words_per_split);
    const int lane = lane_of_thread(), g = lane / 4, t = lane % 4;
    const std::int64_t height = stage.height(), limit = stage.height_of(group);
    const std::int64_t row = std::int64_t(blockIdx.x) * 128 + warp_of_thread() * 16 + g;
    const std::uint32_t* bits = stage.bits + std::size_t(group) * stage.words * height;
    float sum[8][4] = {};
    double side[4] = {};
    const int pair = int(threadIdx.x) % 16, column = int(threadIdx.x) / 16;
    for (int word = begin; word < end; ++word) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            const int b = column + 16 * c;
            float low = stage.input(group, 32 * std::int64_t(word) + 2 * pair, b0 + b, side[c]);
            float high = stage.input(group, 32 * std::int64_t(word) + 2 * pair + 1, b0 + b, side[c]);
#pragma unroll
            for (int term = 0; term < terms; ++term) {
                const std::uint32_t both = pack_bf16(low, high);
                pairs[(term * 64 + b) * ld + pair] = both;
                low -= bf16_to_float(std::uint16_t(both & 0xFFFF)), high -= bf16_to_float(std::uint16_t(both >> 16));
            }
        }
        const std::uint32_t upper = row < limit ? bits[std::size_t(word) * height + row] : 0u,
                            lower = row + 8 < limit ? bits[std::size_t(word) * height + row + 8] : 0u;
        __syncthreads();
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            std::uint32_t a[4];
#pragma unroll
            for (int q = 0; q < 4; ++q) { // -1/2 with the sign turned where the bit is set
                const std::uint32_t two = (q % 2 ? lower : upper) >> (16 * k + 8 * (q / 2) + 2 * t);
                a[q] = 0xBF00BF00u ^ ((two & 1u) << 15) ^ ((two & 2u) << 30);
            }
#pragma unroll
            for (int term = 0; term < terms; ++term)
#pragma unroll
                for (int v = 0; v < 8; ++v) {
                    const std::uint32_t* at = pairs + (term * 64 + 8 * v + g) * ld + 8 * k + t;
                    const std::uint32_t b[2] = {at[0], at[4]};
                    mma_bf16(sum[v], a, b);
                }
        }
        __syncthreads();
    }
#pragma unroll
    for (int v = 0; v < 8; ++v)
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            const int b = b0 + 8 * v + 2 * t + q % 2;
            const std::int64_t to = row + 8 * (q / 2);
            if (to < limit && b < stage.batch) stage.result(group, split, b)[to] = sum[v][q];
        }
    if (blockIdx.x != 0) return;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
#pragma unroll
        for (int d = 8; d; d /= 2) side[c] += __shfl_xor_sync(full_warp, side[c], d);
        if (pair == 0 && b0 + column + 16 * c < stage.batch) *stage.bias(group, split, b0 + column + 16 * c) = side[c];
    }
}

// ---- the splits together, to the dtype of the result ----

struct Finish {
    const float* partial;
    const double* shared;
    void* out;
    std::int64_t m, rows, row_stride, col_stride;
    int splits, J, batch, accumulate;
    Dtype dtype;
};

__global__ void __launch_bounds__(256) matmul_finish(Finish q) {
    const std::int64_t row = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const int b = int(blockIdx.y);
    if (row >= q.m) return;
    const std::int64_t j = row / q.rows;
    double sum = 0;
    for (int s = 0; s < q.splits; ++s)
        sum += double(q.partial[(std::size_t(s) * q.batch + b) * q.m + row]) +
               q.shared[(std::size_t(s) * q.J + j) * q.batch + b];
    const std::int64_t at = row * q.row_stride + b * q.col_stride;
    write(q.out, q.dtype, at, float(sum) + (q.accumulate ? read(q.out, q.dtype, at) : 0.0f));
}

// ---- host ----

constexpr Index widest = 256; // columns that share a workspace

// Splits of the words of stage 2, from the shape alone: enough blocks for a large GPU.
int splits_of(const Planes& q) {
    const Index blocks = q.J * ((q.rows + 127) / 128), chunks = (q.y_words() + chunk_words - 1) / chunk_words;
    return int(std::clamp<Index>((512 + blocks - 1) / blocks, 1, std::min<Index>(chunks, 64)));
}

struct Workspace {
    std::size_t v, sigma, partial, shared, bytes;
    Workspace(const Planes& q, Index batch) {
        const std::size_t b = std::size_t(batch), splits = std::size_t(splits_of(q));
        sigma = 0;
        shared = sigma + 8 * b * std::size_t(q.K);
        v = shared + 8 * b * splits * std::size_t(q.J);
        partial = v + 4 * b * std::size_t(q.K) * std::size_t(q.inner_width());
        bytes = partial + 4 * b * splits * std::size_t(q.m);
    }
};

template <class Stage> cudaError_t run(const Stage& stage, int groups, Index height, int splits,
                                       const ProductLaunch& launch, bool tables, cudaStream_t stream) {
    const int chunks = (stage.words + chunk_words - 1) / chunk_words;
    const int per_split = (chunks + splits - 1) / splits * chunk_words;
    if (!tables) {
        const dim3 grid(unsigned((height + 127) / 128), unsigned(groups), unsigned((stage.batch + 63) / 64 * splits));
        if (launch.terms == 2)
            return launch_kernel(matmul_tiles<Stage, 2>, grid, dim3(256), 0, stream, stage, splits, per_split);
        return launch_kernel(matmul_tiles<Stage, 3>, grid, dim3(256), 0, stream, stage, splits, per_split);
    }
    const int columns = stage.batch >= 3 ? 4 : stage.batch;
    const Index threads = height > 128 ? 256 : 128;
    const dim3 grid(unsigned((height + threads - 1) / threads), unsigned(groups),
                    unsigned((stage.batch + columns - 1) / columns * splits));
    const dim3 block(static_cast<unsigned>(threads));
    if (columns == 4) return launch_kernel(matmul_tables<Stage, 4>, grid, block, 0, stream, stage, splits, per_split);
    if (columns == 2) return launch_kernel(matmul_tables<Stage, 2>, grid, block, 0, stream, stage, splits, per_split);
    return launch_kernel(matmul_tables<Stage, 1>, grid, block, 0, stream, stage, splits, per_split);
}

std::size_t size_of(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

} // namespace

Planes::Planes(const Layout& a, bool turn)
    : m(turn ? a.n : a.m), n(turn ? a.m : a.n), rows(turn ? a.cols : a.rows), cols(turn ? a.rows : a.cols),
      J(int(turn ? a.K : a.J)), K(int(turn ? a.J : a.K)), p(int(a.p)), l(int(a.l)), transposed(turn) {}

cudaError_t prepare(const Layout& a, const std::uint8_t* Y, const std::uint8_t* Z, const float* scales, bool transposed,
                    void* prepared, cudaStream_t stream) {
    const Planes q(a, transposed);
    if (!Y || !Z || !scales || !prepared || a.J > 65535 || a.K > 65535) return cudaErrorInvalidValue;
    unsigned char* base = static_cast<unsigned char*>(prepared);
    PackJob job{Y,
                Z,
                scales,
                reinterpret_cast<std::uint32_t*>(base + q.z_at()),
                reinterpret_cast<std::uint32_t*>(base + q.y_at()),
                reinterpret_cast<float*>(base + q.stacks_at()),
                reinterpret_cast<double*>(base + q.constants_at()),
                a.rows,
                a.cols,
                q.J,
                q.K,
                q.p,
                q.l,
                q.z_words(),
                q.l_words(),
                transposed};
    const std::size_t blocks = (q.z_size() + q.y_size() + 255) / 256;
    if (blocks > 0x7FFFFFFF) return cudaErrorInvalidValue;
    const cudaError_t e = launch_kernel(matmul_pack, dim3(unsigned(blocks)), dim3(256), 0, stream, job);
    if (e != cudaSuccess) return e;
    return launch_kernel(matmul_scales, dim3(unsigned((q.blocks() + 255) / 256)), dim3(256), 0, stream, job);
}

std::size_t matmul_workspace(const Planes& q, Index batch, const ProductLaunch&) {
    return Workspace(q, std::min(batch, widest)).bytes;
}

cudaError_t matmul(const Planes& q, const void* prepared, const ConstArray& x, const Array& out,
                   const ProductLaunch& launch, void* workspace, cudaStream_t stream) {
    if (x.rows != q.n || out.rows != q.m || x.cols != out.cols || x.cols < 0 || launch.terms < 2 || launch.terms > 3)
        return cudaErrorInvalidValue;
    if (x.cols == 0) return cudaSuccess;
    if (!prepared || !x.data || !out.data || !workspace) return cudaErrorInvalidValue;
    const unsigned char* base = static_cast<const unsigned char*>(prepared);
    unsigned char* work = static_cast<unsigned char*>(workspace);
    const bool tables = x.cols <= launch.tables;
    const int splits = splits_of(q);
    for (Index first = 0; first < x.cols; first += widest) {
        const Index batch = std::min(widest, x.cols - first);
        const Workspace at(q, batch);
        StageZ one{};
        one.bits = reinterpret_cast<const std::uint32_t*>(base + q.z_at());
        one.x = static_cast<const unsigned char*>(x.data) + first * x.col_stride * Index(size_of(x.dtype));
        one.row_stride = x.row_stride, one.col_stride = x.col_stride, one.n = q.n, one.cols = q.cols;
        one.v = reinterpret_cast<float*>(work + at.v), one.sigma = reinterpret_cast<double*>(work + at.sigma);
        one.latents = q.inner_width(), one.words = q.z_words(), one.K = q.K, one.batch = int(batch),
        one.dtype = x.dtype;
        StageY two{};
        two.bits = reinterpret_cast<const std::uint32_t*>(base + q.y_at());
        two.v = one.v, two.sigma = one.sigma;
        two.constants = reinterpret_cast<const double*>(base + q.constants_at());
        two.stacks = reinterpret_cast<const float*>(base + q.stacks_at());
        two.partial = reinterpret_cast<float*>(work + at.partial),
        two.shared = reinterpret_cast<double*>(work + at.shared);
        two.rows = q.rows, two.m = q.m, two.latents = q.inner_width(), two.words = int(q.y_words());
        two.J = q.J, two.K = q.K, two.p = q.p, two.l = q.l, two.lw = q.l_words(), two.batch = int(batch);
        Finish end{two.partial,
                   two.shared,
                   static_cast<unsigned char*>(out.data) + first * out.col_stride * Index(size_of(out.dtype)),
                   q.m,
                   q.rows,
                   out.row_stride,
                   out.col_stride,
                   splits,
                   q.J,
                   int(batch),
                   launch.accumulate,
                   out.dtype};
        cudaError_t e = run(one, q.K, q.inner_width(), 1, launch, tables, stream);
        if (e == cudaSuccess) e = run(two, q.J, q.rows, splits, launch, tables, stream);
        if (e == cudaSuccess)
            e = launch_kernel(matmul_finish, dim3(unsigned((q.m + 255) / 256), unsigned(batch)), dim3(256), 0, stream,
                              end);
        if (e != cudaSuccess) return e;
    }
    return cudaSuccess;
}

} // namespace bqq::cuda
