// The product from bit planes, in the centred form. With v_k = sum_b (z_kb - 1/2) x_b and sigma = sum x,
//
//   w_k = r v_k + (s + r/2) sigma
//   y_a = sum_k (Y_ak - 1/2) w_k  +  sum over stacks of [ (r/2 + t) sum_k v_k + l/2 (s + r/2 + t) sigma ... ] + u sigma
//
// It equals the form of matmul.hpp, but in it large common parts never meet to cancel: float32 keeps its digits for
// inputs that are far from centred. (1/2 sum_k w_k contributes r/2 sum v and l/2 (s + r/2) sigma to the second line.)
#include "bqq/matmul.hpp"

#include "half.hpp"
#include "kernels/dispatch.hpp"
#include "parallel.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>

namespace bqq {
namespace {

using namespace detail;

[[noreturn]] void bad_argument(const std::string& text) { throw Error(ErrorCode::invalid_argument, text); }

constexpr std::size_t kAlign = 64;
constexpr std::size_t kChunkBytes = 16; // 128 inputs share a set of tables: 32 KB for a wide panel, 2 KB for one column
constexpr std::uint64_t kMagic = 0x31707265'50717142; // "BqqPrep1"

std::size_t aligned(std::size_t size) { return (size + kAlign - 1) / kAlign * kAlign; }

// Layout of a prepared block of memory: header, coefficients, Z planes [K][J][p][l][zb], Y planes [J][rows][K][p][yb].
struct Header {
    std::uint64_t magic;
    Layout layout;
    std::uint64_t coefficients, z, y, size; // offsets from the header
};

// Per (j, k, i): w_k = r v_k + input_shift * sigma; y gets v_total * sum_k v_k. Per (j, k): y gets constant * sigma.
struct Coefficients {
    float r, input_shift, v_total, constant;
};

Header make_header(const Layout& a) {
    Header h{};
    h.magic = kMagic;
    h.layout = a;
    h.coefficients = aligned(sizeof(Header));
    h.z = h.coefficients + aligned(std::size_t(a.blocks() * a.p) * sizeof(Coefficients));
    h.y = h.z + aligned(std::size_t(a.z_bytes()));
    h.size = h.y + aligned(std::size_t(a.y_bytes()));
    return h;
}

const Header& header_of(const void* prepared) {
    const auto* h = static_cast<const Header*>(prepared);
    if (!h) bad_argument("prepared is a null pointer");
    if (h->magic != kMagic) bad_argument("prepared does not point at a prepared matrix");
    return *h;
}

template <class T> const T* at(const Header& h, std::uint64_t offset) {
    return reinterpret_cast<const T*>(reinterpret_cast<const std::uint8_t*>(&h) + offset);
}

template <class T> float load(const void* data, Index i);
template <> float load<float>(const void* data, Index i) { return static_cast<const float*>(data)[i]; }
template <> float load<double>(const void* data, Index i) { return float(static_cast<const double*>(data)[i]); }

float load_any(const ConstArray& X, Index i) {
    switch (X.dtype) {
    case Dtype::f32:
        return load<float>(X.data, i);
    case Dtype::f64:
        return load<double>(X.data, i);
    case Dtype::f16:
        return f16_to_f32(static_cast<const std::uint16_t*>(X.data)[i]);
    default:
        return bf16_to_f32(static_cast<const std::uint16_t*>(X.data)[i]);
    }
}

void store_any(const Array& out, Index i, float value) {
    switch (out.dtype) {
    case Dtype::f32:
        static_cast<float*>(out.data)[i] = value;
        break;
    case Dtype::f64:
        static_cast<double*>(out.data)[i] = double(value);
        break;
    case Dtype::f16:
        static_cast<std::uint16_t*>(out.data)[i] = f32_to_f16(value);
        break;
    default:
        static_cast<std::uint16_t*>(out.data)[i] = f32_to_bf16(value);
        break;
    }
}

Index padded8(Index count) { return (count + 7) / 8 * 8; }

// One column at a time is cheapest up to a few columns; then a padded panel of BQQ_PANEL.
Index panel_width(Index batch) { return batch < 4 ? 1 : BQQ_PANEL; }

// The scratch memory of one row block times one panel.
struct Workspace {
    float *x, *tables, *v, *w, *out, *sigma, *total;

