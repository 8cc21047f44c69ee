#include "pack.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace bqq {
namespace {

[[noreturn]] void bad_argument(const std::string& text) { throw Error(ErrorCode::invalid_argument, text); }
[[noreturn]] void bad_format(const std::string& text) { throw Error(ErrorCode::format, text); }

std::string number(Index value) { return std::to_string(value); }

void require_side(const char* name, Index value) {
    if (value < 1 || value > kMaxSide)
        bad_argument(std::string(name) + " is " + number(value) + ", expected 1 or more");
}

Index divide_up(Index a, Index b) { return (a + b - 1) / b; }

// The pad bits of a row of `bits` bits must be zero, and so must the rows from `rows` on.
void check_padding(const char* name, Index block, const std::uint8_t* plane, Index rows, Index all_rows, Index bits,
                   Index row_bytes) {
    for (Index i = 0; i < all_rows; ++i, plane += row_bytes) {
        const Index used = i < rows ? bits : 0, whole = used / 8;
        bool clean = used % 8 == 0 || plane[whole] >> (used % 8) == 0;
        for (Index b = divide_up(used, 8); b < row_bytes; ++b) clean = clean && plane[b] == 0;
        if (!clean)
            bad_format(std::string("pad bits of ") + name + " are set in block " + number(block) + ", row " +
                       number(i));
    }
}

} // namespace

Layout make_layout(Index m, Index n, Index p, Index l, Index patch) {
    require_side("m", m);
    require_side("n", n);
    if (p < 1 || p > kMaxStacks) bad_argument("p is " + number(p) + ", expected 1 to " + number(kMaxStacks));
    if (patch < 0 || patch > kMaxBlockSide)
        bad_argument("patch is " + number(patch) + ", expected 1 to " + number(kMaxBlockSide) + ", or none to choose");
    if (patch == 0) patch = std::max(m, n) <= 512 ? 512 : 256;
    Layout a;
    a.m = m, a.n = n, a.p = p;
    a.J = divide_up(m, patch), a.K = divide_up(n, patch);
    a.rows = divide_up(m, a.J), a.cols = divide_up(n, a.K);
    if (l == 0) {
        const double side = double(a.rows) * double(a.cols) / double(a.rows + a.cols);
        l = std::min(std::max<Index>(1, std::llround(side)), kMaxInner);
    }
    if (l < 1 || l > kMaxInner) bad_argument("l is " + number(l) + ", expected 1 to " + number(kMaxInner));
    a.l = l;
    const double bytes = double(a.J) * a.K * a.p * (double(a.rows) * ((l + 7) / 8) + double(l) * ((a.cols + 7) / 8));
    if (bytes > 4e18) bad_argument("a matrix of " + number(m) + " x " + number(n) + " is too large to address");
    return a;
}

void validate(const Layout& a) {
    const std::string shape = "layout " + number(a.m) + " x " + number(a.n) + ", grid " + number(a.J) + " x " +
                              number(a.K) + ", block " + number(a.rows) + " x " + number(a.cols) + ", p " +
                              number(a.p) + ", l " + number(a.l);
    if (a.m < 1 || a.n < 1 || a.m > kMaxSide || a.n > kMaxSide) bad_format(shape + ": sides out of range");
    if (a.rows < 1 || a.cols < 1 || a.rows > kMaxBlockSide || a.cols > kMaxBlockSide)
        bad_format(shape + ": block sides out of range");
    if (a.p < 1 || a.p > kMaxStacks) bad_format(shape + ": p out of range, expected 1 to " + number(kMaxStacks));
    if (a.l < 1 || a.l > kMaxInner) bad_format(shape + ": l out of range, expected 1 to " + number(kMaxInner));
    if (a.J < 1 || a.K < 1 || a.J > a.m || a.K > a.n || a.rows != divide_up(a.m, a.J) ||
        a.cols != divide_up(a.n, a.K) || (a.J - 1) * a.rows >= a.m || (a.K - 1) * a.cols >= a.n)
        bad_format(shape + ": the grid does not fit the matrix");
    const double bytes =
        double(a.J) * a.K * a.p * (double(a.rows) * double(a.y_row_bytes()) + double(a.l) * double(a.z_row_bytes()));
    if (bytes > 4e18) bad_format(shape + ": too large to address");
}

void validate(const View& q) {
    const Layout& a = q.layout;
    validate(a);
    if (!q.Y || !q.Z || !q.scales) bad_format("a plane or the scales are missing (null pointer)");
    for (Index i = 0; i < a.scales_count(); ++i)
        if (!std::isfinite(q.scales[i]))
            bad_format("scale " + number(i % a.scales_per_block()) + " of block " + number(i / a.scales_per_block()) +
                       " is not finite");
    for (Index j = 0; j < a.J; ++j)
        for (Index k = 0; k < a.K; ++k)
            for (Index i = 0; i < a.p; ++i) {
                const Index block = j * a.K + k;
                check_padding("Y", block, q.y_plane(j, k, i), a.rows_of(j), a.rows, a.l, a.y_row_bytes());
                check_padding("Z", block, q.z_plane(j, k, i), a.l, a.l, a.cols_of(k), a.z_row_bytes());
            }
}

