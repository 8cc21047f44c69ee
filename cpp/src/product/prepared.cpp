#include "product/prepared.hpp"

#include "bits/pack.hpp"
#include "bqq/prepared.hpp"
#include "kernels/dispatch.hpp"

#include <bitset>
#include <cstring>
#include <vector>

namespace bqq {
namespace detail {
namespace {

constexpr std::uint64_t kMagic = 0x70657250'71714221; // "!Bqq" "Prep"
// Counts up when the layout changes; the order of the bytes of a unit goes with the instruction set.
std::uint64_t unit_layout() { return 8 + std::uint64_t(kernels().unit_order); }

Prepared make_header(const View& q, bool transposed) {
    const Layout a = transposed ? transposed_layout(q.layout) : q.layout;
    Prepared h{};
    h.magic = kMagic;
    h.order = unit_layout();
    h.layout = a;
    h.constants = aligned(sizeof(Prepared));
    h.stacks = h.constants + aligned(std::size_t(a.blocks()) * sizeof(double));
    h.row_sums = h.stacks + aligned(std::size_t(a.blocks() * a.p) * sizeof(bqq_stack));
    h.z = h.row_sums + aligned(std::size_t(a.m) * sizeof(float));
    h.y = h.z + std::uint64_t(a.K * h.z_units().bytes());
    h.size = aligned(h.y + std::uint64_t(a.J * h.y_units().bytes()));
    const auto take = [&](Index count, std::size_t size) {
        const std::uint64_t at = h.size;
        h.size += aligned(std::size_t(count) * size);
        return at;
    };
    if (transposed ? q.col_order : q.row_order) h.row_orders = take(a.m, sizeof(std::uint32_t));
    if (transposed ? q.row_order : q.col_order) h.col_orders = take(a.n, sizeof(std::uint32_t));
    h.entry_count = q.entry_count;
    h.entries = take(q.entry_count, sizeof(Entry));
    return h;
}

// Bits [column, column + count) of row `row` of a bit matrix, whose units are `out`, |= those of `bits`, which are
// padded with zeros to whole bytes.
void put_bits(const Units& units, Index row, Index column, const std::uint8_t* bits, Index count, std::uint8_t* out) {
    constexpr Index kBytes = kUnitColumns / 8;
    const bqq_unit_order order = kernels().unit_order;
    const Index panel = row / kPanelRows, step = units.width(panel) * kUnitBytes;
    out += units.offset(panel, 0);
    const auto put = [&](Index byte, unsigned value) {
        out[byte / kBytes * step + unit_byte(order, int(row % kPanelRows), int(byte % kBytes))] |= std::uint8_t(value);
    };
    const int shift = int(column % 8);
    for (Index b = 0; 8 * b < count; ++b) {
        const unsigned value = unsigned(bits[b]) << shift;
        put(column / 8 + b, value & 0xFF);
        if (value >> 8) put(column / 8 + b + 1, value >> 8);
    }
}

// What is prepared: q or its transpose, which has Y' = Z^T, Z' = Y^T and s, t exchanged.
struct Source {
    const View& q;
    bool transposed;
    Layout layout;
    std::vector<std::uint8_t> plane; // one of the transpose
    std::vector<Entry> exchanged;    // its entries

