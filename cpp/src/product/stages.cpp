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

Inputs::Inputs(const Prepared& h, const ProductMethod& method, Index columns, Arena& arena)
    : columns(columns), h_(h), method_(method), ld_(method.spaced(h.z_units().cols())) {
    const Index room = h.layout.K * method.room(columns);
    x_ = arena.floats(room * ld_);
    sigma_ = arena.take<double>(room);
    mean_ = arena.take<double>(method.room(columns));
}

VectorsOf<float> Inputs::x(Columns group, Index k) const {
    const Index room = method_.room(group.count); // the groups before are full
    return method_.arrange(x_ + (group.first * h_.layout.K + k * room) * ld_, ld_, group.count);
}

double* Inputs::sigma(Columns group, Index k) const {
    return sigma_ + group.first * h_.layout.K + k * method_.room(group.count);
}

void Inputs::load(const ConstArray& X, Index column, Index count) {
    columns = count, start = column;
    std::fill(mean_, mean_ + columns, 0.0);
    for (Index g = 0; g < groups(); ++g) {
        for (Index k = 0; k < h_.layout.K; ++k) load_block(X, group(g), k);
        if (method_.centred) centre(group(g));
    }
}

void Inputs::load_block(const ConstArray& X, Columns group, Index k) {
    const Layout& a = h_.layout;
    const VectorsOf<float> to = x(group, k);
    const Index room = method_.room(group.count), rows = a.cols_of(k);
    if (room > group.count) std::fill(to.at, to.at + room * ld_, 0.0f);
    const std::uint32_t* order = h_.col_order();
    load_columns(part_of(X, order ? 0 : k * a.cols, X.rows, start + group.first, group.count), rows,
                 order ? order + k * a.cols : nullptr, to);
    double* sums = sigma(group, k);
    std::fill(sums, sums + room, 0.0);
    if (to.ld == 1) {
        std::fill(to.from(rows).at, to.from(ld_).at, 0.0f);
        for (Index i = 0; i < rows; ++i)
            for (Index c = 0; c < room; ++c) sums[c] += double(to.at[i * room + c]);
        return;
    }
    for (Index c = 0; c < group.count; ++c) {
        float* v = to.at + c * ld_;
        std::fill(v + rows, v + ld_, 0.0f);
        double sum[8] = {};
        for (Index b = 0; b < ld_; b += 8)
            for (Index e = 0; e < 8; ++e) sum[e] += double(v[b + e]);
        sums[c] = (sum[0] + sum[1]) + (sum[2] + sum[3]) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
    }
}

// The means are float32: what is added in the end is what is taken out here.
void Inputs::centre(Columns group) {
    const Layout& a = h_.layout;
    double* mean = mean_ + group.first;
    for (Index c = 0; c < group.count; ++c) {
        double sum = 0;
        for (Index k = 0; k < a.K; ++k) sum += sigma(group, k)[c];
        const float found = float(sum / double(a.n));
        mean[c] = found - found == 0 ? double(found) : 0; // else the column is not finite, nor will its results be
    }
    for (Index k = 0; k < a.K; ++k) {
        const VectorsOf<float> to = x(group, k);
        const Index rows = a.cols_of(k);
        for (Index c = 0; c < group.count; ++c) sigma(group, k)[c] -= mean[c] * double(rows);
        for_elements(to, rows, to.step, [&](Index, Index c, float& value) { value -= float(mean[c]); });
    }
}

StageBuffer::StageBuffer(const Prepared& h, const ProductMethod& method, Index block_rows, Index columns, Arena& arena)
    : h_(h), method_(method), columns_(columns), ld_(method.spaced(h.y_units().cols())) {
    const Index vectors = block_rows * method.room(columns);
    w_ = arena.floats(vectors * ld_);
    sums_ = arena.floats(vectors * kPanelRows);
    total_ = arena.take<double>(vectors);
}

Vectors StageBuffer::w(Index slot) const {
    return method_.arrange(static_cast<const float*>(w_) + slot * method_.room(columns_) * ld_, ld_, columns_);
}