    static std::size_t size(const Layout& a, Index width, float* base = nullptr, Workspace* into = nullptr) {
        const Index yb = a.y_row_bytes(), l8 = 8 * yb;
        const Index counts[] = {padded8(a.cols) * width,
                                Index(kChunkBytes) * 2 * 16 * width,
                                a.l * width,
                                a.K * a.p * l8 * width,
                                a.rows * width,
                                BQQ_PANEL,
                                BQQ_PANEL};
        float* parts[7];
        std::size_t used = 0;
        for (int i = 0; i < 7; ++i) {
            parts[i] = base ? base + used / sizeof(float) : nullptr;
            used += aligned(std::size_t(counts[i]) * sizeof(float));
        }
        if (into) *into = {parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], parts[6]};
        return used;
    }
};

// out[i][c] = sum_k (bit(i,k) - 1/2) x[k][c] for all rows of one plane, through tables of kChunkBytes at a time.
void plane_product(const bqq_kernels& kernel, Index rows, Index bytes, const std::uint8_t* bits, Index stride,
                   const float* x, Index width, float* tables, float* out) {
    for (Index b = 0; b < bytes; b += Index(kChunkBytes)) {
        const Index used = std::min(Index(kChunkBytes), bytes - b);
        kernel.build_tables(std::size_t(used), x + 8 * b * width, std::size_t(width), tables);
        kernel.lookup(std::size_t(rows), std::size_t(used), bits + b, std::size_t(stride), tables, std::size_t(width),
                      out, b > 0);
    }
}

// Rows [begin, end) of block row j, columns [column, column + width) of X.
void row_block(const Header& h, const bqq_kernels& kernel, const ConstArray& X, const Array& out, Index j, Index begin,
               Index end, Index column, Index width, Workspace& ws) {
    const Layout& a = h.layout;
    const Index live = std::min(width, X.cols - column), l = a.l, zb = a.z_row_bytes(), yb = a.y_row_bytes();
    const Coefficients* all = at<Coefficients>(h, h.coefficients);
    std::fill(ws.total, ws.total + width, 0.0f);
    for (Index k = 0; k < a.K; ++k) {
        const Index cols = a.cols_of(k);
        double sigma[BQQ_PANEL] = {};
        for (Index b = 0; b < padded8(a.cols); ++b)
            for (Index c = 0; c < width; ++c) {
                const bool inside = b < cols && c < live;
                const float value =
                    inside ? load_any(X, (k * a.cols + b) * X.row_stride + (column + c) * X.col_stride) : 0.0f;
                ws.x[b * width + c] = value;
                sigma[c] += double(value);
            }
        for (Index c = 0; c < width; ++c) ws.sigma[c] = float(sigma[c]);
        for (Index i = 0; i < a.p; ++i) {
            const Coefficients& q = all[(j * a.K + k) * a.p + i];
            const std::uint8_t* z = at<std::uint8_t>(h, h.z) + ((k * a.J + j) * a.p + i) * a.z_plane_bytes();
            plane_product(kernel, l, zb, z, zb, ws.x, width, ws.tables, ws.v);
            float* w = ws.w + (k * a.p + i) * 8 * yb * width;
            float sum[BQQ_PANEL] = {};
            for (Index e = 0; e < l; ++e)
                for (Index c = 0; c < width; ++c) {
                    const float v = ws.v[e * width + c];
                    sum[c] += v;
                    w[e * width + c] = q.r * v + q.input_shift * ws.sigma[c];
                }
            std::fill(w + l * width, w + 8 * yb * width, 0.0f);
            for (Index c = 0; c < width; ++c) ws.total[c] += q.v_total * sum[c] + q.constant * ws.sigma[c];
        }
    }
    const std::uint8_t* y = at<std::uint8_t>(h, h.y) + (j * a.rows + begin) * a.K * a.p * yb;
    plane_product(kernel, end - begin, a.K * a.p * yb, y, a.K * a.p * yb, ws.w, width, ws.tables, ws.out);
    for (Index i = 0; i < end - begin; ++i)
        for (Index c = 0; c < live; ++c)
            store_any(out, (j * a.rows + begin + i) * out.row_stride + (column + c) * out.col_stride,
                      ws.out[i * width + c] + ws.total[c]);
}

void check_arrays(const Layout& a, const ConstArray& X, const Array& out) {
    if (X.rows != a.n) bad_argument("X has " + std::to_string(X.rows) + " rows, expected n = " + std::to_string(a.n));
    if (out.rows != a.m)
        bad_argument("out has " + std::to_string(out.rows) + " rows, expected m = " + std::to_string(a.m));
    if (X.cols < 0 || out.cols != X.cols)
        bad_argument("out has " + std::to_string(out.cols) + " columns and X " + std::to_string(X.cols) +
                     ", expected the same number");
    if (X.cols && (!X.data || !out.data)) bad_argument("X or out is a null pointer");
    for (const Dtype dtype : {X.dtype, out.dtype})
        if (int(dtype) < 0 || int(dtype) > int(Dtype::f64))
            bad_argument("dtype is " + std::to_string(int(dtype)) + ", expected 0 (f32), 1 (f16), 2 (bf16) or 3 (f64)");
}

} // namespace

