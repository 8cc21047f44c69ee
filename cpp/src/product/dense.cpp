// W_hat_ab = sum_i r_i popcount(Y_a & Z_b) + (s_i popcount(Y_a) + t_i popcount(Z_b)) + u, by words of 32 inner
// elements. Y lies that way in its units; the columns of Z are made of its units, 16 rows at a time, and shifted to
// match.
#include "product/dense.hpp"

namespace bqq::detail {
namespace {

constexpr Index kWord = kUnitColumns;

// words[b] = bits [shift, shift + 32) of the 48 bits halves[0][b], halves[1][b], halves[2][b], under a mask.
void join(const std::uint16_t (*halves)[DenseTiles::kColumns], int shift, std::uint32_t mask, std::uint32_t* words) {
    for (Index b = 0; b < DenseTiles::kColumns; ++b) {
        const std::uint32_t low = std::uint32_t(halves[0][b]) | std::uint32_t(halves[1][b]) << 16;
        const std::uint32_t high = std::uint32_t(halves[2][b]) << 16;
        words[b] = (low >> shift | high << (16 - shift)) & mask;
    }
}

// counts[b] += the bits of words[b], a form that vectorises on every machine.
void add_popcounts(const std::uint32_t* words, std::uint32_t* counts) {
    for (Index b = 0; b < DenseTiles::kColumns; ++b) {
        std::uint32_t x = words[b];
        x -= x >> 1 & 0x55555555;
        x = (x & 0x33333333) + (x >> 2 & 0x33333333);
        x = (x + (x >> 4)) & 0x0F0F0F0F;
        x += x >> 8;
        counts[b] += (x + (x >> 16)) & 0x3F;
    }
}

Index most_segments(const Layout& a) { return a.p * (a.l / kWord + 2); }

} // namespace

DenseTiles::DenseTiles(const Prepared& h, const bqq_kernels& kernel, Arena& arena) : h_(h), kernel_(kernel) {
    const Index p = h.layout.p, segments = most_segments(h.layout);
    first_ = arena.take<std::uint32_t>(p + 1);
    block_ = arena.take<std::uint32_t>(segments);
    mask_ = arena.take<std::uint32_t>(segments);
    z_ = arena.take<std::uint32_t>(kColumns * segments);
    r_ = arena.floats(p);
    s_ = arena.floats(p);
    halves_ = reinterpret_cast<std::uint16_t (*)[kColumns]>(
        arena.take<std::uint16_t>(kColumns * (p * h.layout.l / kPanelRows + 8)));
    column_ = arena.floats(kColumns);
    row_ = arena.floats(h.y_units().rows());
    tile_ = arena.floats(kColumns * kRows);
}

void DenseTiles::find_segments(Index k) {
    const Index p = h_.layout.p, l = h_.layout.l;
    std::size_t g = 0;
    for (Index i = 0; i < p; ++i) {
        first_[i] = std::uint32_t(g);
        const Index begin = (k * p + i) * l, end = begin + l;
        for (Index word = begin / kWord; word * kWord < end; ++word, ++g) {
            const Index low = std::max(begin - word * kWord, Index(0)), high = std::min(end - word * kWord, kWord);
            block_[g] = std::uint32_t(word);
            mask_[g] = (high == kWord ? ~0u : (1u << high) - 1u) & ~0u << low;
        }
    }
    first_[p] = std::uint32_t(g);
}

void DenseTiles::select(Index j, Index k, Index first, Index count) {
    const Index p = h_.layout.p, l = h_.layout.l;
    find_segments(k);
    const std::uint8_t* bits = h_.z_bits(k);
    const bqq_stack* scales = h_.block(j, k);
    const Units zu = h_.z_units();
    double u = h_.constant(j, k);
    count_ = count;
    // Bit `start` of the halves is the block's first row of Z; the halves begin 32 to 47 rows before.
    const Index top = j * p * l / kPanelRows, used = ceil_div((j + 1) * p * l, kPanelRows) - top;
    const Index start = j * p * l % kPanelRows + kWord;
    for (Index q = 0; q < used; ++q)
        for (Index c = 0; c < count; c += kWord)
            kernel_.unit_columns(bits + zu.offset(top + q, (first + c) / kWord), halves_[q + kWord / kPanelRows] + c);
    double column[kColumns] = {};
    for (Index i = 0; i < p; ++i) {
        const double r = double(scales[i].r), s = double(scales[i].shift) - r / 2, t = double(scales[i].total) - r / 2;
        r_[i] = scales[i].r, s_[i] = float(s);
        u -= double(l) / 2 * (s + r / 2 + t);
        std::uint32_t counts[kColumns] = {};
        for (std::size_t g = first_[i]; g < first_[i + 1]; ++g) {
            // Inner element e of the stack is bit (k p + i) l + e of a row of Y; 16 rows before the block's serve those
            // that the mask hides.
            const Index bit = Index(block_[g]) * kWord - k * p * l + start;
            std::uint32_t* z = z_ + Index(g) * kColumns;
            join(halves_ + bit / kPanelRows, int(bit % kPanelRows), mask_[g], z);
            add_popcounts(z, counts);
        }
        for (Index b = 0; b < kColumns; ++b) column[b] += t * counts[b];
    }
    for (Index b = 0; b < kColumns; ++b) column_[b] = float(column[b] + u);
    if (j == j_ && k == k_) return;
    j_ = j, k_ = k;
    const Units yu = h_.y_units();
    for (Index q = 0; q < yu.panels; q += kMaxPanels) {
        const Index panels = yu.width(q);
        bqq_dense rows = common(q, panels);
        rows.columns = 1, rows.z = mask_, rows.ldz = 1, rows.r = s_;
        rows.column = &zero_, rows.out = row_ + q * kPanelRows;
        kernel_.dense(&rows);
    }
}

bqq_dense DenseTiles::common(Index panel, Index panels) const {
    const Units yu = h_.y_units();
    bqq_dense t{};
    t.panels = std::size_t(panels), t.stacks = std::size_t(h_.layout.p), t.ldo = std::size_t(panels * kPanelRows);
    t.first = first_, t.block = block_;
    t.bits = h_.y_bits(j_) + yu.offset(panel, 0), t.stride = std::size_t(yu.width(panel) * kUnitBytes);
    return t;
}

const float* DenseTiles::tile(Index panel, Index panels) {
    bqq_dense tile = common(panel, panels);
    tile.columns = std::size_t(count_), tile.z = z_, tile.ldz = std::size_t(kColumns), tile.r = r_;
    tile.row = row_ + panel * kPanelRows, tile.column = column_, tile.out = tile_;
    kernel_.dense(&tile);
    return tile_;
}

} // namespace bqq::detail
