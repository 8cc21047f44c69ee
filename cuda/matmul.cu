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

// Bits times terms: group by group, column b of split s to out + group * group_step + s * split_step + b * column_step.
struct Tiles {
    const std::uint32_t* bits;
    const uint4* terms;
    float* out;
    std::int64_t height, total, group_step, split_step,
        column_step; // total: rows of all groups, where groups share them
    int words, batch, splits, words_per_split;
};

// A stage is `groups` bit matrices of `height` rows and `words` words, each with inputs of its own: at(group, word, b)
// is what the bits of a word meet in column b, next(...) those of the next word, value(...) what one bit is multiplied
// by; side collects a sum over all inputs. Results go to result(...) by split of the words, sides to bias(...).

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
    struct Word {
        std::int64_t first, end, column; // inputs of the group that are left; where column b begins
    };
    __device__ __forceinline__ Word at(int k, int word, int b) const {
        const std::int64_t first = k * cols + 32 * std::int64_t(word);
        return {first, b < batch ? min(n, (k + 1) * cols) : first, b * col_stride};
    }
    __device__ __forceinline__ void next(Word& w) const { w.first += 32; }
    __device__ __forceinline__ float value(const Word& w, int bit, double& side) const {
        if (w.first + bit >= w.end) return 0;
        const float value = read(x, dtype, (w.first + bit) * row_stride + w.column);
        side += double(value);
        return value;
    }
    __device__ __forceinline__ float* result(int k, int, int b) const {
        return v + (std::size_t(k) * batch + b) * latents;
    }
    __device__ __forceinline__ double* bias(int k, int, int b) const { return sigma + std::size_t(k) * batch + b; }
    Tiles tiles() const {
        return {bits, nullptr, v, latents, latents * K, batch * latents, 0, latents, words, batch, 0, 0};
    }
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
    struct Word {
        int j, b, part, i, k; // the part-th word of stack i of block (j, k)
        const float* v;
        float r, shift;
        double total, constant;
    };
    __device__ __forceinline__ Word at(int j, int word, int b) const {
        Word w{j, b, word % lw, word / lw % p, word / lw / p, nullptr, 0, 0, 0, 0};
        open(w);
        return w;
    }
    __device__ __forceinline__ void open(Word& w) const {
        if (w.k >= K || w.b >= batch) return;
        const double sum = sigma[std::size_t(w.k) * batch + w.b];
        const std::size_t block = std::size_t(w.j) * K + w.k;
        const float* stack = stacks + (block * p + w.i) * 3;
        w.v = v + (std::size_t(w.k) * batch + w.b) * latents + (std::size_t(w.j) * p + w.i) * l;
        w.r = stack[0], w.shift = stack[1] * float(sum), w.total = double(stack[2]);
        w.constant = w.i == 0 ? constants[block] * sum : 0;
    }
    __device__ __forceinline__ void next(Word& w) const {
        if (++w.part < lw) return;
        w.part = 0;
        if (++w.i == p) w.i = 0, ++w.k;
        open(w);
    }
    __device__ __forceinline__ float value(const Word& w, int bit, double& side) const {
        const int e = 32 * w.part + bit;
        if (e >= l || w.k >= K || w.b >= batch) return 0;
        const float value = w.v[e];
        side += w.total * double(value);
        if (e == 0) side += w.constant;
        return fmaf(w.r, value, w.shift);
    }
    __device__ __forceinline__ float* result(int j, int split, int b) const {
        return partial + (std::size_t(split) * batch + b) * m + std::size_t(j) * rows;
    }
    __device__ __forceinline__ double* bias(int j, int split, int b) const {
        return shared + (std::size_t(split) * J + j) * batch + b;
    }
    Tiles tiles() const { return {bits, nullptr, partial, rows, m, rows, batch * m, m, words, batch, 0, 0}; }
};

// ---- few columns: tables ----

constexpr int chunk_words = 8;             // 256 inputs
constexpr int entries = chunk_words * 128; // 64 tables of 16 sums

