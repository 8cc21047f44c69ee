#include "search/scales.hpp"

#include "linalg.hpp"

#include <algorithm>

namespace bqq::detail {

void solve(const MeanFieldSystem& e, double a[4]) { solve_semidefinite(4, &e.A[0][0], e.b, a); }

namespace {

// The Gram matrix of the 3p+1 scales of a block (r_0 s_0 t_0 ... u), in integers, and the products with a target.
class BlockSystem {
  public:
    BlockSystem(const BlockProducts& block, const float* W, Index ldw)
        : block_(block), W_(W), ldw_(ldw), m_(block.rows()), n_(block.cols()), p_(block.stacks()), count_(3 * p_ + 1),
          gram_(std::size_t(count_ * count_), 0), products_(std::size_t(p_ * n_)), rho_(std::size_t(p_), 0),
          zeta_(std::size_t(p_ * n_)), e_(count_) {
        block.column_sums(zeta_.data());
        for (Index a = 0; a < m_; ++a)
            for (Index b = 0; b < n_; ++b) mean_ += double(W[a * ldw + b]);
        mean_ /= double(m_) * double(n_);
        for (Index a = 0; a < m_; ++a) add_row(a);
        add_columns();
        mirror();
        std::copy(gram_.begin(), gram_.end(), e_.A.begin());
    }

    void solve(float* scales) const {
        std::vector<double> x(static_cast<std::size_t>(count_));
        detail::solve(e_, x.data());
        for (Index i = 0; i < count_; ++i) scales[i] = float(x[std::size_t(i)] + (i == u() ? mean_ : 0));
    }

    double squared_error(const float* scales) {
        std::vector<double> row(static_cast<std::size_t>(n_));
        double error = 0;
        for (Index a = 0; a < m_; ++a) {
            block_.row(a, products_.data(), rho_.data());
            reconstruct_row(scales, p_, n_, products_.data(), rho_.data(), zeta_.data(), row.data());
            for (Index b = 0; b < n_; ++b) {
                const double e = double(W_[a * ldw_ + b]) - row[std::size_t(b)];
                error += e * e;
            }
        }
        return error;
    }

  private:
    static Index r(Index i) { return 3 * i; }
    static Index s(Index i) { return 3 * i + 1; }
    static Index t(Index i) { return 3 * i + 2; }
    Index u() const { return 3 * p_; }
    std::int64_t& G(Index i, Index j) { return gram_[std::size_t(i * count_ + j)]; }
    double& rhs(Index i) { return e_.b[std::size_t(i)]; }
    double X(Index a, Index b) const { return double(W_[a * ldw_ + b]) - mean_; }

    void add_row(Index a) {
        block_.row(a, products_.data(), rho_.data());
        double row_sum = 0;
        for (Index b = 0; b < n_; ++b) row_sum += X(a, b);
        for (Index i = 0; i < p_; ++i) {
            const std::uint16_t* P = products_.data() + i * n_;
            const std::int64_t rho = rho_[std::size_t(i)];
            std::int64_t sum = 0;
            double cross = 0;
            for (Index b = 0; b < n_; ++b) sum += P[b];
            for (Index b = 0; b < n_; ++b) cross += double(P[b]) * X(a, b);
            rhs(r(i)) += cross;
            rhs(s(i)) += double(rho) * row_sum;
            G(r(i), u()) += sum;
            for (Index q = 0; q < p_; ++q) {
                const std::int64_t* z = zeta_.data() + q * n_;
                std::int64_t with_t = 0;
                for (Index b = 0; b < n_; ++b) with_t += P[b] * z[b];
                G(r(i), t(q)) += with_t;
                G(r(i), s(q)) += sum * rho_[std::size_t(q)];
                G(s(i), s(q)) += n_ * rho * rho_[std::size_t(q)];
            }
            for (Index q = 0; q <= i; ++q) {
                const std::uint16_t* Q = products_.data() + q * n_;
                std::uint64_t dot = 0;
                for (Index b = 0; b < n_; ++b) dot += std::uint32_t(P[b]) * std::uint32_t(Q[b]);
                G(r(i), r(q)) += std::int64_t(dot);
            }
            G(s(i), u()) += n_ * rho;
        }
    }

    void add_columns() {
        std::vector<double> column(std::size_t(n_), 0.0);
        for (Index a = 0; a < m_; ++a)
            for (Index b = 0; b < n_; ++b) column[std::size_t(b)] += X(a, b);
        for (Index i = 0; i < p_; ++i) {
            const std::int64_t* z = zeta_.data() + i * n_;
            for (Index b = 0; b < n_; ++b) {
                rhs(t(i)) += double(z[b]) * column[std::size_t(b)];
                G(t(i), u()) += m_ * z[b];
            }
            for (Index q = 0; q < p_; ++q) {
                std::int64_t dot = 0;
                for (Index b = 0; b < n_; ++b) dot += z[b] * zeta_[std::size_t(q * n_ + b)];
                G(t(i), t(q)) = m_ * dot;
            }
        }
    }

    void mirror() {
        for (Index i = 0; i < p_; ++i)
            for (Index q = 0; q < p_; ++q) {
                G(r(q), r(i)) = q < i ? G(r(i), r(q)) : G(r(q), r(i));
                G(s(q), r(i)) = G(r(i), s(q));
                G(t(q), r(i)) = G(r(i), t(q));
                G(s(i), t(q)) = G(t(q), s(i)) = (G(s(i), u()) / n_) * (G(t(q), u()) / m_);
            }
        G(u(), u()) = m_ * n_;
        for (Index i = 0; i < u(); ++i) G(u(), i) = G(i, u());
    }

    const BlockProducts& block_;
    const float* W_;
    const Index ldw_, m_, n_, p_, count_;
    double mean_ = 0;
    std::vector<std::int64_t> gram_;
    std::vector<std::uint16_t> products_;
    std::vector<std::int64_t> rho_, zeta_;
    JointSystem e_;
};

} // namespace

double solve_scales(const BlockProducts& block, const float* W, Index ldw, float* scales) {
    BlockSystem system(block, W, ldw);
    system.solve(scales);
    return system.squared_error(scales);
}

double solve(const JointSystem& system, double* scales) {
    solve_semidefinite(system.size, system.A.data(), system.b.data(), scales);
    double error = system.XX;
    for (Index i = 0; i < system.size; ++i) {
        double Ax = 0;
        for (Index j = 0; j < system.size; ++j) Ax += system.A[std::size_t(i * system.size + j)] * scales[j];
        error += scales[i] * (Ax - 2 * system.b[std::size_t(i)]);
    }
    return error;
}

} // namespace bqq::detail
