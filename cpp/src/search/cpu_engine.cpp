#include "search/cpu_engine.hpp"

#include "bits/pack.hpp"

#include <algorithm>
#include <cmath>

namespace bqq::detail {
namespace {

Spread spread_of(const std::vector<float>& x) {
    double sum = 0, low = x[0], high = x[0];
    for (const float v : x) sum += v, low = std::min(low, double(v)), high = std::max(high, double(v));
    const double mean = sum / double(x.size());
    double squares = 0;
    for (const float v : x) squares += (v - mean) * (v - mean);
    return {mean, std::sqrt(squares / double(x.size())), high - low};
}

} // namespace

CpuEngine::CpuEngine(Matrix& q, Index j, Index k, std::vector<float> scales, const Target& target, std::uint64_t seed,
                     Worker& worker, const OnSteps& on_steps)
    : q_(q), j_(j), k_(k), m_(q.layout.rows_of(j)), n_(q.layout.cols_of(k)), block_(j * q.layout.K + k),
      target_(target), seed_(seed), worker_(worker), on_steps_(on_steps), scales_(std::move(scales)),
      residual_(std::size_t(m_ * n_)) {
    sizes_.assign(1, double(m_) * double(n_));
}

std::vector<Spread> CpuEngine::begin_stack(Index i) {
    const Layout& a = q_.layout;
    block_residual(BlockProducts(q_.view(), j_, k_, i), scales_.data(), target_.W, target_.ldw, residual_.data());
    const std::size_t at = std::size_t(3 * i); // u moves on behind a stack of zeros
    scales_.resize(at + 4);
    std::swap(scales_[at], scales_[at + 3]);
    stack_ = i;
    Y_ = q_.Y.data() + (block_ * a.p + i) * a.y_plane_bytes();
    Z_ = q_.Z.data() + (block_ * a.p + i) * a.z_plane_bytes();
    spread_ = spread_of(residual_);
    if (i == 0) scales_[3] = float(spread_.mean);
    if (spread_.range != 0 && worker_.refiner)
        worker_.refiner->set_target(m_, n_, residual_.data(), n_, spread_.deviation,
                                    target_.H ? target_.H->row(0) : nullptr, target_.H ? target_.H->ld : 0);
    return {spread_};
}

void CpuEngine::descend(const Selection&, const AmfdOptions& options, Index trial) {
    const Layout& a = q_.layout;
    Amfd& amfd = worker_.amfd;
    amfd.set_target(m_, n_, residual_.data(), n_, spread_.mean, options.divisor(spread_));
    amfd.start(options, seed_, block_, trial);
    amfd.run(options, on_steps_);
    pack_bits(m_, a.l, amfd.y(), amfd.ldl(), Y_, a.y_row_bytes());
    pack_bits(a.l, n_, amfd.z(), amfd.ldn(), Z_, a.z_row_bytes());
}

std::vector<AnnealErrors> CpuEngine::anneal(const Selection&, const RefineOptions& options, Index trial) {
    const Layout& a = q_.layout;
    Refiner& refiner = *worker_.refiner;
    refiner.set_bits(Y_, a.y_row_bytes(), Z_, a.z_row_bytes());
    const double last = refiner.run(options, seed_, block_, trial, on_steps_);
    refiner.get_bits(Y_, a.y_row_bytes(), Z_, a.z_row_bytes());
    return {{refiner.initial_error(), last}};
}

std::vector<double> CpuEngine::errors(const Selection&) {
    if (target_.H)
        return {solve_scales_in_metric(worker_.kernels, q_.view(), {j_, k_, k_ + 1, stack_ + 1}, target_.W, target_.ldw,
                                       *target_.H, scales_.data())};
    return {solve_scales(BlockProducts(q_.view(), j_, k_, stack_ + 1), target_.W, target_.ldw, scales_.data())};
}

void CpuEngine::exchange(const Selection&, Best what) {
    if (what == Best::keep) {
        best_Y_.assign(Y_, Y_ + q_.layout.y_plane_bytes());
        best_Z_.assign(Z_, Z_ + q_.layout.z_plane_bytes());
        best_scales_ = scales_;
    } else {
        std::copy(best_Y_.begin(), best_Y_.end(), Y_);
        std::copy(best_Z_.begin(), best_Z_.end(), Z_);
        scales_ = best_scales_;
    }
}

} // namespace bqq::detail
