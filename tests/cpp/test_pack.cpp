#include "check.hpp"
#include "reference.hpp"

#include "bits/pack.hpp"

using namespace bqq::detail;
using bqq::Error;
using bqq::Layout;
using bqq::make_layout;

TEST(layouts_are_balanced_and_cover_the_matrix) {
    for (const bqq::Index m : {1, 5, 127, 128, 129, 257, 512, 513, 1000})
        for (const bqq::Index patch : {0, 1, 7, 64, 128, 1000}) {
            const Layout a = make_layout(m, 2 * m + 1, 2, 0, patch);
            bqq::validate(a);
            const bqq::Index side = patch ? patch : (2 * m + 1 <= 512 ? 512 : 256);
            CHECK(a.rows <= side && a.cols <= side);
            CHECK_EQ(a.J, (m + side - 1) / side);
            CHECK(a.rows_of(a.J - 1) >= 1 && a.rows_of(a.J - 1) <= a.rows);
            CHECK_EQ((a.J - 1) * a.rows + a.rows_of(a.J - 1), m);
            CHECK_EQ((a.K - 1) * a.cols + a.cols_of(a.K - 1), 2 * m + 1);
        }
    CHECK_EQ(make_layout(128, 128, 1).l, bqq::Index(64));
    CHECK_EQ(make_layout(100, 96, 1).l, bqq::Index(49)); // rounded, not truncated
    CHECK_EQ(make_layout(1, 1, 1).l, bqq::Index(1));
    CHECK_EQ(make_layout(513, 4, 1).rows, bqq::Index(171)); // 5 blocks of 103, the last 101
}

TEST(sizes_count_padding) {
    const Layout a = make_layout(10, 9, 2, 3, 0);
    CHECK_EQ(a.y_bytes(), bqq::Index(2 * 10 * 1));
    CHECK_EQ(a.z_bytes(), bqq::Index(2 * 3 * 2));
    CHECK_EQ(a.nbytes(), bqq::Index(20 + 12 + 4 * 7));
    CHECK_NEAR(a.bits_per_weight(), 8.0 * 60 / 90, 1e-12);
}

TEST(bad_layouts_name_the_argument) {
    CHECK_THROWS(make_layout(0, 5, 1), Error, "m is 0");
    CHECK_THROWS(make_layout(5, -1, 1), Error, "n is -1");
    CHECK_THROWS(make_layout(5, 5, 0), Error, "p is 0");
    CHECK_THROWS(make_layout(5, 5, 65), Error, "p is 65, expected 1 to 64");
    CHECK_THROWS(make_layout(5, 5, 1, 70000), Error, "l is 70000");
    CHECK_THROWS(make_layout(5, 5, 1, 1, -3), Error, "patch is -3");
    CHECK_THROWS(make_layout(bqq::Index(1) << 40, bqq::Index(1) << 40, 64, 65535, 1), Error, "too large");
    Layout a = make_layout(100, 100, 1, 8, 50);
    a.J = 3;
    CHECK_THROWS(bqq::validate(a), Error, "the grid does not fit");
}

TEST(pack_and_transpose) {
    for (const bqq::Index rows : {1, 7, 8, 33})
        for (const bqq::Index cols : {1, 8, 9, 64, 65}) {
            const auto x = reference::random(rows, cols, 3);
            std::vector<float> f(x.v.begin(), x.v.end());
            const bqq::Index rb = (cols + 7) / 8, cb = (rows + 7) / 8;
            std::vector<std::uint8_t> bits(std::size_t(rows * rb), 0xFF), flipped(std::size_t(cols * cb), 0xFF);
            pack_bits(rows, cols, f.data(), cols, bits.data(), rb);
            transpose_bits(rows, cols, bits.data(), rb, flipped.data(), cb);
            int ones = 0, all = 0;
            for (const auto byte : flipped) all += __builtin_popcount(byte);
            for (bqq::Index i = 0; i < rows; ++i)
                for (bqq::Index j = 0; j < cols; ++j) {
                    const bool expected = f[std::size_t(i * cols + j)] > 0.5f;
                    CHECK_EQ(reference::bit(bits.data() + i * rb, j), expected);
                    CHECK_EQ(reference::bit(flipped.data() + j * cb, i), expected);
                    ones += expected;
                }
            CHECK_EQ(ones, all); // pad bits stay zero
        }
}

