// An order of the columns and entries, from the search on: against the same search done by hand.
#include "check.hpp"
#include "reference.hpp"

#include "bqq/decompose.hpp"

#include <cmath>

using bqq::DecomposeOptions;
using bqq::Error;
using bqq::Index;
using reference::Mat;

namespace {

constexpr Index kRows = 36, kCols = 50;

// Noise with some far outliers.
std::vector<float> matrix(std::uint32_t seed) {
    const Mat a = reference::random(kRows, kCols, seed, -1, 1);
    std::vector<float> w(a.v.begin(), a.v.end());
    for (const Index at : {3, 55, 56, 57, 700, 1799}) w[std::size_t(at)] = at % 2 ? 30.0f : -25.0f;
    return w;
}

// X^T X of samples that are correlated, column by column of another size.
std::vector<float> second_moment(std::uint32_t seed) {
    const Mat X = reference::random(200, kCols, seed, -1, 1), mix = reference::random(kCols, kCols, seed + 1, -1, 1);
    const Mat samples = reference::multiply(X, mix);
    std::vector<float> H(std::size_t(kCols * kCols));
    for (Index i = 0; i < kCols; ++i)
        for (Index j = 0; j < kCols; ++j) {
            double sum = 0;
            for (Index s = 0; s < samples.rows; ++s) sum += samples(s, i) * samples(s, j);
            H[std::size_t(i * kCols + j)] = float(sum * (1 + i * 7 % 11) * (1 + j * 7 % 11));
        }
    return H;
}

DecomposeOptions quick() {
    DecomposeOptions options;
    options.steps = 60, options.refine = 20, options.patch = 20;
    return options;
}

bqq::Matrix decompose(const std::vector<float>& W, const DecomposeOptions& options, Index p = 2) {
    return bqq::decompose(W.data(), kRows, kCols, kCols, p, options);
}

bool same_blocks(const bqq::Matrix& a, const bqq::Matrix& b) {
    return a.layout == b.layout && a.Y == b.Y && a.Z == b.Z && a.scales == b.scales;
}

bool same(const bqq::Matrix& a, const bqq::Matrix& b) {
    const auto same_entry = [](const bqq::Entry& x, const bqq::Entry& y) {
        return x.row == y.row && x.col == y.col && x.value == y.value;
    };
    return same_blocks(a, b) && a.row_order == b.row_order && a.col_order == b.col_order &&
           std::equal(a.entries.begin(), a.entries.end(), b.entries.begin(), b.entries.end(), same_entry);
}

double error_in(const std::vector<float>& H, const std::vector<float>& W, const bqq::Matrix& q, double ridge) {
    const Mat What = reference::dense(q.view());
    double total = 0;
    for (Index a = 0; a < kRows; ++a)
        for (Index i = 0; i < kCols; ++i)
            for (Index j = 0; j < kCols; ++j)
                total += (double(W[std::size_t(a * kCols + i)]) - What(a, i)) *
                         (double(H[std::size_t(i * kCols + j)]) + (i == j ? ridge : 0)) *
                         (double(W[std::size_t(a * kCols + j)]) - What(a, j));
    return total;
}

} // namespace

TEST(an_order_is_the_search_on_columns_in_that_order) {
    const std::vector<float> W = matrix(1), H = second_moment(2);
    for (const Index ldweight : {Index(0), kCols}) {
        DecomposeOptions options = quick();
        std::vector<float> diagonal;
        for (Index b = 0; b < kCols; ++b) diagonal.push_back(H[std::size_t(b * kCols + b)]);
        options.weight = ldweight ? H.data() : diagonal.data();
        options.ldweight = ldweight;
        options.order = bqq::Order::weight;
        const bqq::Matrix q = decompose(W, options);
        bqq::validate(q.view());
        CHECK(q.row_order.empty() && q.entries.empty());
        CHECK_EQ(q.col_order.size(), std::size_t(kCols));
        for (std::size_t b = 1; b < q.col_order.size(); ++b)
            CHECK(diagonal[q.col_order[b - 1]] >= diagonal[q.col_order[b]]);

        std::vector<float> ordered(W.size()), weight;
        for (Index a = 0; a < kRows; ++a)
            for (Index b = 0; b < kCols; ++b)
                ordered[std::size_t(a * kCols + b)] = W[std::size_t(a * kCols + q.col_order[std::size_t(b)])];
        for (const std::uint32_t i : q.col_order)
            for (const std::uint32_t j : q.col_order)
                if (ldweight)
                    weight.push_back(H[i * kCols + j]);
                else if (i == j)
                    weight.push_back(diagonal[i]);
        options.order = bqq::Order::none;
        options.weight = weight.data();
        CHECK(same_blocks(q, decompose(ordered, options)));
    }
}

TEST(entries_are_what_is_left_over) {
    const std::vector<float> W = matrix(1);
    DecomposeOptions options = quick();
    const bqq::Matrix before = decompose(W, options);
    options.outliers = 5;
    const bqq::Matrix q = decompose(W, options);
    bqq::validate(q.view());
    CHECK_EQ(q.entries.size(), std::size_t(6));
    const Mat What = reference::dense(q.view());
    for (const bqq::Entry& e : q.entries) {
        const double w = double(W[std::size_t(Index(e.row) * kCols + e.col)]);
        CHECK(std::fabs(w) > 20);
        CHECK_NEAR(What(e.row, e.col), w, 1e-5);
    }
    CHECK(bqq::squared_error(q.view(), W.data(), kCols) < 0.5 * bqq::squared_error(before.view(), W.data(), kCols));
    options.outliers = 1000;
    CHECK(same(decompose(W, options), before)); // none that far
}

