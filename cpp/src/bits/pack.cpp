#include "bits/pack.hpp"

#include <algorithm>
#include <cstring>

namespace bqq::detail {

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

std::vector<Entry> transposed_entries(const View& q) {
    std::vector<Entry> out;
    for (const Entry& e : EntryRange{q.entries, q.entries + q.entry_count}) out.push_back({e.col, e.row, e.value});
    std::sort(out.begin(), out.end(), before);
    return out;
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
    std::vector<double> w_hat(std::size_t(n), 0.0);
    block.column_sums(zeta.data());
    for (Index a = 0; a < m; ++a) {
        block.row(a, products.data(), rho.data());
        if (p) reconstruct_row(scales, p, n, products.data(), rho.data(), zeta.data(), w_hat.data());
        for (Index b = 0; b < n; ++b) residual[a * n + b] = float(double(W[a * ldw + b]) - w_hat[std::size_t(b)]);
    }
}

} // namespace bqq::detail