void StageBuffer::begin(Index block_rows, Index count) {
    columns_ = count;
    const Index used = h_.layout.K * h_.inner_width(), vectors = block_rows * method_.room(columns_);
    std::fill(total_, total_ + vectors, 0.0);
    std::fill(sums_, sums_ + vectors * kPanelRows, 0.0f);
    for (Index slot = 0; slot < block_rows; ++slot) {
        const VectorsOf<float> to = method_.arrange(w_ + slot * method_.room(columns_) * ld_, ld_, columns_);
        if (to.ld == 1)
            std::fill(to.from(used).at, to.from(ld_).at, 0.0f);
        else
            for (Index c = 0; c < columns_; ++c) std::fill(to.at + c * ld_ + used, to.at + (c + 1) * ld_, 0.0f);
    }
}

void StageBuffer::put(const bqq_kernels& kernels, Index k, Index begin, Index end, const Vectors& v,
                      const double* sigma) {
    const Index width = h_.inner_width(), room = method_.room(columns_);
    const std::size_t p = std::size_t(h_.layout.p), l = std::size_t(h_.layout.l);
    for (Index slot = 0; slot < end - begin; ++slot) {
        const Index j = begin + slot;
        float* to = w_ + slot * room * ld_;
        double* total = total_ + slot * room;
        if (v.ld == 1) {
            for (Index c = 0; c < room; ++c) sums_[c] = float(sigma[c]);
            kernels.lanes_scales(p, l, h_.block(j, k), std::size_t(room), sums_, v.from(slot * width).at,
                                 to + k * width * room, total);
        } else {
            for (Index c = 0; c < columns_; ++c)
                kernels.apply_scales(p, l, h_.block(j, k), float(sigma[c]), v.from(slot * width).at + c * v.ld,
                                     to + c * ld_ + k * width, sums_ + (slot * room + c) * kPanelRows);
        }
        for (Index c = 0; c < room; ++c) total[c] += h_.constant(j, k) * sigma[c];
    }
}

void StageBuffer::end(Index block_rows) {
    if (method_.kind == ProductMethod::lanes) return;
    for (Index at = 0; at < block_rows * columns_; ++at)
        for (Index lane = 0; lane < kPanelRows; ++lane) total_[at] += double(sums_[at * kPanelRows + lane]);
}

namespace {

// The kernels of one kind for panels [begin, end), the blocks from b on.
struct Panelled {
    const BitMatrix& bits;
    Index begin, end;

    template <class F> void lookup(Index b, F&& f) const {
        for_groups(begin, end, [&](Index q, Index panels) {
            f(std::size_t(panels), bits.at + bits.units.offset(q, b), std::size_t(bits.units.width(q) * kUnitBytes),
              (q - begin) * kPanelRows);
        });
    }
};

void multiply_lanes(const ProductMethod& method, const Panelled& panels, const Vectors& x, const Scratch& scratch,
                    float* out) {
    const bqq_lanes& kernel = *method.wide;
    const Index width = x.step, blocks = panels.bits.units.blocks, step = method.blocks(x.count);
    const auto columns = std::size_t(width);
    for (Index chunk = 0; chunk < blocks; chunk += Index(kernel.chunk)) {
        const Index end = std::min(chunk + Index(kernel.chunk), blocks);
        kernel.begin(std::size_t(end - chunk), columns, x.from(chunk * kUnitColumns).at, scratch.scale);
        for (Index b = chunk; b < end; b += step) {
            const auto count = std::size_t(std::min(step, end - b));
            kernel.tables(count, columns, x.from(b * kUnitColumns).at, scratch.scale, scratch.tables);
            panels.lookup(b, [&](std::size_t some, const std::uint8_t* bits, std::size_t stride, Index row) {
                kernel.lookup(some, count, bits, stride, columns, scratch.tables,
                              scratch.sums + row * width * Index(kernel.element), b == chunk);
            });
        }
        const Index rows = (panels.end - panels.begin) * kPanelRows;
        kernel.end(std::size_t(rows), columns, scratch.sums, scratch.scale, out, chunk > 0);
    }
}

} // namespace