TEST(entries_are_the_best_in_the_metric) {
    const std::vector<float> W = matrix(1), H = second_moment(2);
    DecomposeOptions options = quick();
    options.weight = H.data(), options.ldweight = kCols, options.order = bqq::Order::weight, options.outliers = 5;
    options.damping = 0.1;
    bqq::Matrix q = decompose(W, options);
    CHECK_EQ(q.entries.size(), std::size_t(6));
    double mean = 0;
    for (Index b = 0; b < kCols; ++b) mean += double(H[std::size_t(b * kCols + b)]) / double(kCols);
    const double least = error_in(H, W, q, 0.1 * mean);
    for (bqq::Entry& e : q.entries)
        for (const float step : {-0.01f, 0.01f}) {
            const float value = e.value;
            e.value += step;
            CHECK(error_in(H, W, q, 0.1 * mean) > least);
            e.value = value;
        }
}

TEST(extend_keeps_orders_and_places) {
    const std::vector<float> W = matrix(1), H = second_moment(2);
    DecomposeOptions options = quick();
    options.outliers = 5;
    CHECK(same(bqq::extend(decompose(W, options, 1).view(), W.data(), kCols, 2, options), decompose(W, options, 2)));
    std::vector<float> diagonal;
    for (Index b = 0; b < kCols; ++b) diagonal.push_back(H[std::size_t(b * kCols + b)]);
    options.weight = diagonal.data(), options.order = bqq::Order::weight;
    const bqq::Matrix one = decompose(W, options, 1), two = decompose(W, options, 2);
    options.order = bqq::Order::none, options.outliers = 0; // extend takes those of the matrix
    CHECK(same(bqq::extend(one.view(), W.data(), kCols, 2, options), two));
    CHECK(same(bqq::extend(one.view(), W.data(), kCols, 1, options), one));
    // With an order of the rows: the transpose, of which more stacks are a better one.
    const bqq::Matrix t = bqq::transpose(one.view());
    std::vector<float> Wt(W.size());
    for (Index a = 0; a < kRows; ++a)
        for (Index b = 0; b < kCols; ++b) Wt[std::size_t(b * kRows + a)] = W[std::size_t(a * kCols + b)];
    const bqq::Matrix more = bqq::extend(t.view(), Wt.data(), kRows, 2, quick());
    CHECK(more.row_order == one.col_order);
    CHECK(bqq::squared_error(more.view(), Wt.data(), kRows) < 0.6 * bqq::squared_error(t.view(), Wt.data(), kRows));
}

TEST(encode_takes_the_order_of_the_columns) {
    const std::vector<float> W = matrix(1), H = second_moment(2);
    DecomposeOptions options = quick();
    options.patch = 40;
    options.weight = H.data(), options.ldweight = kCols, options.order = bqq::Order::weight, options.outliers = 5;
    const bqq::Matrix q = decompose(W, options);
    const std::vector<float> rows = matrix(3);
    const bqq::Matrix found = bqq::encode(q.view(), rows.data(), 9, kCols, options);
    bqq::validate(found.view());
    CHECK(found.col_order == q.col_order && found.row_order.empty() && found.entries.empty());
    // The same by hand.
    std::vector<float> ordered, weight;
    for (Index a = 0; a < 9; ++a)
        for (const std::uint32_t b : q.col_order) ordered.push_back(rows[std::size_t(a * kCols) + b]);
    for (const std::uint32_t i : q.col_order)
        for (const std::uint32_t j : q.col_order) weight.push_back(H[i * kCols + j]);
    options.weight = weight.data();
    CHECK(same_blocks(found, bqq::encode(q.view().blocks_alone(), ordered.data(), 9, kCols, options)));
}

TEST(bad_options_are_errors) {
    std::vector<float> W = matrix(1), diagonal(std::size_t(kCols), 1.0f);
    DecomposeOptions options = quick();
    options.order = bqq::Order::weight;
    CHECK_THROWS(decompose(W, options), Error, "order is weight, but there is no weight");
    options.weight = diagonal.data();
    options.order = bqq::Order(2);
    CHECK_THROWS(decompose(W, options), Error, "order is 2, expected 0 (none) or 1 (weight)");
    options.order = bqq::Order::weight;
    for (const double outliers : {-1.0, double(NAN), double(INFINITY)}) {
        options.outliers = outliers;
        CHECK_THROWS(decompose(W, options), Error, "expected a number of standard deviations");
    }
    options.outliers = 8;
    diagonal[17] = -1; // named by its place in the argument, not in the order
    CHECK_THROWS(decompose(W, options), Error, "at diagonal position 17");
    diagonal[17] = NAN;
    CHECK_THROWS(decompose(W, options), Error, "weight [17] is");
    diagonal[17] = 1;
    W[60] = NAN;
    CHECK_THROWS(decompose(W, options), Error, "W[1, 10] is NaN");
}