    Source(const View& q, bool transposed)
        : q(q), transposed(transposed), layout(transposed ? transposed_layout(q.layout) : q.layout) {
        if (!transposed) return;
        plane.resize(std::size_t(std::max(layout.y_plane_bytes(), layout.z_plane_bytes())));
        exchanged = transposed_entries(q);
    }
    const std::uint32_t* row_order() const { return transposed ? q.col_order : q.row_order; }
    const std::uint32_t* col_order() const { return transposed ? q.row_order : q.col_order; }
    EntryRange entries() const {
        const Entry* first = transposed ? exchanged.data() : q.entries;
        return {first, first + q.entry_count};
    }
    const float* scales(Index j, Index k) const { return transposed ? q.block_scales(k, j) : q.block_scales(j, k); }
    const std::uint8_t* y_plane(Index j, Index k, Index i) {
        if (!transposed) return q.y_plane(j, k, i);
        transpose_bits(layout.l, layout.rows, q.z_plane(k, j, i), q.layout.z_row_bytes(), plane.data(),
                       layout.y_row_bytes());
        return plane.data();
    }
    const std::uint8_t* z_plane(Index j, Index k, Index i) {
        if (!transposed) return q.z_plane(j, k, i);
        transpose_bits(layout.cols, layout.l, q.y_plane(k, j, i), q.layout.y_row_bytes(), plane.data(),
                       layout.z_row_bytes());
        return plane.data();
    }
};

void put_extras(const Source& from, const Prepared& h, std::uint8_t* base) {
    if (from.row_order())
        std::copy_n(from.row_order(), h.layout.m, reinterpret_cast<std::uint32_t*>(base + h.row_orders));
    if (from.col_order())
        std::copy_n(from.col_order(), h.layout.n, reinterpret_cast<std::uint32_t*>(base + h.col_orders));
    std::copy(from.entries().begin(), from.entries().end(), reinterpret_cast<Entry*>(base + h.entries));
}

void put_scales(const Source& from, double* constants, bqq_stack* stacks) {
    const Layout& a = from.layout;
    for (Index j = 0; j < a.J; ++j)
        for (Index k = 0; k < a.K; ++k, ++constants) {
            const float* scales = from.scales(j, k);
            *constants = double(scales[3 * a.p]); // u
            for (Index i = 0; i < a.p; ++i) {
                const double r = scales[3 * i], s = scales[3 * i + (from.transposed ? 2 : 1)],
                             t = scales[3 * i + (from.transposed ? 1 : 2)];
                *constants += double(a.l) / 2 * (s + r / 2 + t);
                *stacks++ = {float(r), float(s + r / 2), float(r / 2 + t)};
            }
        }
}

Index ones(const std::uint8_t* bits, Index bytes) {
    Index sum = 0;
    for (Index b = 0; b < bytes; ++b) sum += Index(std::bitset<8>(bits[b]).count());
    return sum;
}

// sums[a] += sum_b of what stack i adds to W_hat_ab in block (j, k), from exact counts; for i = 0 the block's u
// besides.
void add_row_sums(Source& from, Index j, Index k, Index i, double* sums) {
    const Layout& a = from.layout;
    const float* scales = from.scales(j, k);
    const double r = scales[3 * i], s = scales[3 * i + (from.transposed ? 2 : 1)],
                 t = scales[3 * i + (from.transposed ? 1 : 2)], width = double(a.cols_of(k));
    const Index bytes = a.y_row_bytes();
    std::vector<Index> of_byte(std::size_t(256 * bytes)); // sums of the counts of Z that a byte of a row of Y selects
    const std::uint8_t* z = from.z_plane(j, k, i);
    Index all = 0;
    for (Index e = 0; e < a.l; ++e, z += a.z_row_bytes()) {
        const Index count = ones(z, a.z_row_bytes());
        all += count;
        Index* table = of_byte.data() + 256 * (e / 8);
        for (std::size_t byte = 0; byte < 256; ++byte)
            if (byte >> (e % 8) & 1) table[byte] += count;
    }
    const std::uint8_t* y = from.y_plane(j, k, i);
    for (Index row = 0; row < a.rows_of(j); ++row, y += bytes) {
        Index selected = 0;
        for (Index b = 0; b < bytes; ++b) selected += of_byte[std::size_t(256 * b + y[b])];
        sums[row] += r * double(selected) + s * width * double(ones(y, bytes)) + t * double(all) +
                     (i == 0 ? double(scales[3 * a.p]) * width : 0);
    }
}

} // namespace

const Prepared& prepared_of(const void* prepared) {
    const auto* h = static_cast<const Prepared*>(prepared);
    if (!h) bad_argument("prepared is a null pointer");
    if (h->magic != kMagic) bad_argument("prepared does not point at a prepared matrix");
    if (h->order != unit_layout())
        bad_argument("the prepared matrix has layout " + std::to_string(h->order) + ", this version reads layout " +
                     std::to_string(unit_layout()) + " under the instruction set " + isa_in_use() +
                     "; prepare it again");
    return *h;
}

} // namespace detail

using namespace detail;

std::size_t prepared_size(const View& q, bool transposed) {
    validate(q.layout);
    return make_header(q, transposed).size;
}

void prepare(const View& q, void* buffer, std::size_t size, bool transposed) {
    validate(q);
    Source from(q, transposed);
    const Layout& a = from.layout;
    const Prepared h = make_header(q, transposed);
    if (!buffer || !is_aligned(buffer)) bad_argument("buffer is null or not 64-byte aligned");
    if (size < h.size)
        bad_argument("buffer has " + std::to_string(size) + " bytes, expected " + std::to_string(h.size));
    auto* base = static_cast<std::uint8_t*>(buffer);
    std::memset(base, 0, h.size);
    std::memcpy(base, &h, sizeof h);
    put_scales(from, reinterpret_cast<double*>(base + h.constants), reinterpret_cast<bqq_stack*>(base + h.stacks));
    const Units z_units = h.z_units(), y_units = h.y_units();
    std::vector<double> sums(static_cast<std::size_t>(a.J * a.rows));
    for (Index j = 0; j < a.J; ++j)
        for (Index k = 0; k < a.K; ++k)
            for (Index i = 0; i < a.p; ++i) {
                add_row_sums(from, j, k, i, sums.data() + j * a.rows);
                std::uint8_t* to = base + h.z + k * z_units.bytes();
                const std::uint8_t* plane = from.z_plane(j, k, i);
                for (Index e = 0; e < a.l; ++e, plane += a.z_row_bytes())
                    put_bits(z_units, (j * a.p + i) * a.l + e, 0, plane, a.cols, to);
                to = base + h.y + j * y_units.bytes();
                plane = from.y_plane(j, k, i);
                for (Index r = 0; r < a.rows_of(j); ++r, plane += a.y_row_bytes())
                    put_bits(y_units, r, (k * a.p + i) * a.l, plane, a.l, to);
            }
    for (const Entry& e : from.entries()) sums[e.row] += double(e.value);
    std::copy_n(sums.data(), a.m, reinterpret_cast<float*>(base + h.row_sums));
    put_extras(from, h, base);
}

struct PreparedMatrix::Impl {
    std::size_t size;
    AlignedMemory memory;
};

PreparedMatrix::PreparedMatrix(const View& q, bool transposed) {
    const std::size_t size = prepared_size(q, transposed);
    impl_ = std::make_unique<Impl>(Impl{size, AlignedMemory(size)});
    prepare(q, impl_->memory.data(), size, transposed);
}
PreparedMatrix::PreparedMatrix(PreparedMatrix&&) noexcept = default;
PreparedMatrix& PreparedMatrix::operator=(PreparedMatrix&&) noexcept = default;
PreparedMatrix::~PreparedMatrix() = default;

const Layout& PreparedMatrix::layout() const { return prepared_of(data()).layout; }
std::size_t PreparedMatrix::nbytes() const { return impl_->size; }
const void* PreparedMatrix::data() const { return impl_->memory.data(); }
void PreparedMatrix::matmul(const ConstArray& X, const Array& out, const MatmulOptions& options) const {
    bqq::matmul(data(), X, out, options);
}

} // namespace bqq
