#include "search/refine.hpp"

#include "rng.hpp"
#include "search/floats.hpp"
#include "search/scales.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace bqq::detail {
namespace {

constexpr Index kPool = tuning::kPoolNumbers;
constexpr Index kChunk = 32; // rows between two polls, columns of a block of coupled ones

} // namespace

Refiner::Refiner(const bqq_kernels& kernels, Index max_rows, Index max_cols, Index l, bool metric)
    : kernels_(kernels), l_(l), ld_(padded(l)), changed_(std::size_t(max_cols)), flipped_(std::size_t(ld_)),
      packed_(std::size_t((max_rows + max_cols) * ld_ / kPad)) {
    const Index m = max_rows, n = max_cols, ld = ld_, most = std::max(m, n), squares = metric ? n * padded(n) : 0;
    y_.ldc = padded(m), z_.ldc = padded(n);
    const Index room = Index(gemm_workspace(std::size_t(most), std::size_t(ld), std::size_t(l)));
    const PaddedFloats parts[] = {
        {&y_.X, m * z_.ldc},      {&z_.X, n * y_.ldc},   {&y_.bits, m * ld},
        {&z_.bits, n * ld},       {&y_.X_other, m * ld}, {&z_.X_other, n * ld},
        {&y_.gram, ld * ld},      {&z_.gram, ld * ld},   {&y_.atoms, ld * y_.ldc},
        {&z_.atoms, ld * z_.ldc}, {&y_.nu, ld},          {&z_.nu, ld},
        {&y_.gram_sums, ld},      {&z_.gram_sums, ld},   {&M_, ld * ld},
        {&pairs_, ld * ld},       {&c_, most * ld},      {&diagonal_, ld},
        {&before_, ld},           {&pool_, kPool + ld},  {&coefficients_, 4 * ld},
        {&X_sums_, ld},           {&X_dots_, ld},        {&gram_dots_, ld},
        {&workspace_, room},      {&H_, squares},        {&base_, metric ? n * ld : 0},
    };
    memory_ = zeroed(parts);
}

void Refiner::set_target(Index m, Index n, const float* W, Index ldw, double divisor, const float* H, Index ldh) {
    m_ = m, n_ = n, weighted_ = H != nullptr;
    const Index ldn = z_.ldc, ldm = y_.ldc;
    std::vector<double> h(std::size_t(n), 1.0), rows(std::size_t(m), 0.0), cols(std::size_t(n), 0.0);
    double h0 = double(n);
    if (H) {
        h0 = 0;
        for (Index b = 0; b < n; ++b) {
            std::copy(H + b * ldh, H + b * ldh + n, H_ + b * ldn);
            std::fill(H_ + b * ldn + n, H_ + (b + 1) * ldn, 0.0f);
            h0 += h[std::size_t(b)] = sum(n, H_ + b * ldn);
        }
    }
    double mean = 0;
    for (Index a = 0; a < m; ++a)
        for (Index b = 0; b < n; ++b) mean += double(W[a * ldw + b]) * h[std::size_t(b)];
    mean /= double(m) * h0;
    for (Index a = 0; a < m; ++a) {
        float* x = y_.X + a * ldn;
        for (Index b = 0; b < n; ++b) x[b] = float((double(W[a * ldw + b]) - mean) / divisor);
        std::fill(x + n, x + ldn, 0.0f);
    }
    // (X H)^T = H X^T
    const std::size_t un = std::size_t(n), um = std::size_t(m), uldn = std::size_t(ldn), uldm = std::size_t(ldm);
    if (H) {
        std::vector<float> XT(un * uldm);
        kernels_.transpose(um, un, y_.X, uldn, XT.data(), uldm);
        kernels_.gemm(un, uldm, un, H_, uldn, 1, XT.data(), uldm, nullptr, 0, nullptr, z_.X, uldm);
    } else {
        kernels_.transpose(um, un, y_.X, uldn, z_.X, uldm);
    }
    XX_ = 0;
    for (Index a = 0; a < m; ++a)
        for (Index b = 0; b < n; ++b) {
            const double v = double(z_.X[b * ldm + a]);
            rows[std::size_t(a)] += v, cols[std::size_t(b)] += v, XX_ += v * double(y_.X[a * ldn + b]);
        }
    // The rows' correlations are in the metric: for them X is X H, which the columns of Z meet as z_.X.
    if (H) kernels_.transpose(un, um, z_.X, uldm, y_.X, uldn);
    x_row_.assign(rows.begin(), rows.end());
    x_col_.assign(cols.begin(), cols.end());
    y_.count = m, z_.count = n;
    y_.size = double(m), z_.size = h0;
    y_.X_sum = x_row_.data(), z_.X_sum = x_col_.data();
}

