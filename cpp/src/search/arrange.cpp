#include "search/arrange.hpp"

#include "linalg.hpp"
#include "search/metric.hpp"
#include "search/recipe.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace bqq::detail {
namespace {

std::size_t z(Index i) { return std::size_t(i); }

// Columns by falling diagonal of H; equal ones stay as they are.
std::vector<std::uint32_t> falling(const float* H, Index ldh, Index n) {
    std::vector<std::uint32_t> order(z(n));
    std::iota(order.begin(), order.end(), 0u);
    const auto diagonal = [&](std::uint32_t b) { return H[ldh ? b * ldh + b : b]; };
    std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
        return diagonal(a) > diagonal(b) || (diagonal(a) == diagonal(b) && a < b);
    });
    return order;
}

struct Moments {
    double mean, deviation;
};

// Of the elements of a block that are not in `skip`, which is ascending.
Moments moments(const Layout& a, Index j, Index k, const float* W, const std::vector<Entry>& skip) {
    double sum = 0, squares = 0;
    Index count = 0;
    const Index first = k * a.cols, last = first + a.cols_of(k);
    for (Index i = j * a.rows; i < j * a.rows + a.rows_of(j); ++i) {
        EntryRange skipped = entries_of(skip.data(), Index(skip.size()), i, i + 1);
        for (Index b = first; b < last; ++b) {
            while (skipped.first < skipped.last && Index(skipped.first->col) < b) ++skipped.first;
            if (skipped.first < skipped.last && Index(skipped.first->col) == b) continue;
            const double w = double(W[i * a.n + b]);
            sum += w, squares += w * w, ++count;
        }
    }
    const double mean = count ? sum / double(count) : 0;
    return {mean, count ? std::sqrt(std::max(0.0, squares / double(count) - mean * mean)) : 0};
}

// What lies further than `limit` standard deviations from the mean of its block.
std::vector<Entry> outliers(const Layout& a, const float* W, double limit) {
    std::vector<Entry> found;
    for (Index j = 0; j < a.J; ++j)
        for (Index k = 0; k < a.K; ++k) {
            const Moments all = moments(a, j, k, W, {});
            for (Index i = j * a.rows; i < j * a.rows + a.rows_of(j); ++i)
                for (Index b = k * a.cols; b < k * a.cols + a.cols_of(k); ++b)
                    if (std::fabs(double(W[i * a.n + b]) - all.mean) > limit * all.deviation)
                        found.push_back({std::uint32_t(i), std::uint32_t(b), 0.0f});
        }
    std::sort(found.begin(), found.end(), before);
    return found;
}

} // namespace

bool is_arranged(const DecomposeOptions& options) {
    const bool ordered = options.order != Order::none;
    if (ordered && options.order != Order::weight) bad_value("order", Index(options.order), "0 (none) or 1 (weight)");
    if (ordered && !options.weight) bad_argument("order is weight, but there is no weight");
    if (!(options.outliers >= 0) || !std::isfinite(options.outliers))
        bad_argument("outliers is " + std::to_string(options.outliers) +
                     ", expected a number of standard deviations, or 0 for none");
    return ordered || options.outliers > 0;
}

Arranged::Arranged(const Layout& layout, const float* W, Index ldw, const DecomposeOptions& options)
    : layout_(layout), options_(options) {
    check_entries("W", W, "ldw", {layout.m, layout.n, ldw});
    if (std::max(layout.m, layout.n) > kMaxOrdered) bad_argument("order and outliers need sides of at most 2^32");
    if (options.weight) check_weight(layout.n, options.weight, options.ldweight);
    if (options.order == Order::weight) col_order_ = falling(options.weight, options.ldweight, layout.n);
    arrange(W, ldw);
    if (options.outliers > 0) entries_ = outliers(layout, W_.data(), options.outliers);
    mask();
}

