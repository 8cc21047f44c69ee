// The AMX kernels on emulated tiles: needs AVX512-BF16, not AMX. Where the machine has AMX, test_kernels runs the real
// ones too.
#include "check.hpp"
#include "reference.hpp"

#include "amfd.hpp"
#include "kernels/dispatch.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#if defined(BQQ_AMX_EMULATED)
extern "C" void bqq_kernels_amx_emulated(bqq_kernels* table);

using namespace bqq::detail;
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

TEST(tile_products_are_those_of_rounded_operands) {
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
                std::vector<float> work(BQQ_GEMM_WORKSPACE(std::size_t(M), std::size_t(b.ld), std::size_t(K)) + 16,
                                        NAN);
                float* workspace = work.data() + (64 - reinterpret_cast<std::uintptr_t>(work.data()) % 64) / 4;
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
                    table.gemm_rounded(std::size_t(M), std::size_t(b.ld), std::size_t(K), left, row, col, b.v.data(),
                                       std::size_t(b.ld), transposed ? nullptr : d.v.data(), std::size_t(d.ld),
                                       transposed ? nullptr : bias.data(), C.data(), std::size_t(b.ld), workspace);
                    for (Index i = 0; i < M; ++i)
                        for (Index j = 0; j < N; ++j)
                            CHECK_NEAR(double(C[std::size_t(i * b.ld + j)]), P(i, j) + (transposed ? 0 : D(i, j) + 0.5),
                                       tolerance);
                    double sums[2];
                    table.gemm_dots_rounded(std::size_t(M), std::size_t(b.ld), std::size_t(K), left, row, col,
                                            b.v.data(), std::size_t(b.ld), d.v.data(), std::size_t(d.ld), sums,
                                            workspace);
                    CHECK_NEAR(sums[0], square, 1e-5 * square);
                    CHECK_NEAR(sums[1], cross, 1e-5 * (1 + square));
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