std::size_t prepared_size(const View& q) {
    validate(q.layout);
    return make_header(q.layout).size;
}

void prepare(const View& q, void* buffer, std::size_t size) {
    validate(q);
    const Layout& a = q.layout;
    const Header h = make_header(a);
    if (!buffer || reinterpret_cast<std::uintptr_t>(buffer) % kAlign)
        bad_argument("buffer is null or not 64-byte aligned");
    if (size < h.size)
        bad_argument("buffer has " + std::to_string(size) + " bytes, expected " + std::to_string(h.size));
    auto* base = static_cast<std::uint8_t*>(buffer);
    std::memcpy(base, &h, sizeof h);
    auto* coefficients = reinterpret_cast<Coefficients*>(base + h.coefficients);
    const Index yb = a.y_row_bytes();
    for (Index j = 0; j < a.J; ++j)
        for (Index k = 0; k < a.K; ++k)
            for (Index i = 0; i < a.p; ++i) {
                const float* scales = q.block_scales(j, k);
                const double r = scales[3 * i], s = scales[3 * i + 1], t = scales[3 * i + 2];
                double constant = double(a.l) / 2 * (s + r / 2 + t);
                if (i == 0) constant += double(scales[3 * a.p]); // u, once a block
                coefficients[(j * a.K + k) * a.p + i] = {float(r), float(s + r / 2), float(r / 2 + t), float(constant)};
                std::memcpy(base + h.z + ((k * a.J + j) * a.p + i) * a.z_plane_bytes(), q.z_plane(j, k, i),
                            std::size_t(a.z_plane_bytes()));
                for (Index row = 0; row < a.rows; ++row)
                    std::memcpy(base + h.y + ((((j * a.rows + row) * a.K) + k) * a.p + i) * yb,
                                q.y_plane(j, k, i) + row * yb, std::size_t(yb));
            }
}

std::size_t workspace_size(const void* prepared, Index batch) {
    const Header& h = header_of(prepared);
    return Workspace::size(h.layout, panel_width(batch));
}

void matmul_rows(const void* prepared, const ConstArray& X, const Array& out, Index row_begin, Index row_end,
                 void* workspace) {
    const Header& h = header_of(prepared);
    const Layout& a = h.layout;
    check_arrays(a, X, out);
    if (row_begin < 0 || row_begin > row_end || row_end > a.m)
        bad_argument("rows " + std::to_string(row_begin) + " to " + std::to_string(row_end) +
                     ", expected a range within 0 to " + std::to_string(a.m));
    if (!workspace || reinterpret_cast<std::uintptr_t>(workspace) % kAlign)
        bad_argument("workspace is null or not 64-byte aligned");
    const bqq_kernels& kernel = kernels();
    const Index width = panel_width(X.cols);
    Workspace ws;
    Workspace::size(a, width, static_cast<float*>(workspace), &ws);
    for (Index row = row_begin; row < row_end;) {
        const Index j = row / a.rows, stop = std::min(row_end, (j + 1) * a.rows);
        for (Index column = 0; column < X.cols; column += width)
            row_block(h, kernel, X, out, j, row - j * a.rows, stop - j * a.rows, column, width, ws);
        row = stop;
    }
}

void matmul(const void* prepared, const ConstArray& X, const Array& out, int threads) {
    const Header& h = header_of(prepared);
    const Layout& a = h.layout;
    check_arrays(a, X, out);
    if (X.cols == 0) return;
    const bqq_kernels& kernel = kernels();
    const Index width = panel_width(X.cols), panels = (X.cols + width - 1) / width;
    // Below about 0.1 ms of work starting a thread costs more than it brings.
    const double work = double(a.p) * double(a.l) * double(a.m * a.K + a.n * a.J) * double(X.cols);
    const int crew = work < 2e6 ? 1 : int(std::min<Index>(resolve_threads(threads), a.J * panels));
    const std::size_t floats = Workspace::size(a, width) / sizeof(float) + kAlign / sizeof(float);
    std::unique_ptr<float[]> memory(new float[floats * std::size_t(crew)]);
    parallel_for(a.J * panels, crew, [&](Index task, int worker) {
        auto address = reinterpret_cast<std::uintptr_t>(memory.get() + floats * std::size_t(worker));
        Workspace ws;
        Workspace::size(a, width, reinterpret_cast<float*>(aligned(address)), &ws);
        const Index j = task % a.J;
        row_block(h, kernel, X, out, j, 0, a.rows_of(j), task / a.J * width, width, ws);
    });
}

} // namespace bqq
