#include "search/amfd.hpp"

#include "rng.hpp"
#include "search/floats.hpp"

#include <algorithm>
#include <cmath>

namespace bqq::detail {
namespace {

// A power-of-two row length would map the rows of a tile column to the same cache sets: make it an odd number of lines.
// Short rows meet in a set seldom enough.
Index odd_lines(Index count) {
    const Index lines = ceil_div(count, kPad);
    return (lines >= 8 && lines % 2 == 0 ? lines + 1 : lines) * kPad;
}

// Columns of a product: what lies behind them in a padded row is nobody's.
std::size_t padded_cols(Index count) { return std::size_t(padded(count)); }

// The largest |a f + b| of look-ahead points f = x + zeta (x - x_old), x and x_old in [0, 1].
float most_at_look_ahead(double a, double b, double zeta) {
    return float(std::max(std::abs(a * (1 + zeta) + b), std::abs(b - a * zeta)));
}

} // namespace

Amfd::Amfd(const bqq_kernels& kernels, Index max_rows, Index max_cols, Index l)
    : kernels_(kernels), l_(l), ldl_(odd_lines(l)), ldn_(odd_lines(max_cols)) {
    const Index m = max_rows;
    const auto room = [](Index M, Index N, Index K) {
        return Index(gemm_workspace(std::size_t(M), std::size_t(N), std::size_t(K)));
    };
    const Index most = std::max({room(m, ldn_, l_), room(m, ldl_, max_cols), room(l_, ldn_, m)});
    const PaddedFloats parts[] = {
        {&X_, m * ldn_},     {&R_, m * ldn_},  {&y_, m * ldl_},    {&y_old_, m * ldl_}, {&z_, l * ldn_},
        {&z_old_, l * ldn_}, {&zf_, l * ldn_}, {&psi_, m * ldl_},  {&phi_, l * ldn_},   {&phiT_, max_cols * ldl_},
        {&gy_, m * ldl_},    {&gz_, l * ldn_}, {&row_m_, m},       {&bias_, m},         {&col_l_, ldl_},
        {&col_sq_l_, ldl_},  {&row_l_, ldl_},  {&row_sq_l_, ldl_}, {&col_n_, ldn_},     {&Py_, ldl_},
        {&Qy_, ldl_},        {&Pz_, ldl_},     {&Qz_, ldl_},       {&x_row_, m},        {&x_col_, ldn_},
        {&workspace_, most},
    };
    memory_ = zeroed(parts);
}

void Amfd::set_target(Index m, Index n, const float* W, Index ldw, double mean, double divisor) {
    m_ = m, n_ = n;
    const double scale = 1 / divisor;
    std::fill(x_col_, x_col_ + ldn_, 0.0f);
    std::vector<double> columns(std::size_t(n), 0.0);
    x_sum_ = 0;
    for (Index a = 0; a < m; ++a) {
        float* x = X_ + a * ldn_;
        double row = 0;
        for (Index b = 0; b < n; ++b) {
            x[b] = float((double(W[a * ldw + b]) - mean) * scale);
            row += double(x[b]);
            columns[std::size_t(b)] += double(x[b]);
        }
        std::fill(x + n, x + ldn_, 0.0f);
        x_row_[a] = float(row);
        x_sum_ += row;
    }
    for (Index b = 0; b < n; ++b) x_col_[b] = float(columns[std::size_t(b)]);
}

void Amfd::start(const AmfdOptions& options, std::uint64_t seed, Index block, Index stack) {
    // Element order of the streams is row-major over the logical shape: padding and leading dimensions do not matter.
    const auto fill = [&](Index rows, Index cols, Index ld, float* x, float* old, std::uint32_t which) {
        Uniform uniform(seed, std::uint32_t(block), std::uint32_t(std::uint64_t(block) >> 32),
                        std::uint32_t(stack) << 1 | which);
        const float eta = float(options.eta);
        for (Index i = 0; i < rows; ++i) {
            for (Index j = 0; j < cols; ++j) {
                const float v = uniform();
                old[i * ld + j] = v;
                x[i * ld + j] = v - eta * (v - 0.5f);
            }
            std::fill(old + i * ld + cols, old + (i + 1) * ld, 0.0f);
            std::fill(x + i * ld + cols, x + (i + 1) * ld, 0.0f);
        }
    };
    fill(m_, l_, ldl_, y_, y_old_, 0);
    fill(l_, n_, ldn_, z_, z_old_, 1);
    const bqq_sums of_y{row_m_, nullptr, col_l_, col_sq_l_};
    const bqq_sums of_z{row_l_, row_sq_l_, col_n_, nullptr};
    kernels_.extrapolate(std::size_t(m_), std::size_t(l_), std::size_t(ldl_), y_, y_, 0, 1, 0, nullptr, psi_, &of_y);
    kernels_.extrapolate(std::size_t(l_), std::size_t(n_), std::size_t(ldn_), z_, z_, 0, 1, 0, nullptr, phi_, &of_z);
    solve_scales_of_means();
}

void Amfd::solve_scales_of_means() {
    MeanFieldSums q{};
    double products[2];
    kernels_.gemm_dots_rounded(std::size_t(m_), padded_cols(n_), std::size_t(l_), y_, std::size_t(ldl_), 1, 1, z_,
                               std::size_t(ldn_), 1, X_, std::size_t(ldn_), products, workspace_);
    q.m = double(m_), q.n = double(n_);
    q.yz_yz = products[0], q.X_yz = products[1];
    q.X_sy = dot(m_, x_row_, row_m_), q.X_sz = dot(n_, x_col_, col_n_), q.X = x_sum_;
    q.sy_yz = kernels_.bilinear(std::size_t(m_), std::size_t(l_), std::size_t(ldl_), row_m_, y_, row_l_);
    q.sz_yz = kernels_.bilinear(std::size_t(l_), std::size_t(n_), std::size_t(ldn_), col_l_, z_, col_n_);
    q.sy_sy = dot(m_, row_m_, row_m_), q.sz_sz = dot(n_, col_n_, col_n_);
    q.cy = sum(l_, col_l_), q.cz = sum(l_, row_l_);
    q.cy2 = sum(l_, col_sq_l_), q.cz2 = sum(l_, row_sq_l_);
    q.cy_cz = dot(l_, col_l_, row_l_), q.cy2_cz2 = dot(l_, col_sq_l_, row_sq_l_);
    q.cy2_cz = dot(l_, col_sq_l_, row_l_), q.cy_cz2 = dot(l_, col_l_, row_sq_l_);
    solve(mean_field_system(q), a_);
    soft_ = 4 * ((q.cy - q.cy2) + (q.cz - q.cz2)) / (double(l_) * double(m_ + n_));
}

float Amfd::step(const AmfdOptions& options, double T) {
    const std::size_t m = std::size_t(m_), n = std::size_t(n_), l = std::size_t(l_), ldl = std::size_t(ldl_),
                      ldn = std::size_t(ldn_);
    const double r = a_[0], s = a_[1], t = a_[2], u = a_[3];
    const float zeta = float(options.zeta), eta = float(options.eta);
    float *cy = col_l_, *cy2 = col_sq_l_, *cz = row_l_, *cz2 = row_sq_l_;
    const bqq_sums of_y{row_m_, nullptr, cy, cy2}, of_z{cz, cz2, col_n_, nullptr};

    // The affine parts ride in the operands: psi = -(r y + t), phi = r z + s, so R = X - u - s rowsum(y) + psi z.
    kernels_.extrapolate(m, l, ldl, y_, y_old_, zeta, float(-r), float(-t), nullptr, psi_, &of_y);
    kernels_.extrapolate(l, n, ldn, z_, z_old_, zeta, float(r), float(s), zf_, phi_, &of_z);
    for (Index a = 0; a < m_; ++a) bias_[a] = float(-u - s * double(row_m_[a]));
    const float psi = most_at_look_ahead(r, t, zeta), phi = most_at_look_ahead(r, s, zeta);
    kernels_.gemm_rounded(m, padded_cols(n_), l, psi_, ldl, 1, psi, zf_, ldn, 1 + zeta, X_, ldn, bias_, R_, ldn,
                          workspace_);
    const float R = kernels_.largest ? kernels_.largest(m, n, ldn, R_) : 0;
    kernels_.transpose(l, n, phi_, ldn, phiT_, ldl);
    kernels_.gemm_rounded(m, padded_cols(l_), n, R_, ldn, 1, R, phiT_, ldl, phi, nullptr, 0, nullptr, gy_, ldl,
                          workspace_);
    kernels_.gemm_rounded(l, padded_cols(n_), m, psi_, 1, ldl, psi, R_, ldn, R, nullptr, 0, nullptr, gz_, ldn,
                          workspace_);

    // dE/dy = -2 R phi^T + (1-2y) (r^2 cz2 + 2rs cz + n s^2) + (r^2 + 2rt)(cz - cz2), and the same for z with y, s and
    // t swapped.
    for (std::size_t k = 0; k < l; ++k) {
        Py_[k] = float(r * r * cz2[k] + 2 * r * s * cz[k] + double(n_) * s * s);
        Qy_[k] = float((r * r + 2 * r * t) * (double(cz[k]) - cz2[k]));
        Pz_[k] = float(r * r * cy2[k] + 2 * r * t * cy[k] + double(m_) * t * t);
        Qz_[k] = float((r * r + 2 * r * s) * (double(cy[k]) - cy2[k]));
    }
    const float heat = float(T);
    const float moved_y = kernels_.update(m, l, ldl, y_, y_old_, gy_, -2, zeta, eta, heat, Py_, Qy_, 0, &of_y);
    const float moved_z = kernels_.update(l, n, ldn, z_, z_old_, gz_, 2, zeta, eta, heat, Pz_, Qz_, 1, &of_z);
    solve_scales_of_means();
    return std::max(moved_y, moved_z);
}

void Amfd::run(const AmfdOptions& options, const std::function<void(Index)>& on_steps) {
    const DescentSchedule schedule(options);
    int still = 0;
    for (Index i = 0; i < options.steps; ++i) {
        const float moved = step(options, schedule.temperature(i));
        const bool settled = schedule.settled(moved, soft_, still);
        on_steps(settled ? options.steps - i : 1);
        if (settled) break;
    }
}

} // namespace bqq::detail
