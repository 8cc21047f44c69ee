// Slow, clear float64 versions of everything the library computes: the oracles of the unit tests.
#pragma once

#include "bqq/matrix.hpp"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

namespace reference {

using bqq::Index;

struct Mat {
    Index rows = 0, cols = 0;
    std::vector<double> v;
    Mat() = default;
    Mat(Index r, Index c, double fill = 0) : rows(r), cols(c), v(std::size_t(r * c), fill) {}
    double& operator()(Index i, Index j) { return v[std::size_t(i * cols + j)]; }
    double operator()(Index i, Index j) const { return v[std::size_t(i * cols + j)]; }
};

inline Mat random(Index rows, Index cols, std::uint32_t seed, double low = 0, double high = 1) {
    std::mt19937 rng(seed);
    std::uniform_real_distribution<double> uniform(low, high);
    Mat a(rows, cols);
    for (double& x : a.v) x = uniform(rng);
    return a;
}

inline Mat multiply(const Mat& a, const Mat& b) {
    Mat c(a.rows, b.cols);
    for (Index i = 0; i < a.rows; ++i)
        for (Index k = 0; k < a.cols; ++k)
            for (Index j = 0; j < b.cols; ++j) c(i, j) += a(i, k) * b(k, j);
    return c;
}

inline double row_sum(const Mat& a, Index i) {
    double s = 0;
    for (Index j = 0; j < a.cols; ++j) s += a(i, j);
    return s;
}
inline double col_sum(const Mat& a, Index j) {
    double s = 0;
    for (Index i = 0; i < a.rows; ++i) s += a(i, j);
    return s;
}

/// r Y Z + s Y 1 + t 1 Z + u
inline Mat model(const Mat& y, const Mat& z, const double a[4]) {
    Mat w = multiply(y, z);
    for (Index i = 0; i < w.rows; ++i)
        for (Index j = 0; j < w.cols; ++j)
            w(i, j) = a[0] * w(i, j) + a[1] * row_sum(y, i) + a[2] * col_sum(z, j) + a[3];
    return w;
}

inline double squared_distance(const Mat& a, const Mat& b) {
    double s = 0;
    for (std::size_t i = 0; i < a.v.size(); ++i) s += (a.v[i] - b.v[i]) * (a.v[i] - b.v[i]);
    return s;
}

/// Calls f(Y, Z, probability) for every state of independent bits with means y, z.
inline void for_states(const Mat& y, const Mat& z, const std::function<void(const Mat&, const Mat&, double)>& f) {
    const Index bits = Index(y.v.size() + z.v.size());
    for (std::uint64_t state = 0; state < std::uint64_t(1) << bits; ++state) {
        Mat Y = y, Z = z;
        double probability = 1;
        for (Index b = 0; b < bits; ++b) {
            double& bit = b < Index(Y.v.size()) ? Y.v[std::size_t(b)] : Z.v[std::size_t(b) - Y.v.size()];
            const double mean = bit;
            bit = double(state >> b & 1);
            probability *= bit != 0 ? mean : 1 - mean;
        }
        f(Y, Z, probability);
    }
}

inline double brute_force_energy(const Mat& X, const Mat& y, const Mat& z, const double a[4]) {
    double energy = 0;
    for_states(y, z, [&](const Mat& Y, const Mat& Z, double probability) {
        energy += probability * squared_distance(X, model(Y, Z, a));
    });
    return energy;
}

/// Squared error of the means plus the variance of the bits (the mean-field energy of one stack).
inline double energy(const Mat& X, const Mat& y, const Mat& z, const double a[4]) {
    const double r = a[0], s = a[1], t = a[2];
    Mat y2 = y, z2 = z;
    for (double& x : y2.v) x *= x;
    for (double& x : z2.v) x *= x;
    const Mat yz = multiply(y, z), y2z2 = multiply(y2, z2), y2z = multiply(y2, z), yz2 = multiply(y, z2);
    double e = squared_distance(X, model(y, z, a));
    for (Index i = 0; i < X.rows; ++i)
        for (Index j = 0; j < X.cols; ++j)
            e += r * r * (yz(i, j) - y2z2(i, j)) + s * s * (row_sum(y, i) - row_sum(y2, i)) +
                 t * t * (col_sum(z, j) - col_sum(z2, j)) + 2 * r * s * (yz(i, j) - y2z(i, j)) +
                 2 * r * t * (yz(i, j) - yz2(i, j));
    return e;
}

struct Gradients {
    Mat y, z;
};

inline Gradients gradients(const Mat& X, const Mat& y, const Mat& z, const double a[4]) {
    const double r = a[0], s = a[1], t = a[2];
    const Index m = X.rows, n = X.cols, l = y.cols;
    Mat R = model(y, z, a);
    for (std::size_t i = 0; i < R.v.size(); ++i) R.v[i] = X.v[i] - R.v[i];
    Gradients g{Mat(m, l), Mat(l, n)};
    for (Index k = 0; k < l; ++k) {
        double cy = 0, cy2 = 0, cz = 0, cz2 = 0;
        for (Index i = 0; i < m; ++i) cy += y(i, k), cy2 += y(i, k) * y(i, k);
        for (Index j = 0; j < n; ++j) cz += z(k, j), cz2 += z(k, j) * z(k, j);
        for (Index i = 0; i < m; ++i) {
            double fit = 0;
            for (Index j = 0; j < n; ++j) fit += R(i, j) * (r * z(k, j) + s);
            g.y(i, k) = -2 * fit + (1 - 2 * y(i, k)) * (r * r * cz2 + 2 * r * s * cz + double(n) * s * s) +
                        (r * r + 2 * r * t) * (cz - cz2);
        }
        for (Index j = 0; j < n; ++j) {
            double fit = 0;
            for (Index i = 0; i < m; ++i) fit += R(i, j) * (r * y(i, k) + t);
            g.z(k, j) = -2 * fit + (1 - 2 * z(k, j)) * (r * r * cy2 + 2 * r * t * cy + double(m) * t * t) +
                        (r * r + 2 * r * s) * (cy - cy2);
        }
    }
    return g;
}

/// Gram matrix and right-hand side of the basis (YZ, Y1, 1Z, 1) at given values: entries of E[phi phi^T] when averaged.
inline void basis_products(const Mat& X, const Mat& y, const Mat& z, double A[4][4], double b[4]) {
    const double one[4][4] = {{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}, {0, 0, 0, 1}};
    Mat phi[4];
    for (int q = 0; q < 4; ++q) phi[q] = model(y, z, one[q]);
    for (int p = 0; p < 4; ++p) {
        b[p] = 0;
        for (std::size_t i = 0; i < X.v.size(); ++i) b[p] += X.v[i] * phi[p].v[i];
        for (int q = 0; q < 4; ++q) {
            A[p][q] = 0;
            for (std::size_t i = 0; i < X.v.size(); ++i) A[p][q] += phi[p].v[i] * phi[q].v[i];
        }
    }
}

/// A random matrix with clean padding.
inline bqq::Matrix random_matrix(Index m, Index n, Index p, Index l, Index patch, std::uint32_t seed) {
    bqq::Matrix q(bqq::make_layout(m, n, p, l, patch));
    const bqq::Layout& a = q.layout;
    std::mt19937 rng(seed);
    for (Index j = 0; j < a.J; ++j)
        for (Index k = 0; k < a.K; ++k)
            for (Index i = 0; i < p; ++i) {
                const Index block = (j * a.K + k) * p + i;
                for (Index row = 0; row < a.rows_of(j); ++row)
                    for (Index c = 0; c < a.l; ++c)
                        if (rng() & 1)
                            q.Y[std::size_t(block * a.y_plane_bytes() + row * a.y_row_bytes() + c / 8)] |=
                                std::uint8_t(1u << (c % 8));
                for (Index row = 0; row < a.l; ++row)
                    for (Index c = 0; c < a.cols_of(k); ++c)
                        if (rng() & 1)
                            q.Z[std::size_t(block * a.z_plane_bytes() + row * a.z_row_bytes() + c / 8)] |=
                                std::uint8_t(1u << (c % 8));
            }
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (float& x : q.scales) x = uniform(rng);
    return q;
}

/// The same with an order of its rows (side & 1), of its columns (side & 2) and entries (side & 4).
inline bqq::Matrix dressed(bqq::Matrix q, int sides, std::uint32_t seed = 1) {
    std::mt19937 rng(seed);
    const auto order = [&](Index side) {
        std::vector<std::uint32_t> all(static_cast<std::size_t>(side));
        std::iota(all.begin(), all.end(), 0u);
        std::shuffle(all.begin(), all.end(), rng);
        return all;
    };
    if (sides & 1) q.row_order = order(q.layout.m);
    if (sides & 2) q.col_order = order(q.layout.n);
    std::uniform_real_distribution<float> uniform(-50, 50);
    const Index size = q.layout.m * q.layout.n;
    for (Index at = size / 5; sides & 4 && at < size; at += 1 + Index(rng() % std::uint32_t(1 + size / 9)))
        q.entries.push_back({std::uint32_t(at / q.layout.n), std::uint32_t(at % q.layout.n), uniform(rng)});
    return q;
}

inline bool bit(const std::uint8_t* row, Index k) { return row[k / 8] >> (k % 8) & 1; }

/// W_hat, straight from the definition.
inline Mat dense(const bqq::View& q) {
    const bqq::Layout& a = q.layout;
    Mat w(a.m, a.n);
    for (Index i = 0; i < a.m; ++i)
        for (Index j = 0; j < a.n; ++j) {
            const Index J = i / a.rows, K = j / a.cols, row = i % a.rows, col = j % a.cols;
            const float* scales = q.block_scales(J, K);
            double sum = double(scales[3 * a.p]);
            for (Index c = 0; c < a.p; ++c) {
                double yz = 0, y1 = 0, z1 = 0;
                for (Index k = 0; k < a.l; ++k) {
                    const bool y = bit(q.y_plane(J, K, c) + row * a.y_row_bytes(), k);
                    const bool z = bit(q.z_plane(J, K, c) + k * a.z_row_bytes(), col);
                    yz += y && z, y1 += y, z1 += z;
                }
                sum += double(scales[3 * c]) * yz + double(scales[3 * c + 1]) * y1 + double(scales[3 * c + 2]) * z1;
            }
            w(i, j) = sum;
        }
    for (Index i = 0; i < q.entry_count; ++i)
        w(Index(q.entries[i].row), Index(q.entries[i].col)) += double(q.entries[i].value);
    Mat placed(a.m, a.n);
    for (Index i = 0; i < a.m; ++i)
        for (Index j = 0; j < a.n; ++j)
            placed(q.row_order ? q.row_order[i] : i, q.col_order ? q.col_order[j] : j) = w(i, j);
    return placed;
}

} // namespace reference
