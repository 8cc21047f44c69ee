#include "check.hpp"
#include "reference.hpp"

#include "bqq/decompose.hpp"

#include <cfloat>

using bqq::Index;
using reference::Mat;

namespace {

struct Case {
    Index m, n, p, l, patch;
    int sides; // that have an order, and whether there are entries
};
const Case kCases[] = {{1, 1, 1, 1, 0, 0},      {7, 5, 2, 3, 0, 0},     {33, 129, 3, 70, 0, 0}, {257, 65, 2, 9, 64, 0},
                       {20, 20, 16, 33, 7, 0},  {1, 1, 1, 1, 0, 7},     {7, 5, 2, 3, 3, 1},     {7, 5, 2, 3, 3, 2},
                       {33, 129, 3, 70, 40, 6}, {257, 65, 2, 9, 64, 7}, {20, 20, 2, 33, 7, 4}};

bqq::Matrix make(const Case& c) {
    return reference::dressed(reference::random_matrix(c.m, c.n, c.p, c.l, c.patch, 5), c.sides);
}

bool same_extras(const bqq::Matrix& a, const bqq::Matrix& b) {
    const auto same = [](const bqq::Entry& x, const bqq::Entry& y) {
        return x.row == y.row && x.col == y.col && x.value == y.value;
    };
    return a.row_order == b.row_order && a.col_order == b.col_order &&
           std::equal(a.entries.begin(), a.entries.end(), b.entries.begin(), b.entries.end(), same);
}

} // namespace

TEST(reconstruct_equals_the_definition) {
    for (const Case& c : kCases) {
        const bqq::Matrix q = make(c);
        const Mat expected = reference::dense(q.view());
        for (const int threads : {1, 3}) {
            std::vector<float> out(std::size_t(c.m * (c.n + 2)), -7.0f);
            bqq::reconstruct(q.view(), out.data(), c.n + 2, threads);
            for (Index i = 0; i < c.m; ++i) {
                for (Index j = 0; j < c.n; ++j)
                    CHECK_NEAR(out[std::size_t(i * (c.n + 2) + j)], expected(i, j),
                               FLT_EPSILON * (1 + std::fabs(expected(i, j))));
                CHECK_EQ(out[std::size_t(i * (c.n + 2) + c.n)], -7.0f); // nothing beyond the row
            }
        }
    }
}

TEST(squared_error_is_exact_and_independent_of_threads) {
    for (const Case& c : kCases) {
        const bqq::Matrix q = make(c);
        const Mat W = reference::random(c.m, c.n, 6, -1, 1), W_hat = reference::dense(q.view());
        const std::vector<float> w(W.v.begin(), W.v.end());
        double expected = 0;
        for (std::size_t i = 0; i < w.size(); ++i)
            expected += (double(w[i]) - W_hat.v[i]) * (double(w[i]) - W_hat.v[i]);
        const double one = bqq::squared_error(q.view(), w.data(), c.n, 1);
        CHECK_NEAR(one, expected, 1e-12 * expected);
        CHECK_EQ(one, bqq::squared_error(q.view(), w.data(), c.n, 4));
    }
}

TEST(transpose_is_exact) {
    for (const Case& c : kCases) {
        const bqq::Matrix q = make(c), t = bqq::transpose(q.view());
        bqq::validate(t.view());
        const Mat a = reference::dense(q.view()), b = reference::dense(t.view());
        for (Index i = 0; i < c.m; ++i)
            for (Index j = 0; j < c.n; ++j) CHECK_NEAR(a(i, j), b(j, i), 1e-12);
        const bqq::Matrix back = bqq::transpose(t.view());
        CHECK(back.layout == q.layout && back.Y == q.Y && back.Z == q.Z && back.scales == q.scales);
        CHECK(same_extras(back, q));
        CHECK(same_extras(bqq::Matrix(q.view()), q));
    }
}

// Means come from counts of bits: rows of Y Z, l additions for each element, would take minutes here.
TEST(prefix_of_large_planes) {
    bqq::Layout a;
    a.m = a.rows = 9000, a.n = a.cols = 8000, a.J = a.K = 1, a.p = 2, a.l = 10000;
    bqq::Matrix q(a);
    const Index second = a.y_plane_bytes();
    std::fill(q.Y.begin() + second, q.Y.end(), std::uint8_t(0x11)); // every fourth bit
    std::fill(q.Z.begin() + a.z_plane_bytes(), q.Z.end(), std::uint8_t(0xFF));
    q.scales = {1, 1, 1, 0.5f, 0.25f, 2, 1};
    const bqq::Matrix head = bqq::prefix(q.view(), 1);
    CHECK_NEAR(double(head.scales[3]), 1 + 0.5 * 2500 + 0.25 * 2500 + 2.0 * 10000, 1e-2);
}

TEST(prefix_keeps_bits_and_block_means) {
    for (const Case& c : kCases) {
        const bqq::Matrix q = make(c);
        const bqq::Layout& a = q.layout;
        for (Index k = 1; k <= c.p; ++k) {
            const bqq::Matrix head = bqq::prefix(q.view(), k);
            bqq::validate(head.view());
            const Mat whole = reference::dense(q.view().blocks_alone()),
                      part = reference::dense(head.view().blocks_alone());
            CHECK(same_extras(head, q));
            for (Index J = 0; J < a.J; ++J)
                for (Index K = 0; K < a.K; ++K) {
                    for (Index i = 0; i < k; ++i) {
                        CHECK(!std::memcmp(q.view().y_plane(J, K, i), head.view().y_plane(J, K, i),
                                           std::size_t(a.y_plane_bytes())));
                        CHECK(!std::memcmp(q.view().z_plane(J, K, i), head.view().z_plane(J, K, i),
                                           std::size_t(a.z_plane_bytes())));
                    }
                    double difference = 0, size = 0;
                    for (Index i = 0; i < a.rows_of(J); ++i)
                        for (Index j = 0; j < a.cols_of(K); ++j) {
                            difference += whole(J * a.rows + i, K * a.cols + j) - part(J * a.rows + i, K * a.cols + j);
                            size += std::fabs(whole(J * a.rows + i, K * a.cols + j)) + 1;
                        }
                    CHECK_NEAR(difference / size, 0, 1e-5);
                }
        }
        const bqq::Matrix all = bqq::prefix(q.view(), c.p);
        CHECK(all.Y == q.Y && all.Z == q.Z && all.scales == q.scales);
        CHECK_THROWS(bqq::prefix(q.view(), 0), bqq::Error, "k is 0");
        CHECK_THROWS(bqq::prefix(q.view(), c.p + 1), bqq::Error, "expected 1 to p");
    }
}
