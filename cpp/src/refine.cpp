#include "refine.hpp"

#include "rng.hpp"
#include "scales.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace bqq::detail {
namespace {

constexpr Index kPool =
    8192; // exponential numbers; every row of every visit reads a window of them from a place of its own

Index padded(Index count) { return (count + BQQ_PAD - 1) / BQQ_PAD * BQQ_PAD; }

} // namespace

Refiner::Refiner(const bqq_kernels& kernels, Index max_rows, Index max_cols, Index l, Index max_stacks)
    : kernels_(kernels), l_(l), max_L_(padded(l * max_stacks)), flipped_(std::size_t(max_L_)) {
    const Index m = max_rows, n = max_cols, L = max_L_, most = std::max(m, n);
    y_.ldc = padded(m), z_.ldc = padded(n);
    struct Want {
        float** at;
        Index count;
    } wants[] = {
        {&y_.X, m * z_.ldc},     {&z_.X, n * y_.ldc},     {&y_.bits, m * L},  {&z_.bits, n * L},
        {&y_.X_other, m * L},    {&z_.X_other, n * L},    {&y_.gram, L * L},  {&z_.gram, L * L},
        {&y_.atoms, L * y_.ldc}, {&z_.atoms, L * z_.ldc}, {&M_, L * L},       {&with_new_, L * L},
        {&with_old_, L * L},     {&turned_, L * L},       {&base_, most * L}, {&c_, most * L},
        {&diagonal_, L},         {&coefficients_, 5 * L}, {&before_, L},      {&zeros_, L},
        {&pool_, kPool + L},
    };
    Index size = BQQ_PAD;
    for (const Want& want : wants) size += padded(want.count);
    memory_.reset(new float[std::size_t(size)]());
    float* at = memory_.get();
    at += (64 - reinterpret_cast<std::uintptr_t>(at) % 64) % 64 / sizeof(float);
    for (const Want& want : wants) {
        *want.at = at;
        at += padded(want.count);
    }
}

void Refiner::set_target(Index m, Index n, const float* W, Index ldw, double divisor) {
    m_ = m, n_ = n;
    double sum = 0;
    for (Index a = 0; a < m; ++a)
        for (Index b = 0; b < n; ++b) sum += double(W[a * ldw + b]);
    const double mean = sum / (double(m) * double(n));
    std::vector<double> rows(std::size_t(m), 0.0), cols(std::size_t(n), 0.0);
    XX_ = 0;
    for (Index a = 0; a < m; ++a) {
        float* x = y_.X + a * z_.ldc;
        for (Index b = 0; b < n; ++b) {
            const double v = (double(W[a * ldw + b]) - mean) / divisor;
            x[b] = float(v);
            rows[std::size_t(a)] += v, cols[std::size_t(b)] += v, XX_ += v * v;
        }
        std::fill(x + n, x + z_.ldc, 0.0f);
    }
    kernels_.transpose(std::size_t(m), std::size_t(n), y_.X, std::size_t(z_.ldc), z_.X, std::size_t(y_.ldc));
    x_row_.assign(rows.begin(), rows.end());
    x_col_.assign(cols.begin(), cols.end());
    y_.count = m, z_.count = n;
    y_.X_sum = x_row_.data(), z_.X_sum = x_col_.data();
}

void Refiner::set_bits(Index p, const std::uint8_t* Y, Index y_plane, Index y_row, const std::uint8_t* Z, Index z_plane,
                       Index z_row) {
    p_ = p, L_ = p * l_, ld_ = padded(L_);
    std::fill(y_.bits, y_.bits + m_ * ld_, 0.0f);
    std::fill(z_.bits, z_.bits + n_ * ld_, 0.0f);
    for (Index i = 0; i < p; ++i)
        for (Index c = 0; c < l_; ++c) {
            for (Index a = 0; a < m_; ++a)
                y_.bits[a * ld_ + i * l_ + c] = float(Y[i * y_plane + a * y_row + c / 8] >> (c % 8) & 1);
            for (Index b = 0; b < n_; ++b)
                z_.bits[b * ld_ + i * l_ + c] = float(Z[i * z_plane + c * z_row + b / 8] >> (b % 8) & 1);
        }
    scales_.assign(std::size_t(3 * p + 1), 0.0);
}

void Refiner::get_bits(std::uint8_t* Y, Index y_plane, Index y_row, std::uint8_t* Z, Index z_plane, Index z_row) const {
    for (Index i = 0; i < p_; ++i) {
        std::fill(Y + i * y_plane, Y + i * y_plane + m_ * y_row, std::uint8_t(0));
        std::fill(Z + i * z_plane, Z + i * z_plane + l_ * z_row, std::uint8_t(0));
        for (Index c = 0; c < l_; ++c) {
            for (Index a = 0; a < m_; ++a)
                if (y_.bits[a * ld_ + i * l_ + c] != 0)
                    Y[i * y_plane + a * y_row + c / 8] |= std::uint8_t(1u << (c % 8));
            for (Index b = 0; b < n_; ++b)
                if (z_.bits[b * ld_ + i * l_ + c] != 0)
                    Z[i * z_plane + c * z_row + b / 8] |= std::uint8_t(1u << (b % 8));
        }
    }
}