void Refiner::set_bits(const std::uint8_t* Y, Index y_row, const std::uint8_t* Z, Index z_row) {
    std::fill(y_.bits, y_.bits + m_ * ld_, 0.0f);
    std::fill(z_.bits, z_.bits + n_ * ld_, 0.0f);
    std::fill(packed_.begin(), packed_.end(), std::uint16_t(0));
    y_.packed = packed_.data(), z_.packed = y_.packed + m_ * ld_ / kPad;
    for (Index k = 0; k < l_; ++k) {
        for (Index a = 0; a < m_; ++a) y_.bits[a * ld_ + k] = float(Y[a * y_row + k / 8] >> (k % 8) & 1);
        for (Index b = 0; b < n_; ++b) z_.bits[b * ld_ + k] = float(Z[k * z_row + b / 8] >> (b % 8) & 1);
    }
    for (const Side* side : {&y_, &z_})
        for (Index i = 0; i < side->count * ld_; ++i)
            if (side->bits[i] != 0) side->packed[i / kPad] |= std::uint16_t(1u << i % kPad);
}

void Refiner::get_bits(std::uint8_t* Y, Index y_row, std::uint8_t* Z, Index z_row) const {
    std::fill(Y, Y + m_ * y_row, std::uint8_t(0));
    std::fill(Z, Z + l_ * z_row, std::uint8_t(0));
    for (Index k = 0; k < l_; ++k) {
        for (Index a = 0; a < m_; ++a)
            if (y_.bits[a * ld_ + k] != 0) Y[a * y_row + k / 8] |= std::uint8_t(1u << (k % 8));
        for (Index b = 0; b < n_; ++b)
            if (z_.bits[b * ld_ + k] != 0) Z[k * z_row + b / 8] |= std::uint8_t(1u << (b % 8));
    }
}

// Z H Z^T and Z H 1.
void Refiner::count_in_metric() {
    const std::size_t l = std::size_t(l_), ld = std::size_t(ld_), n = std::size_t(n_), ldn = std::size_t(z_.ldc);
    kernels_.gemm(n, ld, n, H_, ldn, 1, z_.bits, ld, nullptr, 0, nullptr, base_, ld);
    kernels_.gemm(l, ld, n, z_.bits, 1, ld, base_, ld, nullptr, 0, nullptr, z_.gram, ld);
    kernels_.column_dots(n, ld, nullptr, base_, ld, nullptr, 0, z_.nu);
}

// From scratch: the pair counts of a side.
void Refiner::count_pairs(Side& side) {
    const std::size_t l = std::size_t(l_), ld = std::size_t(ld_);
    if (weighted_ && &side == &z_) return count_in_metric();
    kernels_.gemm(l, ld, std::size_t(side.count), side.bits, 1, ld, side.bits, ld, nullptr, 0, nullptr, side.gram, ld);
    for (Index k = 0; k < l_; ++k) side.nu[k] = side.gram[k * ld_ + k];
}

// From scratch: the atoms each side makes of X, atoms_ka = sum_b other_bk X_ba.
void Refiner::make_atoms() {
    const std::size_t l = std::size_t(l_), ld = std::size_t(ld_);
    for (Side* side : {&y_, &z_}) {
        const Side& other = side == &y_ ? z_ : y_;
        kernels_.gemm(l, std::size_t(side->ldc), std::size_t(other.count), other.bits, 1, ld, other.X,
                      std::size_t(side->ldc), nullptr, 0, nullptr, side->atoms, std::size_t(side->ldc));
    }
}

