#include "product/prepared.hpp"

#include "bqq/prepared.hpp"

#include <cstring>

namespace bqq {
namespace detail {
namespace {

constexpr std::uint64_t kMagic = 0x70657250'71714221; // "!Bqq" "Prep"
constexpr std::uint64_t kUnitOrder = 2;

Prepared make_header(const Layout& a) {
    Prepared h{};
    h.magic = kMagic;
    h.order = kUnitOrder;
    h.layout = a;
    h.constants = aligned(sizeof(Prepared));
    h.stacks = h.constants + aligned(std::size_t(a.blocks()) * sizeof(double));
    h.z = h.stacks + aligned(std::size_t(a.blocks() * a.p) * sizeof(bqq_stack));
    h.y = h.z + std::uint64_t(a.K * h.z_units().bytes());
    h.size = h.y + std::uint64_t(a.J * h.y_units().bytes());
    return h;
}

// Row `row` of a bit matrix, `count` bytes of it, into its units. The units are zero before.
void put_row(const Units& units, Index row, const std::uint8_t* bytes, Index count, std::uint8_t* out) {
    constexpr Index word = kUnitColumns / 8;
    const Index panel = row / kPanelRows;
    for (Index b = 0; word * b < count; ++b)
        std::memcpy(out + units.offset(panel, b) + word * (row % kPanelRows), bytes + word * b,
                    std::size_t(std::min(word, count - word * b)));
}

// Bits [at, at + count) of `to` |= the first `count` bits of `from`, whose last byte is padded with zeros.
void append_bits(const std::uint8_t* from, Index count, std::uint8_t* to, Index at) {
    const int shift = int(at % 8);
    to += at / 8;
    for (Index b = 0; 8 * b < count; ++b) {
        const unsigned wide = unsigned(from[b]) << shift;
        to[b] = std::uint8_t(to[b] | wide);
        if (wide >> 8) to[b + 1] = std::uint8_t(to[b + 1] | wide >> 8);
    }
}

void put_scales(const View& q, double* constants, bqq_stack* stacks) {
    const Layout& a = q.layout;
    for (Index j = 0; j < a.J; ++j)
        for (Index k = 0; k < a.K; ++k, ++constants) {
            const float* scales = q.block_scales(j, k);
            *constants = double(scales[3 * a.p]); // u
            for (Index i = 0; i < a.p; ++i) {
                const double r = scales[3 * i], s = scales[3 * i + 1], t = scales[3 * i + 2];
                *constants += double(a.l) / 2 * (s + r / 2 + t);
                *stacks++ = {float(r), float(s + r / 2), float(r / 2 + t)};
            }
        }
}

} // namespace

const Prepared& prepared_of(const void* prepared) {
    const auto* h = static_cast<const Prepared*>(prepared);
    if (!h) bad_argument("prepared is a null pointer");
    if (h->magic != kMagic) bad_argument("prepared does not point at a prepared matrix");
    if (h->order != kUnitOrder)
        bad_argument("the prepared matrix has layout " + std::to_string(h->order) + ", this version reads layout " +
                     std::to_string(kUnitOrder));
    return *h;
}

} // namespace detail

using namespace detail;

std::size_t prepared_size(const View& q, bool transposed) {
    validate(q.layout);
    return make_header(transposed ? transposed_layout(q.layout) : q.layout).size;
}

void prepare(const View& q, void* buffer, std::size_t size, bool transposed) {
    if (transposed) return prepare(transpose(q).view(), buffer, size);
    validate(q);
    const Layout& a = q.layout;
    const Prepared h = make_header(a);
    if (!buffer || reinterpret_cast<std::uintptr_t>(buffer) % kAlign)
        bad_argument("buffer is null or not 64-byte aligned");
    if (size < h.size)
        bad_argument("buffer has " + std::to_string(size) + " bytes, expected " + std::to_string(h.size));
    auto* base = static_cast<std::uint8_t*>(buffer);
    std::memset(base, 0, h.size);
    std::memcpy(base, &h, sizeof h);
    put_scales(q, reinterpret_cast<double*>(base + h.constants), reinterpret_cast<bqq_stack*>(base + h.stacks));
    const Units z_units = h.z_units(), y_units = h.y_units();
    for (Index k = 0; k < a.K; ++k)
        for (Index j = 0; j < a.J; ++j)
            for (Index i = 0; i < a.p; ++i)
                for (Index e = 0; e < a.l; ++e)
                    put_row(z_units, (j * a.p + i) * a.l + e, q.z_plane(j, k, i) + e * a.z_row_bytes(), a.z_row_bytes(),
                            base + h.z + k * z_units.bytes());
    std::vector<std::uint8_t> row(std::size_t(y_units.cols() / 8));
    for (Index j = 0; j < a.J; ++j)
        for (Index r = 0; r < a.rows_of(j); ++r) {
            std::fill(row.begin(), row.end(), std::uint8_t(0));
            for (Index k = 0; k < a.K; ++k)
                for (Index i = 0; i < a.p; ++i)
                    append_bits(q.y_plane(j, k, i) + r * a.y_row_bytes(), a.l, row.data(), (k * a.p + i) * a.l);
            put_row(y_units, r, row.data(), Index(row.size()), base + h.y + j * y_units.bytes());
        }
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
