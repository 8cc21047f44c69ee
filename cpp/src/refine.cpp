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
    : kernels_(kernels), l_(l), ldx_(padded(max_cols)), max_L_(padded(l * max_stacks)) {
    const Index m = max_rows, n = max_cols, L = max_L_;
    struct Want {
        float** at;
        Index count;
    } wants[] = {
        {&X_, m * ldx_},           {&y_.bits, m * L},
        {&z_.bits, n * L},         {&y_.X_other, m * L},
        {&z_.X_other, n * L},      {&y_.gram, L * L},
        {&z_.gram, L * L},         {&G_, L * L},
        {&diagonal_, L},           {&base_, std::max(m, n) * L},
        {&c_, std::max(m, n) * L}, {&zeros_, L},
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

void Refiner::set_target(Index m, Index n, const float* W, Index ldw) {
    m_ = m, n_ = n;
    double sum = 0;
    for (Index a = 0; a < m; ++a)
        for (Index b = 0; b < n; ++b) sum += double(W[a * ldw + b]);
    const double mean = sum / (double(m) * double(n));
    std::vector<double> rows(std::size_t(m), 0.0), cols(std::size_t(n), 0.0);
    XX_ = 0;
    for (Index a = 0; a < m; ++a) {
        float* x = X_ + a * ldx_;
        for (Index b = 0; b < n; ++b) {
            const double v = double(W[a * ldw + b]) - mean;
            x[b] = float(v);
            rows[std::size_t(a)] += v, cols[std::size_t(b)] += v, XX_ += v * v;
        }
        std::fill(x + n, x + ldx_, 0.0f);
    }
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

void Refiner::randomise(Index p, std::uint64_t seed, Index block) {
    p_ = p, L_ = p * l_, ld_ = padded(L_);
    Uniform uniform(seed, std::uint32_t(block), std::uint32_t(std::uint64_t(block) >> 32), 0x80000000u);
    for (Side* side : {&y_, &z_})
        for (Index a = 0; a < side->count; ++a)
            for (Index k = 0; k < ld_; ++k) side->bits[a * ld_ + k] = k < L_ && uniform() < 0.5f ? 1.0f : 0.0f;
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

// X times the other side's bits: row a, column k = sum over b of X_ab other_bk.
void Refiner::project(Side& side, const Side& other, bool rows) {
    kernels_.gemm(std::size_t(side.count), std::size_t(ld_), std::size_t(other.count), X_, rows ? std::size_t(ldx_) : 1,
                  rows ? 1 : std::size_t(ldx_), other.bits, std::size_t(ld_), nullptr, 0, nullptr, side.X_other,
                  std::size_t(ld_));
}

void Refiner::count_pairs(Side& side) {
    kernels_.gemm(std::size_t(L_), std::size_t(ld_), std::size_t(side.count), side.bits, 1, std::size_t(ld_), side.bits,
                  std::size_t(ld_), nullptr, 0, nullptr, side.gram, std::size_t(ld_));
}

// With atoms Phi_k = r O_k + s 1 of the other side O (s is s for rows and t for columns, and t the other one):
//   G_kq = r_k r_q N_kq + r_k s_q N_kk + s_k r_q N_qq + size s_k s_q
//   c_ak = <X_a - t-part - u, Phi_k> - sum_q bits_aq G_qk
std::size_t Refiner::sweep(Side& side, const Side& other, bool rows, double T, int inner) {
    project(side, other, rows);
    std::vector<double> r(std::size_t(L_), 0.0), s(r), t(r), held(r);
    for (Index k = 0; k < L_; ++k) {
        const double* scale = scales_.data() + 3 * (k / l_);
        r[std::size_t(k)] = scale[0], s[std::size_t(k)] = scale[rows ? 1 : 2], t[std::size_t(k)] = scale[rows ? 2 : 1];
    }
    const double u = scales_[std::size_t(3 * p_)], size = double(other.count);
    const float* N = other.gram;
    // The part of What the bits of this side do not move: sum_k t_k O_k + u, against each atom.
    double fixed_sum = u * size;
    for (Index k = 0; k < L_; ++k) fixed_sum += t[std::size_t(k)] * double(N[k * ld_ + k]);
    for (Index k = 0; k < L_; ++k) {
        double dot = u * double(N[k * ld_ + k]);
        for (Index q = 0; q < L_; ++q) dot += t[std::size_t(q)] * double(N[k * ld_ + q]);
        held[std::size_t(k)] = r[std::size_t(k)] * dot + s[std::size_t(k)] * fixed_sum;
    }
    std::fill(diagonal_, diagonal_ + ld_, std::numeric_limits<float>::infinity());
    for (Index k = 0; k < L_; ++k) {
        const double rk = r[std::size_t(k)], sk = s[std::size_t(k)], nk = double(N[k * ld_ + k]);
        for (Index q = 0; q < L_; ++q) {
            const double rq = r[std::size_t(q)], sq = s[std::size_t(q)];
            G_[k * ld_ + q] = -float(rk * rq * double(N[k * ld_ + q]) + rk * sq * nk +
                                     sk * rq * double(N[q * ld_ + q]) + size * sk * sq);
        }
        std::fill(G_ + k * ld_ + L_, G_ + (k + 1) * ld_, 0.0f);
        diagonal_[k] = -G_[k * ld_ + k];
    }
    for (Index a = 0; a < side.count; ++a) {
        const double sum = double(side.X_sum[a]);
        for (Index k = 0; k < L_; ++k)
            base_[a * ld_ + k] = float(r[std::size_t(k)] * double(side.X_other[a * ld_ + k]) + s[std::size_t(k)] * sum -
                                       held[std::size_t(k)]);
        std::fill(base_ + a * ld_ + L_, base_ + (a + 1) * ld_, 0.0f);
    }
    // G_ holds -G, so that this product subtracts; the kernel wants G.
    kernels_.gemm(std::size_t(side.count), std::size_t(ld_), std::size_t(L_), side.bits, std::size_t(ld_), 1, G_,
                  std::size_t(ld_), base_, std::size_t(ld_), nullptr, c_, std::size_t(ld_));
    for (Index k = 0; k < L_ * ld_; ++k) G_[k] = -G_[k];
    std::size_t flips = 0;
    for (Index a = 0; a < side.count; ++a)
        for (int visit = 0; visit < inner; ++visit) {
            state_ = state_ * 6364136223846793005u + 1442695040888963407u;
            const float* e = T > 0 ? pool_ + Index(state_ >> 40) % kPool : zeros_;
            flips += kernels_.anneal(std::size_t(ld_), side.bits + a * ld_, c_ + a * ld_, G_, diagonal_, float(T), e);
        }
    count_pairs(side);
    return flips;
}

// The scales for the bits as they are, from the pair counts and from X times the bits of the side that was held.
void Refiner::solve() {
    std::vector<double> XYZ(std::size_t(p_), 0.0), XY(std::size_t(p_), 0.0), XZ(std::size_t(p_), 0.0);
    const auto each = [&](const Side& side, auto&& f) {
        for (Index a = 0; a < side.count; ++a)
            for (Index i = 0; i < p_; ++i) f(a, i, side.bits + a * ld_ + i * l_);
    };
    const auto outer = [&](const Side& side, std::vector<double>& sums) {
        each(side, [&](Index a, Index i, const float* bits) {
            float count = 0;
            for (Index k = 0; k < l_; ++k) count += bits[k];
            sums[std::size_t(i)] += double(count) * double(side.X_sum[a]);
        });
    };
    outer(y_, XY);
    outer(z_, XZ);
    each(*moved_, [&](Index a, Index i, const float* bits) {
        const float* x = moved_->X_other + a * ld_ + i * l_;
        float dot = 0;
        for (Index k = 0; k < l_; ++k) dot += bits[k] * x[k];
        XYZ[std::size_t(i)] += double(dot);
    });
    error_ = solve_scales(GramSums{m_, n_, p_, l_, ld_, y_.gram, z_.gram, XYZ.data(), XY.data(), XZ.data(), XX_},
                          scales_.data());
}

double Refiner::run(const RefineOptions& options, std::uint64_t seed, Index block,
                    const std::function<void()>& on_sweep) {
    Uniform uniform(seed, std::uint32_t(block), std::uint32_t(std::uint64_t(block) >> 32), 0x80000001u);
    for (Index i = 0; i < kPool + max_L_; ++i) pool_[i] = -std::log(1.0f - uniform());
    state_ = seed ^ (std::uint64_t(block) << 32) ^ 0x9E3779B97F4A7C15u;
    count_pairs(y_);
    count_pairs(z_);
    project(y_, z_, true);
    moved_ = &y_;
    solve();
    const double unit = error_ / (double(m_) * double(n_));
    const double ratio =
        options.sweeps > 1 ? std::log(options.T_end / options.T_begin) / double(options.sweeps - 1) : 0;
    const auto pass = [&](double T, int inner) {
        std::size_t flips = 0;
        for (const bool rows : {true, false}) {
            Side& side = rows ? y_ : z_;
            flips += sweep(side, rows ? z_ : y_, rows, T, inner);
            moved_ = &side;
            solve();
        }
        on_sweep();
        return flips;
    };
    for (Index i = 0; i < options.sweeps; ++i)
        pass(unit * options.T_begin * std::exp(ratio * double(i)), options.inner);
    for (int i = 0; i < 50 && pass(0, 4); ++i) {
    }
    return error_;
}

} // namespace bqq::detail