// What the scales and the other side need of the pair counts and bits of a side, from scratch.
void Refiner::sum_up(Side& side, const Side& other) {
    const std::size_t l = std::size_t(l_), ld = std::size_t(ld_);
    kernels_.column_dots(l, ld, nullptr, side.gram, ld, nullptr, 0, side.gram_sums);
    kernels_.column_dots(l, ld, nullptr, side.gram, ld, other.gram, ld, gram_dots_);
    clear_projections();
    kernels_.project(std::size_t(side.count), ld, side.bits, side.X_other, side.X_sum, X_sums_, X_dots_);
    set_totals(side);
}

void Refiner::clear_projections() {
    std::fill(X_sums_, X_sums_ + ld_, 0.0f);
    std::fill(X_dots_, X_dots_ + ld_, 0.0f);
}

void Refiner::set_totals(Side& side) {
    side.totals = {};
    for (Index k = 0; k < l_; ++k) {
        side.totals.X_sum += double(X_sums_[k]), side.totals.X_dot += double(X_dots_[k]);
        side.totals.nu += double(side.nu[k]), side.totals.gram += double(side.gram_sums[k]);
    }
}

// Columns in the metric: correlations are c_b = (H E^T Psi)_b, and a change of column b by flips with steps d_k M_k
// reaches every other column b' as H_bb' times that. Divided by H_bb, a column is an ordinary row of the kernel.
std::size_t Refiner::anneal_coupled(bqq_anneal problem, const std::function<void(Index)>& on_sweeps) {
    const Index ldn = z_.ldc;
    const std::size_t ld = std::size_t(ld_);
    const float T = problem.T;
    float *c = base_, *moved = c_; // moved: what a column's flips changed its own correlations by, over H_bb
    problem.rows = 1;
    std::size_t flips = 0;
    for (Index begin = 0; begin < n_; begin += kChunk) {
        const Index end = std::min(n_, begin + kChunk);
        on_sweeps(0);
        for (Index b = begin; b < end; ++b) {
            float *own = c + b * ld_, *change = moved + b * ld_;
            for (Index a = begin; a < b; ++a)
                if (changed_[std::size_t(a)]) kernels_.axpy(ld, H_[b * ldn + a], moved + a * ld_, own);
            const float h = H_[b * ldn + b];
            for (Index k = 0; k < ld_; ++k) own[k] /= h, change[k] = own[k];
            problem.bits = z_.bits + b * ld_, problem.packed = z_.packed + b * ld_ / kPad, problem.c = own,
            problem.X = z_.X + b * y_.ldc, problem.T = T / h;
            const std::size_t count = kernels_.anneal(&problem);
            for (Index k = 0; k < ld_; ++k) change[k] = own[k] - change[k];
            changed_[std::size_t(b)] = count > 0;
            flips += count;
        }
        if (end < n_)
            kernels_.gemm(std::size_t(n_ - end), ld, std::size_t(end - begin), H_ + end * ldn + begin, std::size_t(ldn),
                          1, moved + begin * ld_, ld, c + end * ld_, ld, nullptr, c + end * ld_, ld);
    }
    return flips;
}

