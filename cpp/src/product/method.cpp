#include "product/method.hpp"

#include "product/tuning.hpp"

namespace bqq::detail {
namespace {

// Whether dense tiles are faster than tables.
bool dense_pays(const bqq_rates& rates, const Layout& a, Index batch) {
    const double p = double(a.p), columns = double(batch), turns = double(ceil_div(batch, kDenseColumns));
    const double table = (1 + rates.table_rows / double(a.rows)) / rates.table;
    return a.J >= kDenseBlockRows && columns * (p * table - 1 / rates.gemm) > turns * p * double(a.l) / rates.count;
}

ProductMethod::Kind choose(const bqq_kernels& kernels, const Layout& a, Precision precision, Index batch) {
    const int class_ = int(precision);
    const bool tall = std::min(a.m, a.J * a.p * a.l) >= kTilesRows; // in both stages
    const bool dense = kernels.dense && precision == Precision::float32 && dense_pays(kernels.rates, a, batch);
    if (dense) return ProductMethod::dense;
    if (kernels.tile[class_].lookup && batch >= kTilesFrom[class_] && tall) return ProductMethod::tiles;
    return batch >= Index(kernels.lanes[class_].from) ? ProductMethod::lanes : ProductMethod::tables;
}

} // namespace

ProductMethod::ProductMethod(const bqq_kernels& kernels, const Prepared& h, Precision precision, Index batch)
    : kind(choose(kernels, h.layout, precision, batch)),
      kernel(&(kind == tiles ? kernels.tile : kernels.product)[int(precision)]), wide(&kernels.lanes[int(precision)]),
      centred(precision != Precision::float32) {
    const Index most[] = {kMaxVectors, Index(wide->most), kTileVectors, kDenseColumns};
    columns = std::clamp<Index>(batch, 1, most[kind]);
}

Index ProductMethod::room(Index count) const {
    if (kind != lanes) return count;
    const Index lanes = Index(wide->lanes), most = Index(wide->most), rest = count % most;
    Index last = rest ? lanes : 0;
    while (last < rest) last *= 2;
    return count - rest + last;
}

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