// From scratch: the pair counts of this side and the atoms the other side makes of X, atoms_ka = sum_b other_bk X_ba.
void Refiner::recount(Side& side, const Side& other) {
    const std::size_t L = std::size_t(L_), ld = std::size_t(ld_);
    kernels_.gemm(L, ld, std::size_t(side.count), side.bits, 1, ld, side.bits, ld, nullptr, 0, nullptr, side.gram, ld);
    kernels_.gemm(L, std::size_t(side.ldc), std::size_t(other.count), other.bits, 1, ld, other.X, std::size_t(side.ldc),
                  nullptr, 0, nullptr, side.atoms, std::size_t(side.ldc));
}

// With atoms Phi_k = r_k O_k + s_k 1 of the other side's bits O (s is s for rows and t for columns, and t the other
// one):
//   G_kq = r_k r_q N_kq + r_k s_q N_kk + s_k r_q N_qq + size s_k s_q,     N = O^T O
//   c_ak = <X_a - held, Phi_k> - sum_q bits_aq G_qk,                      held = sum_k t_k O_k + u: what no bit here
//   moves
std::size_t Refiner::sweep(Side& side, Side& other, bool rows, double T, const std::function<void(Index)>& on_sweeps) {
    const std::size_t L = std::size_t(L_), ld = std::size_t(ld_);
    kernels_.transpose(L, std::size_t(side.count), side.atoms, std::size_t(side.ldc), side.X_other, ld);
    float *r = coefficients_, *s = r + ld, *t = s + ld, *count = t + ld, *held = count + ld;
    for (Index k = 0; k < ld_; ++k) {
        const double* scale = k < L_ ? scales_.data() + 3 * (k / l_) : nullptr;
        r[k] = scale ? float(scale[0]) : 0, s[k] = scale ? float(scale[rows ? 1 : 2]) : 0;
        t[k] = scale ? float(scale[rows ? 2 : 1]) : 0, count[k] = scale ? other.gram[k * ld_ + k] : 0;
    }
    const float size = float(other.count), u = float(scales_[std::size_t(3 * p_)]);
    kernels_.column_dots(L, ld, t, other.gram, ld, nullptr, 0, held);
    double sum = double(u) * double(size);
    for (Index k = 0; k < L_; ++k) sum += double(t[k]) * double(count[k]);
    for (Index k = 0; k < ld_; ++k) held[k] = -(r[k] * (held[k] + u * count[k]) + s[k] * float(sum));
    for (Index k = 0; k < L_; ++k) {
        const float *N = other.gram + k * ld_, rk = r[k], with_r = s[k], with_s = rk * count[k] + size * s[k];
        float* M = M_ + k * ld_;
        for (Index q = 0; q < ld_; ++q) M[q] = -(r[q] * (rk * N[q] + with_r * count[q]) + with_s * s[q]);
        diagonal_[k] = -M[k];
    }
    std::fill(diagonal_ + L_, diagonal_ + ld_, std::numeric_limits<float>::infinity());
    kernels_.column_affine(std::size_t(side.count), ld, side.X_other, r, side.X_sum, s, held, base_);
    kernels_.gemm(std::size_t(side.count), ld, L, side.bits, ld, 1, M_, ld, base_, ld, nullptr, c_, ld);
    // Few bits flip in a sweep: what depends on them is moved, not made again. A row going from `before` to `after` by
    // flips d_k changes the pair counts by sum_k d_k (e_k after^T + before e_k^T).
    std::fill(with_new_, with_new_ + L_ * ld_, 0.0f);
    std::fill(with_old_, with_old_ + L_ * ld_, 0.0f);
    std::size_t flips = 0;
    for (Index a = 0; a < side.count; ++a) {
        if (a % 32 == 0) on_sweeps(0);
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        const float* e = T > 0 ? pool_ + Index(state_ >> 40) % kPool : zeros_;
        float* bits = side.bits + a * ld_;
        std::copy(bits, bits + ld_, before_);
        const std::size_t count = kernels_.anneal(ld, bits, c_ + a * ld_, M_, diagonal_, float(T), e, flipped_.data());
        for (std::size_t i = 0; i < count; ++i) {
            const Index k = Index(flipped_[i]);
            const float d = bits[k] - before_[k];
            kernels_.axpy(ld, d, bits, with_new_ + k * ld_);
            kernels_.axpy(ld, d, before_, with_old_ + k * ld_);
            kernels_.axpy(std::size_t(other.ldc), d, side.X + a * other.ldc, other.atoms + k * other.ldc);
        }
        flips += count;
    }
    kernels_.transpose(L, L, with_old_, ld, turned_, ld);
    kernels_.axpy(L * ld, 1, with_new_, side.gram);
    kernels_.axpy(L * ld, 1, turned_, side.gram);
    return flips;
}