// With atoms Phi_k = r O_k + s 1 of the other side's bits O (s is s for rows and t for columns, and t the other one)
// and N = O^T O, nu = O^T 1, size = 1^T 1, all in the metric where O are columns:
//   G_kq = r^2 N_kq + r s (nu_k + nu_q) + s^2 size
//   c_ak = <X_a - held, Phi_k> - sum_q bits_aq G_qk,         held = sum_k t O_k + u: what no bit here moves
std::size_t Refiner::sweep(Side& side, Side& other, double r, double s, double t, double T,
                           const std::function<void(Index)>& on_sweeps) {
    const std::size_t l = std::size_t(l_), ld = std::size_t(ld_), rows = std::size_t(side.count);
    // First what does not depend on the scales, which may not be there yet.
    const float most = *std::max_element(other.nu, other.nu + l_);
    if (most <= float(kMostCount) && !(weighted_ && &other == &z_))
        kernels_.gemm_counts(rows, ld, l, side.packed, ld / kPad, other.gram, ld, std::size_t(most), c_, ld,
                             workspace_);
    else
        kernels_.gemm(rows, ld, l, side.bits, ld, 1, other.gram, ld, nullptr, 0, nullptr, c_, ld);
    float *a = coefficients_, *b = a + ld, *c = b + ld, *held = c + ld;
    const double u = scales_[3], all = s * (t * other.totals.nu + u * other.size);
    for (Index k = 0; k < l_; ++k) {
        held[k] = float(r * (t * double(other.gram_sums[k]) + u * double(other.nu[k])) + all);
        a[k] = float(-r * r), b[k] = float(-r * s), c[k] = float(-r * s * double(other.nu[k]) - s * s * other.size);
    }
    for (Index k = l_; k < ld_; ++k) a[k] = b[k] = c[k] = held[k] = 0;
    kernels_.column_affine(l, ld, other.gram, a, other.nu, b, c, M_);
    for (Index k = 0; k < ld_; ++k) diagonal_[k] = k < l_ ? -M_[k * ld_ + k] : std::numeric_limits<float>::infinity();
    const bqq_atoms atoms{other.nu, held, float(r), float(s), float(other.size)};
    bqq_anneal problem{};
    problem.ld = ld, problem.M = M_, problem.diagonal = diagonal_, problem.T = float(T);
    problem.pool = pool_, problem.pool_size = std::size_t(kPool), problem.state = &state_;
    problem.atoms = other.atoms, problem.ldx = std::size_t(other.ldc);
    problem.before = before_, problem.flipped = flipped_.data();
    return weighted_ && &side == &z_ ? sweep_coupled(atoms, problem, on_sweeps)
                                     : sweep_rows(side, other, atoms, problem, on_sweeps);
}

// Rows in chunks, each through all steps while it is in the cache.
std::size_t Refiner::sweep_rows(Side& side, const Side& other, const bqq_atoms& atoms, bqq_anneal problem,
                                const std::function<void(Index)>& on_sweeps) {
    const std::size_t l = std::size_t(l_), ld = std::size_t(ld_);
    problem.pairs = pairs_;
    clear_projections();
    std::size_t flips = 0;
    for (Index begin = 0; begin < side.count; begin += kChunk) {
        on_sweeps(0);
        const std::size_t rows = problem.rows = std::size_t(std::min(kChunk, side.count - begin));
        problem.bits = side.bits + begin * ld_, problem.packed = side.packed + begin * ld_ / kPad;
        problem.c = c_ + begin * ld_, problem.X = side.X + begin * other.ldc;
        kernels_.transpose(l, rows, side.atoms + begin, std::size_t(side.ldc), side.X_other, ld);
        kernels_.correlate(&atoms, rows, ld, problem.bits, side.X_other, side.X_sum + begin, problem.c);
        flips += kernels_.anneal(&problem);
        kernels_.project(rows, ld, problem.bits, side.X_other, side.X_sum + begin, X_sums_, X_dots_);
    }
    // Few bits flip in a sweep: what depends on them is moved, not made again.
    kernels_.add_pairs(ld, pairs_, side.gram, other.gram, side.gram_sums, gram_dots_);
    for (Index k = 0; k < l_; ++k) side.nu[k] = side.gram[k * ld_ + k];
    set_totals(side);
    return flips;
}