Arranged::Arranged(const View& q, const float* W, Index ldw, const DecomposeOptions& options)
    : layout_(q.layout), options_(options) {
    check_entries("W", W, "ldw", {layout_.m, layout_.n, ldw});
    if (options.weight) check_weight(layout_.n, options.weight, options.ldweight);
    Matrix extras;
    extras.layout = q.layout;
    extras.copy_extras(q);
    row_order_.swap(extras.row_order), col_order_.swap(extras.col_order), entries_.swap(extras.entries);
    arrange(W, ldw);
    mask();
}

void Arranged::arrange(const float* W, Index ldw) {
    const Index m = layout_.m, n = layout_.n;
    const auto row = [&](Index i) { return row_order_.empty() ? i : Index(row_order_[z(i)]); };
    const auto col = [&](Index b) { return col_order_.empty() ? b : Index(col_order_[z(b)]); };
    W_.resize(z(m * n));
    for (Index i = 0; i < m; ++i)
        for (Index b = 0; b < n; ++b) W_[z(i * n + b)] = W[row(i) * ldw + col(b)];
    if (!options_.weight) return;
    const Index ldh = options_.ldweight;
    weight_.resize(z(ldh ? n * n : n));
    for (Index i = 0; i < (ldh ? n : 1); ++i)
        for (Index b = 0; b < n; ++b) weight_[z(i * n + b)] = options_.weight[ldh ? col(i) * ldh + col(b) : col(b)];
    options_.weight = weight_.data();
    options_.ldweight = ldh ? n : 0;
}

void Arranged::mask() {
    masked_ = W_;
    if (entries_.empty()) return;
    const Layout& a = layout_;
    std::vector<float> mean(z(a.blocks()));
    for (Index j = 0; j < a.J; ++j)
        for (Index k = 0; k < a.K; ++k) mean[z(j * a.K + k)] = float(moments(a, j, k, W_.data(), entries_).mean);
    for (const Entry& e : entries_)
        masked_[z(Index(e.row) * a.n + e.col)] = mean[z(Index(e.row) / a.rows * a.K + Index(e.col) / a.cols)];
}

void Arranged::complete(Matrix& q) const {
    q.row_order = row_order_, q.col_order = col_order_, q.entries = entries_;
    if (entries_.empty()) return;
    const Index n = layout_.n;
    std::vector<float> error(z(layout_.m * n));
    reconstruct(q.view().blocks_alone(), error.data(), n, options_.threads);
    for (std::size_t i = 0; i < error.size(); ++i) error[i] = W_[i] - error[i];
    for (Index first = 0, last; first < Index(q.entries.size()); first = last) {
        const Index row = q.entries[z(first)].row;
        for (last = first; last < Index(q.entries.size()) && q.entries[z(last)].row == row;) ++last;
        const std::vector<double> best = entries_of_row(error.data() + row * n, q.entries.data() + first, last - first);
        for (Index i = first; i < last; ++i) q.entries[z(i)].value = float(best[z(i - first)]);
    }
}

// With S the columns of the entries and e the error of the row without them: H_SS v = (H e)_S.
std::vector<double> Arranged::entries_of_row(const float* error, const Entry* first, Index count) const {
    std::vector<double> best(z(count)), right(z(count)), A(z(count * count));
    for (Index i = 0; i < count; ++i) best[z(i)] = double(error[first[i].col]);
    if (!options_.weight || !options_.ldweight) return best;
    const Index n = layout_.n;
    double trace = 0;
    for (Index b = 0; b < n; ++b) trace += double(weight_[z(b * n + b)]);
    const double ridge = damping_of(options_) * trace / double(n);
    const auto h = [&](Index a, Index b) { return double(weight_[z(a * n + b)]) + (a == b ? ridge : 0); };
    for (Index i = 0; i < count; ++i) {
        for (Index b = 0; b < n; ++b) right[z(i)] += h(first[i].col, b) * double(error[b]);
        for (Index k = 0; k < count; ++k) A[z(i * count + k)] = h(first[i].col, first[k].col);
    }
    solve_semidefinite(count, A.data(), right.data(), best.data());
    return best;
}

} // namespace bqq::detail