// The scales for the bits as they are. `moved` is the side swept last: its X_other fits the bits of the side that was
// held.
void Refiner::solve(const Side& moved) {
    const std::size_t ld = std::size_t(ld_), l = std::size_t(l_);
    float *dots = coefficients_, *cy = dots + ld, *cz = cy + ld;
    for (Index k = 0; k < L_; ++k) cy[k] = y_.gram[k * ld_ + k], cz[k] = z_.gram[k * ld_ + k];
    JointSystem e(p_);
    const Index u = 3 * p_;
    // Calls f(j, sum of dots over stack j).
    const auto by_stack = [&](auto&& f) {
        for (Index j = 0; j < p_; ++j) {
            double sum = 0;
            for (Index k = j * l_; k < (j + 1) * l_; ++k) sum += double(dots[k]);
            f(j, sum);
        }
    };
    for (Index i = 0; i < p_; ++i) {
        const float *NY = y_.gram + i * l_ * ld_, *NZ = z_.gram + i * l_ * ld_;
        kernels_.column_dots(l, ld, nullptr, NY, ld, NZ, ld, dots);
        by_stack([&](Index j, double sum) { e.set(3 * i, 3 * j, sum); });
        kernels_.column_dots(l, ld, cz + i * l_, NY, ld, nullptr, 0, dots);
        by_stack([&](Index j, double sum) { e.set(3 * i, 3 * j + 1, sum); });
        kernels_.column_dots(l, ld, cy + i * l_, NZ, ld, nullptr, 0, dots);
        by_stack([&](Index j, double sum) { e.set(3 * i, 3 * j + 2, sum); });
        kernels_.column_dots(l, ld, nullptr, NY, ld, nullptr, 0, dots);
        by_stack([&](Index j, double sum) { e.set(3 * i + 1, 3 * j + 1, double(n_) * sum); });
        kernels_.column_dots(l, ld, nullptr, NZ, ld, nullptr, 0, dots);
        by_stack([&](Index j, double sum) { e.set(3 * i + 2, 3 * j + 2, double(m_) * sum); });
        double total_y = 0, total_z = 0, both = 0;
        for (Index k = i * l_; k < (i + 1) * l_; ++k)
            total_y += double(cy[k]), total_z += double(cz[k]), both += double(cy[k]) * double(cz[k]);
        e.set(3 * i, u, both);
        e.set(3 * i + 1, u, double(n_) * total_y);
        e.set(3 * i + 2, u, double(m_) * total_z);
    }
    for (Index i = 0; i < p_; ++i)
        for (Index j = 0; j < p_; ++j)
            e.set(3 * i + 1, 3 * j + 2,
                  e.A[std::size_t((3 * i + 1) * e.size + u)] / double(n_) * e.A[std::size_t((3 * j + 2) * e.size + u)] /
                      double(m_));
    e.set(u, u, double(m_) * double(n_));
    kernels_.column_dots(std::size_t(moved.count), ld, nullptr, moved.bits, ld, moved.X_other, ld, dots);
    by_stack([&](Index j, double sum) { e.b[std::size_t(3 * j)] = sum; });
    kernels_.column_dots(std::size_t(m_), ld, y_.X_sum, y_.bits, ld, nullptr, 0, dots);
    by_stack([&](Index j, double sum) { e.b[std::size_t(3 * j + 1)] = sum; });
    kernels_.column_dots(std::size_t(n_), ld, z_.X_sum, z_.bits, ld, nullptr, 0, dots);
    by_stack([&](Index j, double sum) { e.b[std::size_t(3 * j + 2)] = sum; });
    e.XX = XX_;
    error_ = detail::solve(e, scales_.data());
}

double Refiner::run(const RefineOptions& options, std::uint64_t seed, Index block, Index stack,
                    const std::function<void(Index)>& on_sweeps) {
    Uniform uniform(seed, std::uint32_t(block), std::uint32_t(std::uint64_t(block) >> 32),
                    0x80000000u | std::uint32_t(stack));
    for (Index i = 0; i < kPool + max_L_; ++i) pool_[i] = -std::log(1.0f - uniform());
    state_ = std::uint64_t(uniform() * 16777216.0f) << 32 | std::uint64_t(uniform() * 16777216.0f);
    const auto restart = [&] {
        recount(y_, z_);
        recount(z_, y_);
    };
    restart();
    kernels_.transpose(std::size_t(L_), std::size_t(m_), y_.atoms, std::size_t(y_.ldc), y_.X_other, std::size_t(ld_));
    solve(y_);
    const double unit = error_ / (double(m_) * double(n_));
    const double ratio =
        options.sweeps > 1 ? std::log(options.T_end / options.T_begin) / double(options.sweeps - 1) : 0;
    const auto pass = [&](double T) {
        std::size_t flips = sweep(y_, z_, true, T, on_sweeps);
        solve(y_);
        flips += sweep(z_, y_, false, T, on_sweeps);
        solve(z_);
        return flips;
    };
    for (Index i = 0; i < options.sweeps; ++i) {
        if (i % 64 == 63) restart(); // moved sums gather rounding
        pass(unit * options.T_begin * std::exp(ratio * double(i)));
        on_sweeps(1);
    }
    restart();
    for (int i = 0; i < 200 && pass(0); ++i) {
    }
    return error_;
}

} // namespace bqq::detail