// A thread is a row, for `columns` columns from blockIdx.z / splits on. Tables hold one column, or pairs of columns:
// the 16 entries of a table then lie in different banks, whatever the lanes look up.
template <class Stage, int columns> __global__ void __launch_bounds__(256)
    matmul_tables(Stage stage, int splits, int words_per_split) {
    SHARED(float4, inputs, [chunk_words * 8 * columns]);
    SHARED(float2, tables, [entries * columns / 2]);
    SHARED(double, room, [8 * columns]);
    float *input = reinterpret_cast<float*>(inputs), *table = reinterpret_cast<float*>(tables);
    float sign[4]; // of a thread's entry in each table
#pragma unroll
    for (int i = 0; i < 4; ++i) sign[i] = threadIdx.x >> i & 1u ? 0.5f : -0.5f;
    const int group = int(blockIdx.y), split = int(blockIdx.z) % splits, b0 = int(blockIdx.z) / splits * columns;
    const int begin = split * words_per_split, end = min(stage.words, begin + words_per_split);
    const std::int64_t row = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x, height = stage.height();
    const bool inside = row < stage.height_of(group);
    const std::uint32_t* bits = stage.bits + (std::size_t(group) * stage.words + begin) * height + (inside ? row : 0);
    float sum[columns] = {};
    double side[columns] = {};
    for (int word = begin; word < end; word += chunk_words) {
        const int count = min(chunk_words, end - word);
        std::uint32_t ahead[chunk_words]; // on their way while the tables are built
        const int left = inside ? count : 0;
#pragma unroll
        for (int w = 0; w < chunk_words; ++w, bits += height) ahead[w] = w < left ? *bits : 0u;
        for (int q = int(threadIdx.x); q < 32 * count; q += int(blockDim.x))
#pragma unroll
            for (int b = 0; b < columns; ++b)
                input[q * columns + b] = stage.value(stage.at(group, word + q / 32, b0 + b), q % 32, side[b]);
        __syncthreads();
#pragma unroll 4
        for (int entry = int(threadIdx.x); entry < 128 * count; entry += int(blockDim.x)) {
            float in[4 * columns], half_sum[columns];
#pragma unroll
            for (int i = 0; i < columns; ++i) {
                const float4 x = inputs[entry / 16 * columns + i];
                in[4 * i] = x.x, in[4 * i + 1] = x.y, in[4 * i + 2] = x.z, in[4 * i + 3] = x.w;
            }
#pragma unroll
            for (int b = 0; b < columns; ++b) {
                half_sum[b] = sign[0] * in[b];
#pragma unroll
                for (int i = 1; i < 4; ++i) half_sum[b] = fmaf(sign[i], in[i * columns + b], half_sum[b]);
            }
            if constexpr (columns == 1)
                table[entry] = half_sum[0];
            else
#pragma unroll
                for (int b = 0; b < columns; b += 2) tables[b / 2 * entries + entry] = {half_sum[b], half_sum[b + 1]};
        }
        __syncthreads();
        if (inside)
#pragma unroll
            for (int w = 0; w < chunk_words; ++w) {
                if (w >= count) break;
                std::uint32_t word_bits = ahead[w];
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

// The inputs of a stage as terms of 16 bits that add up to them: for each group, tile of `width` columns and word, for
// each term and column, pairs of bit j and, above it, j + 16; the pairs t, t + 4, ... of a lane's fragments lie
// together. A thread makes one pair of each word of a split, for one column.
template <class Stage> __global__ void __launch_bounds__(256)
    matmul_terms(Stage stage, std::uint32_t* out, int terms, int half, int width, int words_per_split) {
    const int group = int(blockIdx.y), split = int(blockIdx.x), place = int(threadIdx.x) % 16;
    const int b = int(blockIdx.z) * 16 + int(threadIdx.x) / 16, j = place % 4 * 4 + place / 4;
    const int begin = split * words_per_split, end = min(stage.words, begin + words_per_split);
    const int tiles = (stage.batch + width - 1) / width;
    std::uint32_t* to = out + (std::size_t(group) * tiles + b / width) * stage.words * terms * width * 16;
    double side = 0;
    auto at = stage.at(group, begin, b);
    for (int word = begin; word < end; ++word, stage.next(at)) {
        float low = stage.value(at, j, side), high = stage.value(at, j + 16, side);
        for (int term = 0; term < terms; ++term) {
            const std::uint32_t both = half ? pack_half(low, high) : pack_bf16(low, high);
            to[((std::size_t(word) * terms + term) * width + b % width) * 16 + place] = both;
            low -= bf16_to_float(std::uint16_t(both & 0xFFFF)), high -= bf16_to_float(std::uint16_t(both >> 16));
        }
    }
#pragma unroll
    for (int d = 8; d; d /= 2) side += __shfl_xor_sync(full_warp, side, d);
    if (place == 0 && b < stage.batch) *stage.bias(group, split, b) = side;
}

constexpr int ring = 3; // words of inputs on their way

// 128 rows x 8 across columns a block, a word of bits at a time; a warp has 32 rows. Bits become -1/2 with the sign
// turned where they are set, in registers, exactly.
template <int terms, int across, bool half> __global__ void __launch_bounds__(128, across == 8 ? 3 : 4)
    matmul_tiles(Tiles q) {
    constexpr int word_size = terms * across * 32;
    SHARED(uint4, inputs, [ring * word_size]);
    const int group = int(blockIdx.y), split = int(blockIdx.z) % q.splits, tile = int(blockIdx.z) / q.splits;
    const int begin = split * q.words_per_split, count = min(q.words - begin, q.words_per_split);
    const int lane = lane_of_thread(), g = lane / 4, t = lane % 4, tiles = (q.batch + 8 * across - 1) / (8 * across);
    const std::int64_t row = std::int64_t(blockIdx.x) * 128 + warp_of_thread() * 32 + g;
    const std::int64_t limit = min(q.height, q.total - group * q.height);
    const std::uint32_t* bits = q.bits + (std::size_t(group) * q.words + begin) * q.height + row;
    const uint4* from = q.terms + ((std::size_t(group) * tiles + tile) * q.words + begin) * word_size;
    const auto fetch = [&](int i) {
        if (i < count)
            for (int x = int(threadIdx.x); x < word_size; x += 128)
                copy_async(inputs + i % ring * word_size + x, from + std::size_t(i) * word_size + x);
        copy_async_commit();
    };
    std::uint32_t next[4];
    const auto fetch_bits = [&](int i) {
#pragma unroll
        for (int r = 0; r < 4; ++r)
            next[r] = i < count && row + 8 * r < limit ? bits[std::size_t(i) * q.height + 8 * r] : 0u;
    };
    fetch(0), fetch(1), fetch_bits(0);
    float sum[2][across][4] = {};
    for (int i = 0; i < count; ++i) {
        std::uint32_t a[2][2][4]; // rows, half of the word
#pragma unroll
        for (int r = 0; r < 4; ++r)
#pragma unroll
            for (int s = 0; s < 4; ++s)
                a[r / 2][s / 2][s % 2 * 2 + r % 2] =
                    ((next[r] << (3 - t) << (12 - 4 * s)) & 0x80008000u) ^ (half ? 0xB800B800u : 0xBF00BF00u);
        fetch_bits(i + 1);
        copy_async_wait<1>();
        __syncthreads();
        fetch(i + 2); // where word i - 1 was
        const uint4* at = inputs + i % ring * word_size + g * 4 + t;
#pragma unroll
        for (int term = 0; term < terms; ++term)
#pragma unroll
            for (int v = 0; v < across; ++v) {
                const uint4 x = at[(term * across + v) * 32];
                const std::uint32_t b[2][2] = {{x.x, x.y}, {x.z, x.w}};
#pragma unroll
                for (int k = 0; k < 4; ++k)
                    if (half)
                        mma_half(sum[k % 2][v], a[k % 2][k / 2], b[k / 2]);
                    else
                        mma_bf16(sum[k % 2][v], a[k % 2][k / 2], b[k / 2]);
            }
    }
    copy_async_wait<0>();
    float* out = q.out + group * q.group_step + split * q.split_step + row;
#pragma unroll
    for (int v = 0; v < across; ++v)
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            const int b = tile * 8 * across + 8 * v + 2 * t + e % 2, r = e / 4 * 16 + e / 2 % 2 * 8;
            if (row + r < limit && b < q.batch) out[b * q.column_step + r] = sum[e / 4][v][e % 4];
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

__global__ void __launch_bounds__(128) matmul_finish(Finish q) {
    const std::int64_t row = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const int b = int(blockIdx.y);
    if (row >= q.m) return;
    const std::int64_t j = row / q.rows;
    double sum = 0;
#pragma unroll 8
    for (int s = 0; s < q.splits; ++s)
        sum += double(q.partial[(std::size_t(s) * q.batch + b) * q.m + row]) +
               q.shared[(std::size_t(s) * q.J + j) * q.batch + b];
    const std::int64_t at = row * q.row_stride + b * q.col_stride;
    write(q.out, q.dtype, at, float(sum) + (q.accumulate ? read(q.out, q.dtype, at) : 0.0f));
}

// ---- host ----

constexpr Index widest = 256,              // columns that share a workspace
    narrowest = 64, near_bytes = 40 << 20; // fewer of them where what is between the stages would not stay in the cache

bool by_tables(Index batch, const ProductLaunch& launch) { return batch <= launch.tables; }

// Columns of a tile of the tensor cores' product.
Index tile_width(Index batch) { return batch > 32 ? 64 : batch > 16 ? 32 : 16; }

// Bytes of terms for a column.
std::size_t terms_of_column(const Planes& q, int terms) {
    return std::size_t(std::max(q.J * q.y_words(), Index(q.K) * q.z_words())) * std::size_t(terms) * 64;
}

// Columns that go together.
Index slab(const Planes& q, Index batch, const ProductLaunch& launch) {
    Index width = widest;
    if (!by_tables(batch, launch))
        while (width > narrowest &&
               (terms_of_column(q, launch.terms) + 4 * std::size_t(q.K * q.inner_width())) * std::size_t(width) >
                   std::size_t(near_bytes))
            width /= 2;
    return std::min(batch, width);
}

// Splits of the words of stage 2: enough blocks for a large GPU.
int splits_of(const Planes& q, Index batch, bool tables) {
    const Index across = tables ? 1 : (batch + tile_width(batch) - 1) / tile_width(batch);
    const Index blocks = q.J * ((q.rows + 127) / 128) * across, chunks = (q.y_words() + chunk_words - 1) / chunk_words;
    return int(std::clamp<Index>((512 + blocks - 1) / blocks, 1, std::min<Index>(chunks, 64)));
}

struct Workspace {
    std::size_t v, sigma, partial, shared, terms, bytes;
    Workspace(const Planes& q, Index batch, const ProductLaunch& launch) {
        const bool tables = by_tables(batch, launch);
        const std::size_t b = std::size_t(batch), splits = std::size_t(splits_of(q, batch, tables)),
                          width = std::size_t(tile_width(batch));
        sigma = 0;
        shared = sigma + 8 * b * std::size_t(q.K);
        terms = (shared + 8 * b * splits * std::size_t(q.J) + 15) / 16 * 16;
        v = terms + (tables ? 0 : terms_of_column(q, launch.terms) * ((b + width - 1) / width * width));
        partial = v + 4 * b * std::size_t(q.K) * std::size_t(q.inner_width());
        bytes = partial + 4 * b * splits * std::size_t(q.m);
    }
};

template <int terms, bool half> cudaError_t run_tiles(const Tiles& q, dim3 grid, Index width, cudaStream_t stream) {
    const auto kernel = width == 16   ? matmul_tiles<terms, 2, half>
                        : width == 32 ? matmul_tiles<terms, 4, half>
                                      : matmul_tiles<terms, 8, half>;
    return launch_kernel(kernel, grid, dim3(128), 0, stream, q);
}

// half: terms are float16, one of them.
template <class Stage> cudaError_t run(const Stage& stage, int groups, Index height, int splits, int terms, bool half,
                                       std::uint32_t* room, cudaStream_t stream) {
    Tiles q = stage.tiles();
    q.terms = reinterpret_cast<const uint4*>(room), q.splits = splits;
    q.words_per_split = (stage.words + splits - 1) / splits;
    const Index width = tile_width(stage.batch), across = (stage.batch + width - 1) / width;
    const cudaError_t e =
        launch_kernel(matmul_terms<Stage>, dim3(unsigned(splits), unsigned(groups), unsigned(across * width / 16)),
                      dim3(256), 0, stream, stage, room, terms, int(half), int(width), q.words_per_split);
    if (e != cudaSuccess) return e;
    const dim3 grid(unsigned((height + 127) / 128), unsigned(groups), unsigned(across * splits));
    if (half) return run_tiles<1, true>(q, grid, width, stream);
    if (terms == 1) return run_tiles<1, false>(q, grid, width, stream);
    if (terms == 2) return run_tiles<2, false>(q, grid, width, stream);
    return run_tiles<3, false>(q, grid, width, stream);
}

template <class Stage>
cudaError_t run_tables(const Stage& stage, int groups, Index height, int splits, cudaStream_t stream) {
    const int chunks = (stage.words + chunk_words - 1) / chunk_words;
    const int per_split = (chunks + splits - 1) / splits * chunk_words;
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

std::size_t matmul_workspace(const Planes& q, Index batch, const ProductLaunch& launch) {
    // The last slab may be narrower and need more splits.
    const Index width = slab(q, batch, launch), rest = width ? batch % width : 0;
    return std::max(Workspace(q, width, launch).bytes, rest ? Workspace(q, rest, launch).bytes : 0);
}

cudaError_t matmul(const Planes& q, const void* prepared, const ConstArray& x, const Array& out,
                   const ProductLaunch& launch, void* workspace, cudaStream_t stream) {
    if (x.rows != q.n || out.rows != q.m || x.cols != out.cols || x.cols < 0 || launch.terms < 2 || launch.terms > 3)
        return cudaErrorInvalidValue;
    if (x.cols == 0) return cudaSuccess;
    if (!prepared || !x.data || !out.data || !workspace) return cudaErrorInvalidValue;
    const unsigned char* base = static_cast<const unsigned char*>(prepared);
    unsigned char* work = static_cast<unsigned char*>(workspace);
    const Index width = slab(q, x.cols, launch);
    for (Index first = 0; first < x.cols; first += width) {
        const Index batch = std::min(width, x.cols - first);
        const bool tables = by_tables(batch, launch);
        const int splits = splits_of(q, batch, tables);
        const Workspace at(q, batch, launch);
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
        cudaError_t e;
        if (tables) {
            e = run_tables(one, q.K, q.inner_width(), 1, stream);
            if (e == cudaSuccess) e = run_tables(two, q.J, q.rows, splits, stream);
        } else {
            std::uint32_t* room = reinterpret_cast<std::uint32_t*>(work + at.terms);
            const bool half = x.dtype == Dtype::f16, exact = half || x.dtype == Dtype::bf16; // in one term
            e = run(one, q.K, q.inner_width(), 1, exact ? 1 : launch.terms, half, room, stream);
            if (e == cudaSuccess) e = run(two, q.J, q.rows, splits, launch.terms, false, room, stream);
        }
        if (e == cudaSuccess)
            e = launch_kernel(matmul_finish, dim3(unsigned((q.m + 127) / 128), unsigned(batch)), dim3(128), 0, stream,
                              end);
        if (e != cudaSuccess) return e;
    }
    return cudaSuccess;
}

} // namespace bqq::cuda