void multiply(const ProductMethod& method, const BitMatrix& bits, Index begin, Index end, const Vectors& x,
              const Scratch& scratch, const VectorsOf<float>& out) {
    if (method.kind == ProductMethod::lanes) {
        for (Index q = begin; q < end; q += kLanePanels)
            multiply_lanes(method, {bits, q, std::min(q + kLanePanels, end)}, x, scratch,
                           out.from((q - begin) * kPanelRows).at);
        return;
    }
    const Panelled panels{bits, begin, end};
    const bqq_product& kernel = *method.kernel;
    const Index step = method.blocks(x.count), rows = (end - begin) * kPanelRows;
    for (Index b = 0; b < bits.units.blocks; b += step) {
        const auto count = std::size_t(std::min(step, bits.units.blocks - b)), columns = std::size_t(x.count);
        const bool fresh = b % kSumBlocks == 0;
        if (fresh && b)
            for (Index c = 0; c < x.count; ++c)
                for (Index i = 0; i < rows; ++i) {
                    float& held = scratch.held[c * rows + i];
                    held = (b > kSumBlocks ? held : 0.0f) + out.at[c * out.ld + i];
                }
        kernel.tables(count, columns, x.from(b * kUnitColumns).at, std::size_t(x.ld), scratch.tables);
        panels.lookup(b, [&](std::size_t some, const std::uint8_t* at, std::size_t stride, Index row) {
            kernel.lookup(some, count, at, stride, columns, scratch.tables, out.from(row).at, std::size_t(out.ld),
                          !fresh);
        });
    }
    if (bits.units.blocks > kSumBlocks)
        for (Index c = 0; c < x.count; ++c)
            for (Index i = 0; i < rows; ++i) out.at[c * out.ld + i] += scratch.held[c * rows + i];
}

Index rows_at_once(const Prepared& h, Index columns) {
    const Index tall = ceil_div(kTallRows, h.inner_width());
    const Index fit = kStageBytes / (Index(sizeof(float)) * columns * h.y_units().cols());
    return std::max<Index>(1, std::min({tall, fit, h.layout.J}));
}

Scratch::Scratch(const Prepared& h, const bqq_kernels& kernels, const ProductMethod& method, Index together,
                 Arena& arena)
    : y(arena.floats(method.room(method.columns) * h.y_units().rows())) {
    if (method.kind == ProductMethod::dense) {
        tiles.emplace(h, kernels, arena);
        if (h.layout.n > kSumBlocks * kUnitColumns) held = arena.floats(method.columns * h.y_units().rows());
        return;
    }
    const Index room = method.room(method.columns), rows = together * h.inner_width() + 2 * kPanelRows;
    tables = arena.floats(method.table_bytes() / Index(sizeof(float)));
    v = arena.floats(room * rows);
    between.emplace(h, method, together, method.columns, arena);
    const Units z = h.z_units(), y_units = h.y_units();
    if (method.kind != ProductMethod::lanes) {
        const auto most = [](const Units& a) { return a.blocks > kSumBlocks ? a.rows() : 0; };
        held = arena.floats(method.columns * std::max(most(z), most(y_units)));
        return;
    }
    scale = arena.floats(2 * room);
    const Index panels = std::min(kLanePanels, std::max(z.panels, y_units.panels));
    sums = arena.take<std::uint8_t>(room * Index(method.wide->element) * panels * kPanelRows);
}

void Product::stage1(const Inputs& in, Columns columns, Index begin, Index end, Scratch& scratch) const {
    StageBuffer& between = *scratch.between;
    between.begin(end - begin, columns.count);
    const Panels panels(begin * h.inner_width(), end * h.inner_width()); // of the tall bit matrix
    const VectorsOf<float> v = method.arrange(scratch.v, panels.rows(), columns.count);
    for (Index k = 0; k < h.layout.K; ++k) {
        multiply(method, z(k), panels.top, panels.bottom, in.x(columns, k), scratch, v);
        between.put(kernels, k, begin, end, v.from(begin * h.inner_width() - panels.top * kPanelRows),
                    in.sigma(columns, k));
    }
    between.end(end - begin);
}

