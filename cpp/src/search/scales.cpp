#include "search/scales.hpp"

#include "linalg.hpp"

#include <algorithm>

namespace bqq::detail {

void solve(const MeanFieldSystem& e, double a[4]) { solve_semidefinite(4, &e.A[0][0], e.b, a); }

double solve_scales(const BlockProducts& block, const float* W, Index ldw, float* scales) {
    const Index m = block.rows(), n = block.cols(), p = block.stacks(), count = 3 * p + 1;
    std::vector<std::uint16_t> products(std::size_t(p * n));
    std::vector<std::int64_t> rho(std::size_t(p), 0), zeta(std::size_t(p * n));
    block.column_sums(zeta.data());

    double mean = 0;
    for (Index a = 0; a < m; ++a)
        for (Index b = 0; b < n; ++b) mean += double(W[a * ldw + b]);
    mean /= double(m) * double(n);

    std::vector<std::int64_t> gram(std::size_t(count * count), 0);
    const auto G = [&](Index i, Index j) -> std::int64_t& { return gram[std::size_t(i * count + j)]; };
    JointSystem e(count);
    const auto rhs = [&](Index i) -> double& { return e.b[std::size_t(i)]; };
    const auto r = [](Index i) { return 3 * i; };
    const auto s = [](Index i) { return 3 * i + 1; };
    const auto t = [](Index i) { return 3 * i + 2; };
    const Index u = 3 * p;
    for (Index a = 0; a < m; ++a) {
        block.row(a, products.data(), rho.data());
        double row_sum = 0;
        for (Index b = 0; b < n; ++b) row_sum += double(W[a * ldw + b]) - mean;
        for (Index i = 0; i < p; ++i) {
            const std::uint16_t* P = products.data() + i * n;
            std::int64_t sum = 0;
            double cross = 0;
            for (Index b = 0; b < n; ++b) sum += P[b];
            for (Index b = 0; b < n; ++b) cross += double(P[b]) * (double(W[a * ldw + b]) - mean);
            rhs(r(i)) += cross;
            rhs(s(i)) += double(rho[std::size_t(i)]) * row_sum;
            G(r(i), u) += sum;
            for (Index q = 0; q < p; ++q) {
                const std::int64_t* z = zeta.data() + q * n;
                std::int64_t with_t = 0;
                for (Index b = 0; b < n; ++b) with_t += P[b] * z[b];
                G(r(i), t(q)) += with_t;
                G(r(i), s(q)) += sum * rho[std::size_t(q)];
                G(s(i), s(q)) += n * rho[std::size_t(i)] * rho[std::size_t(q)];
            }
            for (Index q = 0; q <= i; ++q) {
                const std::uint16_t* Q = products.data() + q * n;
                std::uint64_t dot = 0;
                for (Index b = 0; b < n; ++b) dot += std::uint32_t(P[b]) * std::uint32_t(Q[b]);
                G(r(i), r(q)) += std::int64_t(dot);
            }
            G(s(i), u) += n * rho[std::size_t(i)];
        }
    }
    for (Index i = 0; i < p; ++i) {
        const std::int64_t* z = zeta.data() + i * n;
        for (Index b = 0; b < n; ++b) {
            double column = 0;
            for (Index a = 0; a < m; ++a) column += double(W[a * ldw + b]) - mean;
            rhs(t(i)) += double(z[b]) * column;
            G(t(i), u) += m * z[b];
        }
        for (Index q = 0; q < p; ++q) {
            std::int64_t dot = 0;
            for (Index b = 0; b < n; ++b) dot += z[b] * zeta[std::size_t(q * n + b)];
            G(t(i), t(q)) = m * dot;
        }
    }
    for (Index i = 0; i < p; ++i)
        for (Index q = 0; q < p; ++q) {
            G(r(q), r(i)) = q < i ? G(r(i), r(q)) : G(r(q), r(i));
            G(s(q), r(i)) = G(r(i), s(q));
            G(t(q), r(i)) = G(r(i), t(q));
            G(s(i), t(q)) = G(t(q), s(i)) = (G(s(i), u) / n) * (G(t(q), u) / m);
        }
    G(u, u) = m * n;
    for (Index i = 0; i < u; ++i) G(u, i) = G(i, u);

    std::copy(gram.begin(), gram.end(), e.A.begin());
    std::vector<double> x(static_cast<std::size_t>(count));
    solve(e, x.data());
    for (Index i = 0; i < count; ++i) scales[i] = float(x[std::size_t(i)] + (i == u ? mean : 0));

    std::vector<double> what(static_cast<std::size_t>(n));
    double error = 0;
    for (Index a = 0; a < m; ++a) {
        block.row(a, products.data(), rho.data());
        reconstruct_row(scales, p, n, products.data(), rho.data(), zeta.data(), what.data());
        for (Index b = 0; b < n; ++b) {
            const double e = double(W[a * ldw + b]) - what[std::size_t(b)];
            error += e * e;
        }
    }
    return error;
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
