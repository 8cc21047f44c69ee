// Tiles of W_hat made from a prepared matrix, and the products that use them, against float64.
#include "aligned.hpp"
#include "check.hpp"
#include "reference.hpp"

#include "bqq/prepared.hpp"
#include "kernels/dispatch.hpp"
#include "product/dense.hpp"

#include <cmath>

using namespace bqq::detail;
using aligned_memory::Aligned;
using aligned_memory::prepared;
using bqq::Index;
using reference::Mat;

namespace {

double largest(const Mat& a) {
    double most = 0;
    for (const double x : a.v) most = std::max(most, std::fabs(x));
    return most;
}

} // namespace

TEST(tiles_equal_the_reconstruction) {
    for (const std::string& name : isa_available()) {
        const bqq_kernels table = kernels_capped(name);
        if (!table.dense || table.unit_order != kernels().unit_order) continue; // the suite runs every level in turn
        for (const Index l : {1, 21, 32, 70, 150})
            for (const Index p : {1, 3})
                for (const Index patch : {0, 48, 160}) {
                    const Index m = 290, n = 301;
                    const bqq::Matrix q = reference::random_matrix(m, n, p, l, patch, 1);
                    const Mat W = reference::dense(q.view());
                    const Aligned buffer = prepared(q);
                    const Prepared& h = prepared_of(buffer.at);
                    const bqq::Layout& a = h.layout;
                    Arena measure;
                    DenseTiles(h, table, measure);
                    const Aligned memory(measure.used());
                    Arena arena(memory.at);
                    DenseTiles tiles(h, table, arena);
                    const Index panels = h.y_units().panels;
                    double error = 0;
                    for (Index j = 0; j < a.J; ++j)
                        for (Index k = 0; k < a.K; ++k)
                            for (Index first = 0; first < a.cols_of(k); first += DenseTiles::kColumns) {
                                const Index count = std::min(DenseTiles::kColumns, a.cols_of(k) - first);
                                tiles.select(j, k, first, count);
                                for (Index top = 0; top < panels; top += 3) { // 3: within and across groups
                                    const Index left = std::min(panels, (top / kMaxPanels + 1) * kMaxPanels) - top;
                                    const Index some = std::min<Index>(3, left), rows = some * kPanelRows;
                                    const float* tile = tiles.tile(top, some);
                                    for (Index b = 0; b < count; ++b)
                                        for (Index r = 0; r < rows && top * kPanelRows + r < a.rows_of(j); ++r) {
                                            const double w =
                                                W(j * a.rows + top * kPanelRows + r, k * a.cols + first + b);
                                            error = std::max(error, std::fabs(double(tile[b * rows + r]) - w));
                                        }
                                }
                            }
                    CHECK(error <= 2e-6 * largest(W));
                }
    }
}

TEST(products_of_many_columns_and_stacks) {
    for (const Index l : {16, 21})
        for (const Index batch : {40, 259})
            for (const double offset : {0.0, 100.0}) {
                const Index m = 150, n = 203, p = 4;
                const bqq::Matrix q = reference::random_matrix(m, n, p, l, 32, 1);
                const Mat X = reference::random(n, batch, 2, offset - 1, offset + 1);
                const std::vector<float> x(X.v.begin(), X.v.end());
                Mat X32 = X;
                for (std::size_t i = 0; i < x.size(); ++i) X32.v[i] = double(x[i]);
                const Mat expected = reference::multiply(reference::dense(q.view()), X32);
                const Aligned buffer = prepared(q);
                std::vector<float> y(std::size_t(m * batch)), threaded(y), parts(y);
                const bqq::ConstArray in{x.data(), bqq::Dtype::f32, n, batch, batch, 1};
                const auto out = [&](std::vector<float>& v) {
                    return bqq::Array{v.data(), bqq::Dtype::f32, m, batch, batch, 1};
                };
                bqq::matmul(buffer.at, in, out(y), {1});
                double error = 0, norm = 0;
                for (std::size_t i = 0; i < y.size(); ++i) {
                    error += std::pow(double(y[i]) - expected.v[i], 2);
                    norm += expected.v[i] * expected.v[i];
                }
                CHECK(error <= 1e-10 * norm);
                bqq::matmul(buffer.at, in, out(threaded), {3});
                CHECK(threaded == y);
                const Aligned workspace(bqq::workspace_size(buffer.at, batch));
                for (const Index cut : {0, 7, 33, 100})
                    bqq::matmul_rows(buffer.at, in, out(parts), cut,
                                     cut == 0    ? 7
                                     : cut == 7  ? 33
                                     : cut == 33 ? 100
                                                 : m,
                                     workspace.at);
                CHECK(parts == y);
            }
}