void Product::stage2(Index j, Index begin, Index end, const StageBuffer& between, Index slot, const Inputs& in,
                     Columns group, Scratch& scratch) const {
    const Panels panels(begin, end);
    const VectorsOf<float> rows = method.arrange(scratch.y, panels.rows(), group.count);
    multiply(method, y(j), panels.top, panels.bottom, between.w(slot), scratch, rows);
    const Index first = j * h.layout.rows + begin;
    const RowShift common{method.centred ? h.row_sum() + first : nullptr, in.mean(group)};
    store(first, end - begin, rows.from(begin - panels.top * kPanelRows), between.total(slot), common, in, group);
}

void Product::store(Index first, Index count, const VectorsOf<float>& rows, const double* shift, const RowShift& common,
                    const Inputs& in, Columns group) const {
    for (const Entry& e : h.entries_in(first, first + count)) {
        const Index k = e.col / h.layout.cols;
        const Vectors x = in.x(group, k);
        for (Index c = 0; c < group.count; ++c)
            rows.at[(e.row - first) * rows.step + c * rows.ld] +=
                e.value * x.at[(e.col - k * h.layout.cols) * x.step + c * x.ld];
    }
    const std::uint32_t* order = h.row_order();
    const Array to = part_of(out, 0, out.rows, in.start + group.first, group.count);
    store_columns(rows, shift, common, {to, first, count, order ? order + first : nullptr, begin, end}, accumulate);
}

void Product::dense(Index j, Index begin, Index end, const Inputs& in, Columns columns, Scratch& scratch) const {
    const Layout& a = h.layout;
    const Panels all(begin, end);
    const VectorsOf<float> rows = method.arrange(scratch.y, all.rows(), columns.count);
    float* const held = scratch.held;
    if (held) std::fill(held, held + rows.count * rows.ld, 0.0f);
    Index summed = 0; // elements of a row, one after the other
    for (Index k = 0; k < a.K; ++k)
        for (Index b = 0; b < a.cols_of(k); b += kDenseTileColumns) {
            const Index depth = std::min(kDenseTileColumns, a.cols_of(k) - b);
            if (summed + depth > kSumBlocks * kUnitColumns) {
                for (Index i = 0; i < rows.count * rows.ld; ++i) held[i] += rows.at[i];
                summed = 0;
            }
            const Vectors x = in.x(columns, k);
            scratch.tiles->select(j, k, b, depth);
            for_groups(all.top, all.bottom, [&](Index q, Index panels) {
                const float* tile = scratch.tiles->tile(q, panels);
                float* to = rows.from((q - all.top) * kPanelRows).at;
                kernels.gemm(std::size_t(columns.count), std::size_t(panels * kPanelRows), std::size_t(depth),
                             x.from(b).at, std::size_t(x.ld), 1, tile, std::size_t(panels * kPanelRows),
                             summed ? to : nullptr, std::size_t(rows.ld), nullptr, to, std::size_t(rows.ld));
            });
            summed += depth;
        }
    for (Index i = 0; held && i < rows.count * rows.ld; ++i) rows.at[i] += held[i];
    const double none[kDenseColumns] = {};
    store(j * a.rows + begin, end - begin, rows.from(begin - all.top * kPanelRows), none, {nullptr, none}, in, columns);
}

void Product::rows(const Inputs& in, Columns columns, Index begin, Index end, Scratch& scratch) const {
    const Index rows = h.layout.rows, j0 = begin / rows, j1 = ceil_div(end, rows);
    if (method.kind != ProductMethod::dense) stage1(in, columns, j0, j1, scratch);
    for (Index j = j0; j < j1; ++j) {
        const Index first = std::max(begin, j * rows) - j * rows, last = std::min(end, (j + 1) * rows) - j * rows;
        if (method.kind == ProductMethod::dense)
            dense(j, first, last, in, columns, scratch);
        else
            stage2(j, first, last, *scratch.between, j - j0, in, columns, scratch);
    }
}

} // namespace bqq::detail
