// Rows encoded with Z and the scales fixed: against all codes there are, against the matrix they were made of.
#include "check.hpp"
#include "reference.hpp"

#include "bqq/bqq.h"
#include "bqq/decompose.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

using bqq::DecomposeOptions;
using bqq::Error;
using bqq::Index;
using bqq::Matrix;
using reference::Mat;

namespace {

struct Rows {
    Index m, n;
    std::vector<float> v;
    const float* row(Index a) const { return v.data() + a * n; }
};

Rows noise(Index m, Index n, std::uint32_t seed) {
    const Mat a = reference::random(m, n, seed, -1, 1);
    return {m, n, {a.v.begin(), a.v.end()}};
}
// Distances between points of a plane.
Rows smooth(Index m, Index n, std::uint32_t seed) {
    const Mat a = reference::random(m, 2, seed), b = reference::random(n, 2, seed + 1);
    Rows rows{m, n, {}};
    for (Index i = 0; i < m; ++i)
        for (Index j = 0; j < n; ++j) rows.v.push_back(float(std::hypot(a(i, 0) - b(j, 0), a(i, 1) - b(j, 1))));
    return rows;
}

Matrix decompose(const Rows& w, Index p, Index l = 0, Index patch = 0, const float* weight = nullptr, Index ld = 0) {
    DecomposeOptions options;
    options.l = l, options.patch = patch, options.steps = 300, options.refine = 300;
    options.weight = weight, options.ldweight = ld;
    return bqq::decompose(w.v.data(), w.m, w.n, w.n, p, options);
}
Matrix encode(const Matrix& q, const Rows& rows, const DecomposeOptions& options = {}) {
    return bqq::encode(q.view(), rows.v.data(), rows.m, rows.n, options);
}
double error(const Matrix& q, const Rows& w) { return bqq::squared_error(q.view(), w.v.data(), w.n, 1); }

// tr(E H E^T) of H = X^T X for samples X, by rows of E.
double weighted_error(const Matrix& q, const Rows& w, const Mat& H) {
    std::vector<float> dense(w.v.size());
    bqq::reconstruct(q.view(), dense.data(), w.n, 1);
    double sum = 0;
    for (Index a = 0; a < w.m; ++a)
        for (Index i = 0; i < w.n; ++i)
            for (Index j = 0; j < w.n; ++j)
                sum += double(w.row(a)[i] - dense[std::size_t(a * w.n + i)]) * H(i, j) *
                       double(w.row(a)[j] - dense[std::size_t(a * w.n + j)]);
    return sum;
}

} // namespace

TEST(a_row_gets_the_best_of_all_codes) {
    for (const Index p : {1, 2}) {
        const Matrix q = decompose(noise(12, 9, 1), p, 4);
        const Rows rows = noise(5, 9, 7);
        const Matrix out = encode(q, rows);
        for (Index a = 0; a < rows.m; ++a) {
            double least = std::numeric_limits<double>::infinity();
            Matrix one = encode(q, {1, 9, {rows.row(a), rows.row(a) + 9}});
            const double found = error(one, {1, 9, {rows.row(a), rows.row(a) + 9}});
            for (unsigned code = 0; code < 1u << (4 * p); ++code) {
                for (Index i = 0; i < p; ++i) one.Y[std::size_t(i)] = std::uint8_t(code >> (4 * i) & 15);
                least = std::min(least, error(one, {1, 9, {rows.row(a), rows.row(a) + 9}}));
            }
            CHECK_NEAR(found, least, 1e-6 * (1 + least));
        }
        CHECK(out.Z == q.Z);
        CHECK(out.scales == q.scales);
    }
}

TEST(the_rows_that_a_matrix_was_made_of_are_not_worse_than_it) {
    for (const Rows& w : {noise(48, 40, 2), smooth(48, 40, 3), noise(20, 70, 4), smooth(70, 20, 5)})
        for (const Index p : {1, 3}) {
            const Matrix q = decompose(w, p);
            for (const bqq::Effort effort : {bqq::Effort::standard, bqq::Effort::fast}) {
                DecomposeOptions options;
                options.effort = effort;
                CHECK(error(encode(q, w, options), w) <= 1.01 * error(q, w));
            }
        }
}

TEST(rows_that_are_a_code_are_found_exactly) {
    const Rows w = smooth(30, 25, 6);
    const Matrix q = decompose(w, 2);
    Rows dense{30, 25, std::vector<float>(30 * 25)};
    bqq::reconstruct(q.view(), dense.v.data(), 25, 1);
    CHECK_NEAR(error(encode(q, dense), dense), 0, 1e-9 * 30 * 25);
}

