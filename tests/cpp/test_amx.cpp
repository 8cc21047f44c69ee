// The AMX kernels on emulated tiles: needs AVX512-BF16, not AMX. Where the machine has AMX, test_kernels runs the real
// ones too.
#include "aligned.hpp"
#include "check.hpp"
#include "reference.hpp"

#include "kernels/dispatch.hpp"
#include "search/amfd.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#if defined(BQQ_AMX_EMULATED)
extern "C" void bqq_kernels_amx_emulated(bqq_kernels* table);

using namespace bqq::detail;
using aligned_memory::Elements;
using bqq::Index;
using reference::Mat;

namespace {

bool runnable() {
    const auto levels = isa_available();
    return std::find(levels.begin(), levels.end(), "bf16") != levels.end();
}

bqq_kernels emulated() {
    bqq_kernels table = kernels_capped("bf16");
    bqq_kernels_amx_emulated(&table);
    return table;
}

// Rounded to bfloat16, to nearest even.
float rounded(double x) {
    const float f = float(x);
    std::uint32_t bits;
    std::memcpy(&bits, &f, 4);
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000u;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

struct Padded {
    Index ld;
    std::vector<float> v;
    explicit Padded(const Mat& a) : ld((a.cols + 15) / 16 * 16), v(std::size_t(a.rows * ld)) {
        for (Index i = 0; i < a.rows; ++i)
            for (Index j = 0; j < a.cols; ++j) v[std::size_t(i * ld + j)] = float(a(i, j));
    }
};

} // namespace

TEST(gemms_on_tiles_are_those_of_rounded_operands) {
    if (!runnable()) return;
    const bqq_kernels table = emulated();
    for (const Index M : {1, 15, 16, 17, 32, 33, 70})
        for (const Index N : {1, 16, 17, 48, 100})
            for (const Index K : {1, 2, 31, 32, 33, 64, 101}) {
                const Mat A = reference::random(M, K, 1, -1, 1), B = reference::random(K, N, 2, -1, 1),
                          D = reference::random(M, N, 3, -1, 1);
                Mat At(K, M);
                for (Index i = 0; i < M; ++i)
                    for (Index k = 0; k < K; ++k) At(k, i) = A(i, k);
                const Padded a(A), at(At), b(B), d(D);
                const std::vector<float> bias(std::size_t(M), 0.5f);
                const Elements<float> workspace(gemm_workspace(std::size_t(M), std::size_t(b.ld), std::size_t(K)), NAN);
                Mat P(M, N);
                double square = 0, cross = 0;
                for (Index i = 0; i < M; ++i)
                    for (Index j = 0; j < N; ++j) {
                        for (Index k = 0; k < K; ++k) P(i, j) += double(rounded(A(i, k))) * double(rounded(B(k, j)));
                        square += P(i, j) * P(i, j), cross += P(i, j) * D(i, j);
                    }
                const double tolerance = 1e-6 * double(K + 2);
                for (const bool transposed : {false, true}) {
                    std::vector<float> C(std::size_t(M * b.ld), NAN);
                    const float* left = transposed ? at.v.data() : a.v.data();
                    const std::size_t row = transposed ? 1 : std::size_t(a.ld),
                                      col = transposed ? std::size_t(at.ld) : 1;
                    table.gemm_rounded(std::size_t(M), std::size_t(b.ld), std::size_t(K), left, row, col, 1, b.v.data(),
                                       std::size_t(b.ld), 1, transposed ? nullptr : d.v.data(), std::size_t(d.ld),
                                       transposed ? nullptr : bias.data(), C.data(), std::size_t(b.ld), workspace.at);
                    for (Index i = 0; i < M; ++i)
                        for (Index j = 0; j < N; ++j)
                            CHECK_NEAR(double(C[std::size_t(i * b.ld + j)]), P(i, j) + (transposed ? 0 : D(i, j) + 0.5),
                                       tolerance);
                    double sums[2];
                    table.gemm_dots_rounded(std::size_t(M), std::size_t(b.ld), std::size_t(K), left, row, col, 1,
                                            b.v.data(), std::size_t(b.ld), 1, d.v.data(), std::size_t(d.ld), sums,
                                            workspace.at);
                    CHECK_NEAR(sums[0], square, 1e-5 * square);
                    CHECK_NEAR(sums[1], cross, 1e-5 * (1 + square));
                }
            }
}

TEST(tile_products_equal_the_oracle) {
    if (!runnable()) return;
    const bqq_kernels table = emulated();
    for (const Index panels : {1, 2, 3, 8})
        for (const Index blocks : {1, 2, 3, 16, 17, 32})
            for (const Index columns : {1, 15, 16, 17, 32}) {
                const Index rows = kPanelRows * panels, size = kUnitColumns * blocks, ldx = size + 3, ldo = rows + 5;
                const Mat X = reference::random(columns, ldx, 1, -1, 1), bits = reference::random(rows, size, 2, 0, 1);
                std::vector<float> x(X.v.begin(), X.v.end());
                std::vector<std::uint32_t> units(std::size_t(panels * blocks * kPanelRows));
                for (Index i = 0; i < rows; ++i)
                    for (Index k = 0; k < size; ++k)
                        units[std::size_t((k / 32 * panels + i / kPanelRows) * kPanelRows + i % kPanelRows)] |=
                            std::uint32_t(bits(i, k) > 0.5) << k % 32;
                const std::size_t room = std::size_t(blocks * ((columns + 15) / 16) * kTileBytes);
                const Elements<std::uint8_t> tables(room + 1, 0xA5);
                for (const int precision : {0, 1})
                    for (const int accumulate : {0, 1}) {
                        std::vector<float> out(std::size_t(columns * ldo), 0.5f);
                        table.tile[precision].tables(std::size_t(blocks), std::size_t(columns), x.data(),
                                                     std::size_t(ldx), tables.at);
                        CHECK_EQ(int(tables.at[room]), 0xA5);
                        table.tile[precision].lookup(std::size_t(panels), std::size_t(blocks),
                                                     reinterpret_cast<const std::uint8_t*>(units.data()),
                                                     std::size_t(panels * kUnitBytes), std::size_t(columns), tables.at,
                                                     out.data(), std::size_t(ldo), accumulate);
                        // 16 significant bits; a step of 1/127. Errors of elements add like noise.
                        const double step = precision ? 1 / 127.0 : 1 / 65536.0;
                        for (Index c = 0; c < columns; ++c)
                            for (Index i = 0; i < ldo; ++i) {
                                double y = i >= rows || accumulate ? 0.5 : 0;
                                for (Index k = 0; k < size && i < rows; ++k)
                                    y += ((bits(i, k) > 0.5) - 0.5) * double(x[std::size_t(c * ldx + k)]);
                                CHECK_NEAR(double(out[std::size_t(c * ldo + i)]), y,
                                           5 * step * 0.29 * 0.5 * std::sqrt(double(size)) + 1e-6);
                            }
                    }
            }
}

TEST(tile_products_keep_what_is_not_finite_to_its_column) {
    if (!runnable()) return;
    const bqq_kernels table = emulated();
    const std::vector<std::uint8_t> bits(2 * kUnitBytes, 0x5C);
    alignas(64) std::uint8_t tables[2 * kTileBytes];
    for (const bqq_product& kernel : table.tile)
        for (const float bad : {INFINITY, -INFINITY, NAN}) {
            std::vector<float> x(5 * 64, 1.0f), out(5 * kPanelRows);
            std::fill_n(x.data() + 64, 64, 0.0f);
            x[3 * 64 + 40] = bad;
            kernel.tables(2, 5, x.data(), 64, tables);
            kernel.lookup(1, 2, bits.data(), kUnitBytes, 5, tables, out.data(), kPanelRows, 0);
            for (int i = 0; i < kPanelRows; ++i) {
                CHECK_EQ(out[std::size_t(kPanelRows + i)], 0.0f);
                for (const int c : {0, 2, 4}) CHECK(std::isfinite(out[std::size_t(kPanelRows * c + i)]));
                CHECK(!std::isfinite(out[std::size_t(kPanelRows * 3 + i)]));
            }
        }
}

TEST(a_descent_on_tiles_follows_the_one_on_vectors) {
    if (!runnable()) return;
    const Index m = 40, n = 37, l = 19;
    const Mat W = reference::random(m, n, 6, -1, 1);
    const std::vector<float> w(W.v.begin(), W.v.end());
    const bqq_kernels tables[] = {emulated(), kernels_capped("bf16")};
    AmfdOptions options;
    std::vector<float> y[2];
    for (int t = 0; t < 2; ++t) {
        Amfd amfd(tables[t], m, n, l);
        amfd.set_target(m, n, w.data(), n, 0, 2);
        amfd.start(options, 1, 0, 0);
        for (int step = 0; step < 30; ++step) amfd.step(options, 0.15);
        y[t].assign(amfd.y(), amfd.y() + m * amfd.ldl());
    }
    for (std::size_t i = 0; i < y[0].size(); ++i) CHECK_NEAR(double(y[0][i]), double(y[1][i]), 5e-3);
}
#else
TEST(this_compiler_has_no_amx) {}
#endif
