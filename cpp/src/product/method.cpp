#include "product/method.hpp"

#include "product/tuning.hpp"

#include <cmath>

namespace bqq::detail {
namespace {

// What a product does for one column.
struct Work {
    double bits, inputs, ends; // looked up; of which tables are built; read and written
    explicit Work(const Layout& a) {
        const Units z(a.J * a.p * a.l, a.cols), y(a.rows, a.K * a.p * a.l);
        const double tall = double(ceil_div(z.rows(), kTallRows)); // of stage 1, which share tables
        bits = double(a.K * z.rows()) * double(z.cols()) + double(a.J * y.rows()) * double(y.cols());
        inputs = double(a.K * z.cols()) * tall + double(a.J * y.cols());
        ends = double(a.m + a.n);
    }
};

Index lane_room(const bqq_lanes& wide, Index count) {
    const Index lanes = Index(wide.lanes), most = Index(wide.most), rest = count % most;
    Index last = rest ? lanes : 0;
    while (last < rest) last *= 2;
    return count - rest + last;
}

} // namespace

std::array<double, 4> ProductMethod::effort(const bqq_kernels& kernels, const Layout& a, Precision precision, Kind kind,
                                            Index batch) {
    const Work work(a);
    const bqq_lanes& wide = kernels.lanes[int(precision)];
    const double columns = double(batch), ends = columns * work.ends;
    const auto in_lanes = [&](Index room, double more) -> std::array<double, 4> {
        return {double(room) * work.bits, double(room) * work.inputs, ends, more * work.bits};
    };
    switch (kind) {
    case tables:
        return in_lanes(batch, batch > 1 ? double(ceil_div(batch, 4) * 4 - batch) : 0);
    case lanes:
        return in_lanes(lane_room(wide, batch), double(ceil_div(batch, Index(wide.most))));
    case tiles:
        return in_lanes(ceil_div(batch, 16) * 16, columns);
    default: {
        const double area = double(a.m) * double(a.n), made = area * double(a.p * ceil_div(batch, kDenseColumns));
        return {made * double(ceil_div(a.l, kUnitColumns) * kUnitColumns), made, ends, area * columns};
    }
    }
}

const bqq_cost& ProductMethod::cost(const bqq_kernels& kernels, Precision precision, Kind kind) {
    const bqq_costs& c = kernels.costs;
    const bqq_cost* all[] = {c.tables, c.lanes, c.tiles, c.dense};
    return all[kind][int(precision)];
}

namespace {

ProductMethod::Kind choose(const bqq_kernels& kernels, const Layout& a, Precision precision, Index batch) {
    ProductMethod::Kind best = ProductMethod::tables;
    double least = HUGE_VAL;
    for (const auto kind : {ProductMethod::tables, ProductMethod::lanes, ProductMethod::tiles, ProductMethod::dense}) {
        if (!ProductMethod::possible(kernels, a, precision, kind)) continue;
        const bqq_cost& cost = ProductMethod::cost(kernels, precision, kind);
        const auto effort = ProductMethod::effort(kernels, a, precision, kind, batch);
        const double time =
            effort[0] * cost.bit + effort[1] * cost.input + effort[2] * cost.end + effort[3] * cost.more;
        if (time < least) least = time, best = kind;
    }
    return best;
}

} // namespace

bool ProductMethod::possible(const bqq_kernels& kernels, const Layout& a, Precision precision, Kind kind) {
    const bool tall = std::min(a.m, a.J * a.p * a.l) >= kRoundedRows; // in both stages
    if (kind == tables) return tall || precision != Precision::float32 || kernels.unit_order == kWords;
    if (kind == tiles) return tall && kernels.tile[int(precision)].lookup;
    return kind == lanes || (kernels.dense && precision == Precision::float32);
}

ProductMethod::ProductMethod(const bqq_kernels& kernels, const Layout& a, Precision precision, Index batch)
    : ProductMethod(kernels, choose(kernels, a, precision, batch), precision, batch) {}

ProductMethod::ProductMethod(const bqq_kernels& kernels, Kind kind, Precision precision, Index batch)
    : kind(kind), kernel(&(kind == tiles ? kernels.tile : kernels.product)[int(precision)]),
      wide(&kernels.lanes[int(precision)]), centred(precision != Precision::float32) {
    const Index most[] = {kMaxVectors, Index(wide->most), kTileVectors, kDenseColumns};
    columns = std::clamp<Index>(batch, 1, most[kind]);
}

Index ProductMethod::room(Index count) const { return kind == lanes ? lane_room(*wide, count) : count; }

Index ProductMethod::blocks(Index count) const {
    if (kind == lanes)
        return std::clamp<Index>(Index(kLaneTables) / (Index(wide->entries) * room(count) * Index(wide->element)), 1,
                                 Index(wide->chunk));
    return kind == tiles ? kTileBlocks : kTableBlocks[std::min<Index>(count, 3) - 1];
}

Index ProductMethod::table_bytes() const {
    if (kind == lanes) return std::max(Index(kLaneTables), Index(wide->entries * wide->most * wide->element));
    return kind == tiles ? ceil_div(columns, 16) * kTileBlocks * kTileBytes : kTablesBytes;
}

} // namespace bqq::detail
