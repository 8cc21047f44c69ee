// What can be done with a compressed matrix besides products: prefix, transpose, reconstruction, error.
#include "arguments.hpp"
#include "bits/pack.hpp"
#include "memory.hpp"
#include "parallel.hpp"
#include "tuning.hpp"

#include <algorithm>

namespace bqq {
namespace {

using namespace detail;

// The row or column of W that number `i` of the blocks stands for.
Index placed(const std::uint32_t* order, Index i) { return order ? Index(order[i]) : i; }

// Calls row(j, k, a, values) with each row of each block of W_hat, in parallel over blocks; values are float64.
template <class Row> void for_rows(const View& q, int threads, const std::function<void()>& poll, Row&& on_row) {
    const Layout& a = q.layout;
    const bool small = double(a.m) * double(a.n) * double(a.p) < kSmallPass;
    const auto one_block = [&](Index block, int worker) {
        const Index j = block / a.K, k = block % a.K;
        const BlockProducts products(q, j, k, a.p);
        std::vector<std::uint16_t> row(std::size_t(a.p * a.cols));
        std::vector<std::int64_t> rho(std::size_t(a.p), 0), zeta(std::size_t(a.p * a.cols));
        std::vector<double> w_hat(std::size_t(a.cols), 0.0);
        products.column_sums(zeta.data());
        for (Index i = 0; i < a.rows_of(j); ++i) {
            products.row(i, row.data(), rho.data());
            reconstruct_row(q.block_scales(j, k), a.p, a.cols_of(k), row.data(), rho.data(), zeta.data(), w_hat.data());
            const Index first = k * a.cols, at = j * a.rows + i;
            for (const Entry& e : entries_of(q.entries, q.entry_count, at, at + 1))
                if (Index(e.col) >= first && Index(e.col) < first + a.cols_of(k))
                    w_hat[std::size_t(Index(e.col) - first)] += double(e.value);
            on_row(j, k, i, w_hat.data());
            if (poll && worker == 0) poll();
        }
    };
    parallel_for(a.blocks(), small ? 1 : resolve_threads(threads), one_block, poll);
}

} // namespace

void reconstruct(const View& q, float* out, Index ldo, int threads, const std::function<void()>& poll) {
    validate(q);
    const Layout& a = q.layout;
    if (!out) bad_argument("out is a null pointer");
    if (ldo < a.n) bad_argument("ldo is " + std::to_string(ldo) + ", expected n = " + std::to_string(a.n) + " or more");
    for_rows(q, threads, poll, [&](Index j, Index k, Index i, const double* w_hat) {
        float* to = out + placed(q.row_order, j * a.rows + i) * ldo;
        for (Index b = 0; b < a.cols_of(k); ++b) to[placed(q.col_order, k * a.cols + b)] = float(w_hat[b]);
    });
}

double squared_error(const View& q, const float* W, Index ldw, int threads, const std::function<void()>& poll) {
    validate(q);
    const Layout& a = q.layout;
    if (!W) bad_argument("W is a null pointer");
    if (ldw < a.n) bad_argument("ldw is " + std::to_string(ldw) + ", expected n = " + std::to_string(a.n) + " or more");
    // One sum per row of each block, added in a fixed order: the result does not depend on threads.
    std::vector<double> sums(std::size_t(a.m * a.K), 0.0);
    for_rows(q, threads, poll, [&](Index j, Index k, Index i, const double* w_hat) {
        const Index row = j * a.rows + i;
        const float* w = W + placed(q.row_order, row) * ldw;
        double sum = 0;
        for (Index b = 0; b < a.cols_of(k); ++b) {
            const double error = double(w[placed(q.col_order, k * a.cols + b)]) - w_hat[b];
            sum += error * error;
        }
        sums[std::size_t(row * a.K + k)] = sum;
    });
    double total = 0;
    for (const double sum : sums) total += sum;
    return total;
}

void row_squares(const View& q, float* out, int threads, const std::function<void()>& poll) {
    validate(q);
    const Layout& a = q.layout;
    if (!out) bad_argument("out is a null pointer");
    std::vector<double> sums(std::size_t(a.m * a.K), 0.0);
    for_rows(q, threads, poll, [&](Index j, Index k, Index i, const double* w_hat) {
        double& sum = sums[std::size_t((j * a.rows + i) * a.K + k)];
        for (Index b = 0; b < a.cols_of(k); ++b) sum += w_hat[b] * w_hat[b];
    });
    for (Index row = 0; row < a.m; ++row) {
        double total = 0;
        for (Index k = 0; k < a.K; ++k) total += sums[std::size_t(row * a.K + k)];
        out[placed(q.row_order, row)] = float(total);
    }
}

namespace {

// Ones in each column, in each row of a plane.
std::vector<Index> column_counts(const std::uint8_t* plane, Index rows, Index cols) {
    const Index bytes = ceil_div(cols, 8);
    std::vector<Index> counts(std::size_t(8 * bytes), 0);
    for (Index i = 0; i < rows; ++i)
        for (Index b = 0; b < bytes; ++b) {
            const unsigned bits = plane[i * bytes + b];
            for (unsigned k = 0; bits && k < 8; ++k) counts[std::size_t(8 * b + k)] += bits >> k & 1;
        }
    counts.resize(std::size_t(cols));
    return counts;
}
std::vector<Index> row_counts(const std::uint8_t* plane, Index rows, Index cols) {
    const Index bytes = ceil_div(cols, 8);
    std::vector<Index> counts(std::size_t(rows), 0);
    for (Index i = 0; i < rows; ++i)
        for (Index b = 0; b < bytes; ++b)
            for (unsigned bits = plane[i * bytes + b]; bits; bits &= bits - 1) ++counts[std::size_t(i)];
    return counts;
}

} // namespace

Matrix prefix(const View& q, Index k) {
    validate(q);
    Layout a = q.layout;
    if (k < 1 || k > a.p) bad_argument("k is " + std::to_string(k) + ", expected 1 to p = " + std::to_string(a.p));
    a.p = k;
    Matrix out(a);
    copy_stacks(q, out, k);
    out.copy_extras(q);
    for (Index j = 0; j < a.J; ++j)
        for (Index c = 0; c < a.K; ++c) {
            // u takes over the means of the stacks that are left out, so the mean of the block stays (algorithm: prefix
            // property).
            const double m = double(a.rows_of(j)), n = double(a.cols_of(c));
            const Index p = q.layout.p;
            const float* scales = q.block_scales(j, c);
            double u = scales[3 * p];
            for (Index s = k; s < p; ++s) {
                const std::vector<Index> y = column_counts(q.y_plane(j, c, s), a.rows, a.l),
                                         z = row_counts(q.z_plane(j, c, s), a.l, a.cols);
                Index sum_r = 0, sum_s = 0, sum_t = 0; // of Y Z, of Y, of Z
                for (std::size_t i = 0; i < y.size(); ++i) sum_r += y[i] * z[i], sum_s += y[i], sum_t += z[i];
                u += scales[3 * s] * double(sum_r) / (m * n) + scales[3 * s + 1] * double(sum_s) / m +
                     scales[3 * s + 2] * double(sum_t) / n;
            }
            float* to = out.scales.data() + (j * a.K + c) * a.scales_per_block();
            std::copy_n(scales, 3 * k, to);
            to[3 * k] = float(u);
        }
    return out;
}

Matrix transpose(const View& q) {
    validate(q);
    const Layout& a = q.layout;
    const Layout b = transposed_layout(a);
    Matrix out(b);
    out.copy_extras(q);
    std::swap(out.row_order, out.col_order);
    out.entries = transposed_entries(q);
    for (Index j = 0; j < a.J; ++j)
        for (Index k = 0; k < a.K; ++k) {
            const Index block = k * b.K + j;
            for (Index i = 0; i < a.p; ++i) {
                transpose_bits(a.l, a.cols, q.z_plane(j, k, i), a.z_row_bytes(),
                               out.Y.data() + (block * a.p + i) * b.y_plane_bytes(), b.y_row_bytes());
                transpose_bits(a.rows, a.l, q.y_plane(j, k, i), a.y_row_bytes(),
                               out.Z.data() + (block * a.p + i) * b.z_plane_bytes(), b.z_row_bytes());
            }
            const float* from = q.block_scales(j, k);
            float* to = out.scales.data() + block * b.scales_per_block();
            std::copy_n(from, b.scales_per_block(), to);
            for (Index i = 0; i < a.p; ++i) std::swap(to[3 * i + 1], to[3 * i + 2]);
        }
    return out;
}

} // namespace bqq
