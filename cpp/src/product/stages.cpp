#include "product/stages.hpp"

#include "product/strided.hpp"
#include "product/tuning.hpp"

namespace bqq::detail {
namespace {

// Calls f(q, panels) for panels [begin, end) by groups of kMaxPanels, cut where [begin, end) is.
template <class F> void for_groups(Index begin, Index end, F&& f) {
    for (Index q = begin; q < end;) {
        const Index panels = std::min(end, (q / kMaxPanels + 1) * kMaxPanels) - q;
        f(q, panels);
        q += panels;
    }
}

// The panels of rows [begin, end).
struct Panels {
    Index top, bottom;
    Panels(Index begin, Index end) : top(begin / kPanelRows), bottom(ceil_div(end, kPanelRows)) {}
    Index rows() const { return (bottom - top) * kPanelRows; }
};

} // namespace

Inputs::Inputs(const Prepared& h, Index columns, Arena& arena) : columns(columns), ld(h.z_units().cols()) {
    x = arena.floats(h.layout.K * columns * ld);
    sigma = arena.take<double>(h.layout.K * columns);
}

void Inputs::load(const Prepared& h, const ConstArray& X, Index column, Index count) {
    const Layout& a = h.layout;
    columns = count, start = column;
    for (Index k = 0; k < a.K; ++k) {
        float* slice = x + k * columns * ld;
        load_columns(part_of(X, k * a.cols, a.cols_of(k), column, columns), slice, ld);
        for (Index c = 0; c < columns; ++c) {
            float* v = slice + c * ld;
            std::fill(v + a.cols_of(k), v + ld, 0.0f);
            double sum[8] = {};
            for (Index b = 0; b < ld; b += 8)
                for (Index e = 0; e < 8; ++e) sum[e] += double(v[b + e]);
            sigma[k * columns + c] = (sum[0] + sum[1]) + (sum[2] + sum[3]) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
        }
    }
}

StageBuffer::StageBuffer(const Prepared& h, Index block_rows, Index columns, Arena& arena)
    : columns(columns), ld(h.y_units().cols()) {
    w = arena.floats(block_rows * columns * ld);
    sums = arena.floats(block_rows * columns * kPanelRows);
    total = arena.take<double>(block_rows * columns);
}

void StageBuffer::begin(const Prepared& h, Index block_rows, Index count) {
    columns = count;
    const Index used = h.layout.K * h.inner_width(), vectors = block_rows * columns;
    std::fill(total, total + vectors, 0.0);
    std::fill(sums, sums + vectors * kPanelRows, 0.0f);
    for (Index i = 0; i < vectors; ++i) std::fill(w + i * ld + used, w + (i + 1) * ld, 0.0f);
}

void StageBuffer::put(const bqq_kernels& kernels, const Prepared& h, Index k, Index begin, Index end, const float* v,
                      Index ldv, const double* sigma) {
    const Index width = h.inner_width();
    for (Index slot = 0; slot < end - begin; ++slot)
        for (Index c = 0; c < columns; ++c) {
            const Index at = slot * columns + c, j = begin + slot;
            kernels.apply_scales(std::size_t(h.layout.p), std::size_t(h.layout.l), h.block(j, k), float(sigma[c]),
                                 v + c * ldv + slot * width, w + at * ld + k * width, sums + at * kPanelRows);
            total[at] += h.constant(j, k) * sigma[c];
        }
}

void StageBuffer::end(Index block_rows) {
    for (Index at = 0; at < block_rows * columns; ++at)
        for (Index lane = 0; lane < kPanelRows; ++lane) total[at] += double(sums[at * kPanelRows + lane]);
}

void multiply(const ProductMethod& method, const BitMatrix& bits, Index begin, Index end, const Vectors& x,
              void* tables, float* out, Index ldo) {
    const bqq_product& kernel = *method.kernel;
    const Units& units = bits.units;
    const Index step = method.blocks(x.count);
    for (Index b = 0; b < units.blocks; b += step) {
        const Index count = std::min(step, units.blocks - b);
        kernel.tables(std::size_t(count), std::size_t(x.count), x.at + b * kUnitColumns, std::size_t(x.ld), tables);
        for_groups(begin, end, [&](Index q, Index panels) {
            kernel.lookup(std::size_t(panels), std::size_t(count), bits.at + units.offset(q, b),
                          std::size_t(units.width(q) * kUnitBytes), std::size_t(x.count), tables,
                          out + (q - begin) * kPanelRows, std::size_t(ldo), b > 0);
        });
    }
}

Index rows_at_once(const Prepared& h, Index columns) {
    const Index tall = ceil_div(kTallRows, h.inner_width());
    const Index fit = kStageBytes / (Index(sizeof(float)) * columns * h.y_units().cols());
    return std::max<Index>(1, std::min({tall, fit, h.layout.J}));
}

Scratch::Scratch(const Prepared& h, const bqq_kernels& kernels, const ProductMethod& method, Index together,
                 Arena& arena)
    : y(arena.floats(method.columns * h.y_units().rows())) {
    if (method.kind == ProductMethod::dense) {
        tiles.emplace(h, kernels, arena);
        return;
    }
    tables = arena.floats(method.table_bytes() / Index(sizeof(float)));
    v = arena.floats(method.columns * (together * h.inner_width() + 2 * kPanelRows));
    between.emplace(h, together, method.columns, arena);
}

void Product::stage1(const Inputs& in, Columns columns, Index begin, Index end, Scratch& scratch) const {
    StageBuffer& between = *scratch.between;
    between.begin(h, end - begin, columns.count);
    const Panels panels(begin * h.inner_width(), end * h.inner_width()); // of the tall bit matrix
    const Index ldv = panels.rows();
    for (Index k = 0; k < h.layout.K; ++k) {
        const Index at = k * in.columns + columns.first;
        multiply(method, z(k), panels.top, panels.bottom, {in.x + at * in.ld, in.ld, columns.count}, scratch.tables,
                 scratch.v, ldv);
        between.put(kernels, h, k, begin, end, scratch.v + begin * h.inner_width() - panels.top * kPanelRows, ldv,
                    in.sigma + at);
    }
    between.end(end - begin);
}

void Product::stage2(Index j, Index begin, Index end, const StageBuffer& between, Index at, Index column, Index count,
                     Scratch& scratch) const {
    const Panels panels(begin, end);
    const Index ldy = panels.rows();
    multiply(method, y(j), panels.top, panels.bottom, {between.w + at * between.ld, between.ld, count}, scratch.tables,
             scratch.y, ldy);
    store_columns(scratch.y + begin - panels.top * kPanelRows, ldy, between.total + at,
                  part_of(out, j * h.layout.rows + begin, end - begin, column, count), accumulate);
}

void Product::dense(Index j, Index begin, Index end, const Inputs& in, Columns columns, Scratch& scratch) const {
    const Layout& a = h.layout;
    const Panels all(begin, end);
    const Index ldy = all.rows();
    for (Index k = 0; k < a.K; ++k)
        for (Index b = 0; b < a.cols_of(k); b += kDenseTileColumns) {
            const Index depth = std::min(kDenseTileColumns, a.cols_of(k) - b);
            scratch.tiles->select(j, k, b, depth);
            for_groups(all.top, all.bottom, [&](Index q, Index panels) {
                const float* tile = scratch.tiles->tile(q, panels);
                float* to = scratch.y + (q - all.top) * kPanelRows;
                kernels.gemm(std::size_t(columns.count), std::size_t(panels * kPanelRows), std::size_t(depth),
                             in.x + (k * in.columns + columns.first) * in.ld + b, std::size_t(in.ld), 1, tile,
                             std::size_t(panels * kPanelRows), k || b ? to : nullptr, std::size_t(ldy), nullptr, to,
                             std::size_t(ldy));
            });
        }
    const double none[kDenseColumns] = {};
    store_columns(scratch.y + begin - all.top * kPanelRows, ldy, none,
                  part_of(out, j * a.rows + begin, end - begin, in.start + columns.first, columns.count), accumulate);
}

void Product::rows(const Inputs& in, Columns columns, Index begin, Index end, Scratch& scratch) const {
    const Index rows = h.layout.rows, j0 = begin / rows, j1 = ceil_div(end, rows);
    if (method.kind != ProductMethod::dense) stage1(in, columns, j0, j1, scratch);
    for (Index j = j0; j < j1; ++j) {
        const Index first = std::max(begin, j * rows) - j * rows, last = std::min(end, (j + 1) * rows) - j * rows;
        if (method.kind == ProductMethod::dense)
            dense(j, first, last, in, columns, scratch);
        else
            stage2(j, first, last, *scratch.between, (j - j0) * columns.count, in.start + columns.first, columns.count,
                   scratch);
    }
}

} // namespace bqq::detail