namespace detail {

void pack_bits(Index rows, Index cols, const float* x, Index ld, std::uint8_t* bits, Index row_bytes) {
    std::memset(bits, 0, std::size_t(rows * row_bytes));
    for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < cols; ++j)
            if (x[i * ld + j] > 0.5f) bits[i * row_bytes + j / 8] |= std::uint8_t(1u << (j % 8));
}

void transpose_bits(Index rows, Index cols, const std::uint8_t* bits, Index row_bytes, std::uint8_t* out,
                    Index out_row_bytes) {
    std::memset(out, 0, std::size_t(cols * out_row_bytes));
    for (Index i = 0; i < rows; ++i)
        for (Index b = 0; b < (cols + 7) / 8; ++b)
            for (unsigned byte = bits[i * row_bytes + b]; byte; byte &= byte - 1) {
                Index j = 8 * b;
                while (!(byte >> (j - 8 * b) & 1)) ++j;
                out[j * out_row_bytes + i / 8] |= std::uint8_t(1u << (i % 8));
            }
}

void copy_stacks(const View& q, Matrix& to, Index stacks) {
    const Layout &a = q.layout, &b = to.layout;
    for (Index block = 0; block < a.blocks(); ++block) {
        std::memcpy(to.Y.data() + block * b.p * b.y_plane_bytes(), q.Y + block * a.p * a.y_plane_bytes(),
                    std::size_t(stacks * a.y_plane_bytes()));
        std::memcpy(to.Z.data() + block * b.p * b.z_plane_bytes(), q.Z + block * a.p * a.z_plane_bytes(),
                    std::size_t(stacks * a.z_plane_bytes()));
    }
}

BlockProducts::BlockProducts(const View& q, Index j, Index k, Index stacks)
    : q_(q), j_(j), k_(k), rows_(q.layout.rows_of(j)), cols_(q.layout.cols_of(k)), p_(stacks), l_(q.layout.l),
      z_(std::size_t(p_ * l_ * cols_)) {
    const Index row_bytes = q.layout.z_row_bytes();
    for (Index i = 0; i < p_; ++i)
        for (Index c = 0; c < l_; ++c) {
            const std::uint8_t* bits = q.z_plane(j, k, i) + c * row_bytes;
            std::uint16_t* z = z_.data() + (i * l_ + c) * cols_;
            for (Index b = 0; b < cols_; ++b) z[b] = bits[b / 8] >> (b % 8) & 1;
        }
}

void BlockProducts::row(Index a, std::uint16_t* products, std::int64_t* rho) const {
    std::fill(products, products + p_ * cols_, std::uint16_t(0));
    const Index row_bytes = q_.layout.y_row_bytes();
    for (Index i = 0; i < p_; ++i) {
        const std::uint8_t* bits = q_.y_plane(j_, k_, i) + a * row_bytes;
        std::uint16_t* sum = products + i * cols_;
        Index count = 0;
        for (Index c = 0; c < l_; ++c)
            if (bits[c / 8] >> (c % 8) & 1) {
                const std::uint16_t* z = z_.data() + (i * l_ + c) * cols_;
                for (Index b = 0; b < cols_; ++b) sum[b] = std::uint16_t(sum[b] + z[b]);
                ++count;
            }
        rho[i] = count;
    }
}

void BlockProducts::column_sums(std::int64_t* zeta) const {
    std::fill(zeta, zeta + p_ * cols_, std::int64_t(0));
    for (Index i = 0; i < p_; ++i)
        for (Index c = 0; c < l_; ++c)
            for (Index b = 0; b < cols_; ++b) zeta[i * cols_ + b] += z_[std::size_t((i * l_ + c) * cols_ + b)];
}

void reconstruct_row(const float* scales, Index p, Index cols, const std::uint16_t* products, const std::int64_t* rho,
                     const std::int64_t* zeta, double* out) {
    double constant = scales[3 * p];
    for (Index i = 0; i < p; ++i) constant += double(scales[3 * i + 1]) * double(rho[i]);
    std::fill(out, out + cols, constant);
    for (Index i = 0; i < p; ++i) {
        const double r = scales[3 * i], t = scales[3 * i + 2];
        const std::uint16_t* product = products + i * cols;
        const std::int64_t* sums = zeta + i * cols;
        for (Index b = 0; b < cols; ++b) out[b] += r * double(product[b]) + t * double(sums[b]);
    }
}

void block_residual(const BlockProducts& block, const float* scales, const float* W, Index ldw, float* residual) {
    const Index m = block.rows(), n = block.cols(), p = block.stacks();
    std::vector<std::uint16_t> products(std::size_t(p * n));
    std::vector<std::int64_t> rho(std::size_t(p), 0), zeta(std::size_t(p * n));
    std::vector<double> what(std::size_t(n), 0.0);
    block.column_sums(zeta.data());
    for (Index a = 0; a < m; ++a) {
        block.row(a, products.data(), rho.data());
        if (p) reconstruct_row(scales, p, n, products.data(), rho.data(), zeta.data(), what.data());
        for (Index b = 0; b < n; ++b) residual[a * n + b] = float(double(W[a * ldw + b]) - what[std::size_t(b)]);
    }
}

} // namespace detail
} // namespace bqq