TEST(validate_finds_bad_orders_and_entries) {
    const bqq::Matrix good = reference::dressed(reference::random_matrix(5, 7, 1, 3, 4, 1), 7);
    bqq::validate(good.view());
    const auto bad = [&](auto&& spoil, const char* text) {
        bqq::Matrix q = good;
        spoil(q);
        CHECK_THROWS(bqq::validate(q.view()), Error, text);
    };
    bad([](bqq::Matrix& q) { q.row_order[2] = q.row_order[1]; }, "row_order is no permutation");
    bad([](bqq::Matrix& q) { q.col_order[6] = 7; },
        "col_order is no permutation: 7 at position 6, expected less than 7");
    bad([](bqq::Matrix& q) { q.entries[0].row = 5; }, "entry 0 at row 5");
    bad([](bqq::Matrix& q) { q.entries[1].col = 7; }, "expected within 5 x 7");
    bad([](bqq::Matrix& q) { q.entries[1] = q.entries[0]; }, "entry 1 at row 1, column 0: entries are not ascending");
    bad([](bqq::Matrix& q) { q.entries[1].value = INFINITY; }, "is not finite");
    bqq::View missing = good.view();
    missing.entries = nullptr;
    CHECK_THROWS(bqq::validate(missing), Error, "entries are missing");
    CHECK_EQ(good.view().nbytes(), good.layout.nbytes() + 2 * 5 + 2 * 7 + 8 * bqq::Index(good.entries.size()));
}

TEST(validate_finds_dirty_padding_and_bad_scales) {
    const bqq::Matrix good = reference::random_matrix(21, 13, 2, 5, 8, 1);
    bqq::validate(good.view());
    // Each pad bit, set alone, is found.
    const Layout& a = good.layout;
    int pads = 0;
    for (std::size_t byte = 0; byte < good.Y.size(); ++byte)
        for (int b = 0; b < 8; ++b) {
            const bqq::Index row = bqq::Index(byte) / a.y_row_bytes() % a.rows,
                             j = bqq::Index(byte) / (a.K * a.p * a.y_plane_bytes());
            const bool pad = bqq::Index(byte) % a.y_row_bytes() * 8 + b >= a.l || row >= a.rows_of(j);
            if (!pad) continue;
            ++pads;
            bqq::Matrix bad = good;
            bad.Y[byte] |= std::uint8_t(1u << b);
            CHECK_THROWS(bqq::validate(bad.view()), Error, "pad bits of Y");
        }
    CHECK(pads > 0);
    bqq::Matrix bad = good;
    bad.Z[std::size_t(a.z_row_bytes()) - 1] |= 0x80;
    CHECK_THROWS(bqq::validate(bad.view()), Error, "pad bits of Z");
    bad = good;
    bad.scales[3] = NAN;
    CHECK_THROWS(bqq::validate(bad.view()), Error, "scale 3 of block 0 is not finite");
    bqq::View view = good.view();
    view.Z = nullptr;
    CHECK_THROWS(bqq::validate(view), Error, "null");
}

TEST(block_products_are_the_integer_products) {
    const bqq::Matrix q = reference::random_matrix(21, 13, 3, 5, 8, 2);
    const Layout& a = q.layout;
    for (bqq::Index j = 0; j < a.J; ++j)
        for (bqq::Index k = 0; k < a.K; ++k) {
            const BlockProducts block(q.view(), j, k, 3);
            std::vector<std::uint16_t> row(std::size_t(3 * block.cols()));
            std::vector<std::int64_t> rho(3), zeta(row.size());
            block.column_sums(zeta.data());
            std::vector<double> what(std::size_t(block.cols()));
            const auto dense = reference::dense(q.view());
            for (bqq::Index i = 0; i < block.rows(); ++i) {
                block.row(i, row.data(), rho.data());
                reconstruct_row(q.view().block_scales(j, k), 3, block.cols(), row.data(), rho.data(), zeta.data(),
                                what.data());
                for (bqq::Index b = 0; b < block.cols(); ++b)
                    CHECK_NEAR(what[std::size_t(b)], dense(j * a.rows + i, k * a.cols + b), 1e-12);
            }
        }
}