TEST(several_block_columns_and_a_weight) {
    const Index n = 50;
    const Rows w = noise(40, n, 8);
    const Mat X = reference::multiply(reference::random(120, n, 9, -1, 1), reference::random(n, n, 10, -1, 1));
    Mat H(n, n);
    for (Index s = 0; s < X.rows; ++s)
        for (Index i = 0; i < n; ++i)
            for (Index j = 0; j < n; ++j) H(i, j) += X(s, i) * X(s, j);
    Mat D(n, n);
    std::vector<float> whole(H.v.begin(), H.v.end()), diagonal;
    for (Index i = 0; i < n; ++i) diagonal.push_back(float(H(i, i))), D(i, i) = H(i, i);
    for (const bool full : {false, true}) {
        const float* weight = full ? whole.data() : diagonal.data();
        const Matrix q = decompose(w, 2, 0, 40, weight, full ? n : 0);
        CHECK_EQ(q.layout.K, 2);
        DecomposeOptions options;
        options.weight = weight, options.ldweight = full ? n : 0;
        const Mat& metric = full ? H : D;
        const double with = weighted_error(encode(q, w, options), w, metric);
        CHECK(with <= 1.01 * weighted_error(q, w, metric));
        CHECK(with < weighted_error(encode(q, w), w, metric));
    }
}

TEST(a_row_does_not_depend_on_its_neighbours_or_threads) {
    const Matrix q = decompose(noise(24, 33, 11), 2, 0, 24);
    const Rows rows = noise(70, 33, 12);
    DecomposeOptions options;
    options.threads = 1, options.steps = 60, options.seed = 5;
    const Matrix all = encode(q, rows, options);
    options.threads = 3;
    const Matrix again = encode(q, rows, options);
    CHECK(all.Y == again.Y);
    for (const Index a : {0, 31, 32, 69}) {
        const Matrix one = encode(q, {1, 33, {rows.row(a), rows.row(a) + 33}}, options);
        for (Index k = 0; k < all.layout.K; ++k)
            for (Index i = 0; i < 2; ++i)
                CHECK(std::equal(one.view().y_plane(0, k, i), one.view().y_plane(0, k, i) + one.layout.y_row_bytes(),
                                 all.view().y_plane(0, k, i) + a * all.layout.y_row_bytes()));
    }
}

TEST(progress_counts_rows_and_can_stop) {
    const Matrix q = decompose(noise(8, 8, 13), 1);
    const Rows rows = noise(100, 8, 14);
    DecomposeOptions options;
    Index last = 0, total = 0;
    options.progress = [&](Index done, Index all) {
        last = done, total = all;
        return true;
    };
    (void)encode(q, rows, options);
    CHECK_EQ(last, 100);
    CHECK_EQ(total, 100);
    options.progress = [](Index, Index) { return false; };
    CHECK_THROWS(encode(q, rows, options), Error, "stopped by the progress callback");
}

TEST(bad_input_is_refused) {
    const Rows w = noise(12, 10, 15);
    const Matrix q = decompose(w, 1, 3), cut = decompose(w, 1, 3, 6);
    CHECK_THROWS(encode(cut, w), Error, "q has 2 block rows, expected 1");
    CHECK_THROWS(bqq::encode(q.view(), nullptr, 1, 10), Error, "rows is a null pointer");
    CHECK_THROWS(bqq::encode(q.view(), w.v.data(), 1, 9), Error, "ldrows is 9, expected n = 10");
    CHECK_THROWS(bqq::encode(q.view(), w.v.data(), 0, 10), Error, "m is 0");
    Rows bad = w;
    bad.v[13] = std::numeric_limits<float>::infinity();
    CHECK_THROWS(encode(q, bad), Error, "rows[1, 3] is infinite");
    DecomposeOptions options;
    options.steps = -1;
    CHECK_THROWS(encode(q, w, options), Error, "steps is -1");
    options = {};
    options.effort = bqq::Effort(7);
    CHECK_THROWS(encode(q, w, options), Error, "effort is 7");
}

TEST(from_c) {
    const Rows w = noise(10, 12, 16);
    const Matrix q = decompose(w, 2);
    const bqq::Layout& a = q.layout;
    const bqq_view view = {sizeof view, a.m,     a.n,     a.J,        a.K,        a.rows,
                           a.cols,      a.p,     a.l,     q.Y.data(), q.Z.data(), q.scales.data(),
                           nullptr,     nullptr, nullptr, 0};
    bqq_matrix* out = nullptr;
    CHECK_EQ(bqq_encode(&view, w.v.data(), 10, 12, nullptr, &out), BQQ_OK);
    bqq_view made = BQQ_VIEW_INIT;
    CHECK_EQ(bqq_matrix_view(out, &made), BQQ_OK);
    const Matrix same = encode(q, w);
    CHECK(std::equal(same.Y.begin(), same.Y.end(), made.y));
    bqq_matrix_free(out);
    CHECK_EQ(bqq_encode(&view, nullptr, 10, 12, nullptr, &out), BQQ_INVALID_ARGUMENT);
    CHECK(out == nullptr);
}