std::size_t Refiner::sweep_coupled(const bqq_atoms& atoms, const bqq_anneal& problem,
                                   const std::function<void(Index)>& on_sweeps) {
    const std::size_t l = std::size_t(l_), ld = std::size_t(ld_), n = std::size_t(n_);
    float *a = coefficients_, *b = a + ld, *c = b + ld;
    kernels_.transpose(l, n, z_.atoms, std::size_t(z_.ldc), z_.X_other, ld);
    kernels_.correlate(&atoms, n, ld, z_.bits, nullptr, nullptr, c_);
    for (Index k = 0; k < ld_; ++k) a[k] = k < l_ ? atoms.r : 0, b[k] = k < l_ ? atoms.s : 0, c[k] = 0;
    kernels_.column_affine(n, ld, z_.X_other, a, z_.X_sum, b, c, base_);
    kernels_.gemm(n, ld, n, H_, std::size_t(z_.ldc), 1, c_, ld, base_, ld, nullptr, base_, ld);
    const std::size_t flips = anneal_coupled(problem, on_sweeps);
    count_in_metric();
    sum_up(z_, y_);
    return flips;
}

// The scales for the bits as they are, `moved` the side whose bits changed last.
void Refiner::solve(const Side& moved) {
    const double m = y_.size, h0 = z_.size;
    double grams = 0, y_with_z = 0, z_with_y = 0, both = 0;
    for (Index k = 0; k < l_; ++k) {
        grams += double(gram_dots_[k]);
        y_with_z += double(y_.nu[k]) * double(z_.gram_sums[k]);
        z_with_y += double(z_.nu[k]) * double(y_.gram_sums[k]);
        both += double(y_.nu[k]) * double(z_.nu[k]);
    }
    JointSystem& e = system_;
    e.set(0, 0, grams);
    e.set(0, 1, z_with_y);
    e.set(1, 1, h0 * y_.totals.gram);
    e.set(0, 2, y_with_z);
    e.set(2, 2, m * z_.totals.gram);
    e.set(1, 2, y_.totals.nu * z_.totals.nu);
    e.set(0, 3, both);
    e.set(1, 3, h0 * y_.totals.nu);
    e.set(2, 3, m * z_.totals.nu);
    e.set(3, 3, m * h0);
    e.b[0] = moved.totals.X_dot, e.b[1] = y_.totals.X_sum, e.b[2] = z_.totals.X_sum;
    e.XX = XX_;
    error_ = detail::solve(e, scales_);
}

double Refiner::run(const RefineOptions& options, std::uint64_t seed, Index block, Index stack,
                    const std::function<void(Index)>& on_sweeps) {
    Uniform uniform(seed, std::uint32_t(block), std::uint32_t(std::uint64_t(block) >> 32),
                    0x80000000u | std::uint32_t(stack));
    for (Index i = 0; i < kPool + ld_; ++i) pool_[i] = -std::log(1.0f - uniform());
    state_ = std::uint64_t(uniform() * 16777216.0f) << 32 | std::uint64_t(uniform() * 16777216.0f);
    // In a block of thousands each of these takes a while: it can be stopped between them.
    count_pairs(y_), on_sweeps(0), count_pairs(z_), on_sweeps(0);
    make_atoms();
    for (Side* side : {&z_, &y_}) {
        on_sweeps(0);
        const Side& other = side == &y_ ? z_ : y_;
        kernels_.transpose(std::size_t(l_), std::size_t(side->count), side->atoms, std::size_t(side->ldc),
                           side->X_other, std::size_t(ld_));
        sum_up(*side, other);
    }
    solve(y_);
    initial_error_ = error_;
    const double size = double(m_) * double(n_), bits = double(l_) * double(m_ + n_);
    const AnnealSchedule schedule(options);
    AnnealState state{};
    for (state.begin(schedule, error_ / size); state.phase != AnnealPhase::done;) {
        const bool counts = state.phase == AnnealPhase::anneal;
        const double T = state.temperature();
        if (state.recount_due()) make_atoms(), on_sweeps(0); // pair counts are whole numbers and need it not
        std::size_t flips = sweep(y_, z_, scales_[0], scales_[1], scales_[2], T, on_sweeps);
        solve(y_);
        flips += sweep(z_, y_, scales_[0], scales_[2], scales_[1], T, on_sweeps);
        solve(z_);
        state.advance(schedule, double(flips), bits, error_ / size);
        if (counts) on_sweeps(1);
    }
    return error_;
}

} // namespace bqq::detail
