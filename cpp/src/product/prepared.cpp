#include "product/prepared.hpp"

#include "bits/pack.hpp"

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

// Bits [0, count) of a row of a plane to columns [at, at + count) of a row of units, which are zero before. Words are
// little-endian, as the kernels read them.
void put_bits(const Units& units, Index row, Index at, const std::uint8_t* bits, Index count, std::uint8_t* out) {
    constexpr Index word = kUnitColumns / 8;
    const Index panel = row / kPanelRows;
    const auto put = [&](Index w, std::uint32_t value) {
        std::uint8_t* to = out + units.offset(panel, w) + word * (row % kPanelRows);
        for (Index b = 0; b < word; ++b) to[b] = std::uint8_t(to[b] | value >> 8 * b);
    };
    for (Index w = 0; kUnitColumns * w < count; ++w) {
        std::uint64_t value = 0;
        for (Index b = 0; b < word && 8 * (word * w + b) < count; ++b)
            value |= std::uint64_t(bits[word * w + b]) << 8 * b;
        value <<= at % kUnitColumns;
        put(at / kUnitColumns + w, std::uint32_t(value));
        if (value >> 32) put(at / kUnitColumns + w + 1, std::uint32_t(value >> 32));
    }
}

// A view or, without a second copy of its planes, its transpose: one plane at a time.
class Source {
  public:
    Source(const View& q, bool transposed)
        : layout(transposed ? transposed_layout(q.layout) : q.layout), q_(q), transposed_(transposed),
          plane_(transposed ? std::size_t(std::max(layout.y_plane_bytes(), layout.z_plane_bytes())) : 0) {}

    const Layout layout;
    const std::uint8_t* y_plane(Index j, Index k, Index i) {
        if (!transposed_) return q_.y_plane(j, k, i);
        return turn(layout.l, layout.rows, q_.z_plane(k, j, i), q_.layout.z_row_bytes(), layout.y_row_bytes());
    }
    const std::uint8_t* z_plane(Index j, Index k, Index i) {
        if (!transposed_) return q_.z_plane(j, k, i);
        return turn(layout.cols, layout.l, q_.y_plane(k, j, i), q_.layout.y_row_bytes(), layout.z_row_bytes());
    }
    double u(Index j, Index k) const { return double(scales(j, k)[3 * layout.p]); }
    double r(Index j, Index k, Index i) const { return double(scales(j, k)[3 * i]); }
    double s(Index j, Index k, Index i) const { return double(scales(j, k)[3 * i + (transposed_ ? 2 : 1)]); }
    double t(Index j, Index k, Index i) const { return double(scales(j, k)[3 * i + (transposed_ ? 1 : 2)]); }

  private:
    const float* scales(Index j, Index k) const { return transposed_ ? q_.block_scales(k, j) : q_.block_scales(j, k); }
    const std::uint8_t* turn(Index rows, Index cols, const std::uint8_t* bits, Index row_bytes, Index out_row_bytes) {
        transpose_bits(rows, cols, bits, row_bytes, plane_.data(), out_row_bytes);
        return plane_.data();
    }

    const View& q_;
    const bool transposed_;
    std::vector<std::uint8_t> plane_;
};

void put_scales(const Source& q, double* constants, bqq_stack* stacks) {
    const Layout& a = q.layout;
    for (Index j = 0; j < a.J; ++j)
        for (Index k = 0; k < a.K; ++k, ++constants) {
            *constants = q.u(j, k);
            for (Index i = 0; i < a.p; ++i) {
                const double r = q.r(j, k, i), s = q.s(j, k, i), t = q.t(j, k, i);
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
    return make_header(Source(q, transposed).layout).size;
}

void prepare(const View& q, void* buffer, std::size_t size, bool transposed) {
    validate(q);
    Source source(q, transposed);
    const Layout& a = source.layout;
    const Prepared h = make_header(a);
    if (!buffer || !is_aligned(buffer)) bad_argument("buffer is null or not 64-byte aligned");
    if (size < h.size)
        bad_argument("buffer has " + std::to_string(size) + " bytes, expected " + std::to_string(h.size));
    auto* base = static_cast<std::uint8_t*>(buffer);
    std::memset(base, 0, h.size);
    std::memcpy(base, &h, sizeof h);
    put_scales(source, reinterpret_cast<double*>(base + h.constants), reinterpret_cast<bqq_stack*>(base + h.stacks));
    const Units z_units = h.z_units(), y_units = h.y_units();
    for (Index j = 0; j < a.J; ++j)
        for (Index k = 0; k < a.K; ++k)
            for (Index i = 0; i < a.p; ++i) {
                const std::uint8_t* z = source.z_plane(j, k, i);
                for (Index e = 0; e < a.l; ++e)
                    put_bits(z_units, (j * a.p + i) * a.l + e, 0, z + e * a.z_row_bytes(), a.cols_of(k),
                             base + h.z + k * z_units.bytes());
                const std::uint8_t* y = source.y_plane(j, k, i);
                for (Index r = 0; r < a.rows_of(j); ++r)
                    put_bits(y_units, r, (k * a.p + i) * a.l, y + r * a.y_row_bytes(), a.l,
                             base + h.y + j * y_units.bytes());
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
