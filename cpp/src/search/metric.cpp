#include "search/metric.hpp"

#include "linalg.hpp"
#include "search/scales.hpp"

#include <algorithm>
#include <cmath>

namespace bqq::detail {
namespace {

[[noreturn]] void bad_weight(const std::string& text) { throw Error(ErrorCode::invalid_argument, "weight " + text); }

// From column-major float64.
PaddedMatrix rounded(Index rows, Index cols, const std::vector<double>& a) {
    PaddedMatrix out(rows, cols);
    for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < cols; ++j) out.row(i)[j] = float(a[std::size_t(j * rows + i)]);
    return out;
}

void check_finite(double value, Index i, Index j) {
    if (!std::isfinite(value))
        bad_weight("[" + std::to_string(i) + (j < 0 ? "" : ", " + std::to_string(j)) + "] is " + std::to_string(value) +
                   ", expected finite values");
}

} // namespace

Metric::Metric(const Layout& layout, const float* H, Index ldh, double damping) : layout_(layout) {
    const Index n = layout.n;
    if (!(damping >= 0) || !std::isfinite(damping))
        throw Error(ErrorCode::invalid_argument, "damping is " + std::to_string(damping) + ", expected 0 or more");
    double trace = 0;
    for (Index b = 0; b < n; ++b) {
        const double h = double(H[ldh ? b * ldh + b : b]);
        check_finite(h, b, ldh ? b : -1);
        if (h < 0)
            bad_weight("has " + std::to_string(h) + " at diagonal position " + std::to_string(b) +
                       ", expected 0 or more: it is not positive semidefinite");
        trace += h;
    }
    const double mean = trace / double(n), ridge = damping * mean;
    if (mean == 0) bad_weight("is zero: no error would count");
    const double scale = 1 / (mean + ridge);
    const auto first = [&](Index k) { return k * layout.cols; };
    if (!ldh) {
        for (Index b = 0; b < n; ++b)
            if (double(H[b]) + ridge == 0)
                bad_weight("has a zero at position " + std::to_string(b) + " and no damping");
        for (Index k = 0; k < layout.K; ++k) {
            PaddedMatrix patch(layout.cols_of(k), layout.cols_of(k));
            for (Index b = 0; b < patch.rows; ++b) patch.row(b)[b] = float((double(H[first(k) + b]) + ridge) * scale);
            patches_.push_back(std::move(patch));
        }
        return;
    }
    std::vector<double> D(std::size_t(n * n));
    for (Index i = 0; i < n; ++i)
        for (Index j = 0; j < n; ++j) {
            const double h = double(H[i * ldh + j]), turned = double(H[j * ldh + i]);
            check_finite(h, i, j);
            if (std::fabs(h - turned) > 1e-4 * mean + 1e-3 * std::fabs(h))
                bad_weight("is not symmetric: [" + std::to_string(i) + ", " + std::to_string(j) + "] is " +
                           std::to_string(h) + ", [" + std::to_string(j) + ", " + std::to_string(i) + "] is " +
                           std::to_string(turned));
            D[std::size_t(i * n + j)] = (0.5 * (h + turned) + (i == j ? ridge : 0)) * scale;
        }
    whole_ = rounded(n, n, D);
    if (!upper_factor(n, D.data()))
        bad_weight("is not positive definite after damping: pass a second moment X^T X, or more damping");
    for (Index k = 0; k < layout.K; ++k) {
        const Index width = layout.cols_of(k), rest = n - first(k) - width;
        std::vector<double> S(std::size_t(width * width)), move(std::size_t(width * rest));
        schur_and_move(n, D.data(), first(k), width, S.data(), move.data());
        patches_.push_back(rounded(width, width, S));
        moves_.push_back(rounded(width, rest, move));
    }
}

void Metric::compensate(const bqq_kernels& kernels, Index k, const PaddedMatrix& E, float* W, Index ldw) const {
    const PaddedMatrix& move = moves_[std::size_t(k)];
    if (!move.cols) return;
    float* rest = W + k * layout_.cols + E.cols;
    kernels.gemm(std::size_t(E.rows), std::size_t(move.ld), std::size_t(E.cols), E.row(0), std::size_t(E.ld), 1,
                 move.row(0), std::size_t(move.ld), rest, std::size_t(ldw), nullptr, rest, std::size_t(ldw));
}

namespace {

// The bits of all stacks of one block as floats, and what they make of the target.
struct Unpacked {
    Index first, cols; // columns of the target
    PaddedMatrix Y, Z; // rows x L, cols x L
    std::vector<double> cy;
};

// Per stack of L = stacks * l numbers: its sum, and its dot product with others.
double part(const float* a, Index l, Index i) {
    double total = 0;
    for (Index k = i * l; k < (i + 1) * l; ++k) total += double(a[k]);
    return total;
}
double part(const float* a, const double* b, Index l, Index i) {
    double total = 0;
    for (Index k = i * l; k < (i + 1) * l; ++k) total += double(a[k]) * b[k];
    return total;
}

} // namespace

double solve_scales_in_metric(const bqq_kernels& kernels, const View& q, Index j, Index k_begin, Index k_end,
                              Index stacks, const float* W, Index ldw, const PaddedMatrix& H, float* scales) {
    const Layout& a = q.layout;
    const Index m = a.rows_of(j), n = H.cols, l = a.l, L = stacks * l, per = 3 * stacks + 1;
    const auto z = [](Index i) { return std::size_t(i); };
    std::vector<Unpacked> blocks;
    for (Index k = k_begin; k < k_end; ++k) {
        Unpacked b{(k - k_begin) * a.cols, a.cols_of(k), PaddedMatrix(m, L), PaddedMatrix(a.cols_of(k), L), {}};
        b.cy.assign(z(L), 0.0);
        for (Index i = 0; i < stacks; ++i) {
            const std::uint8_t *Y = q.y_plane(j, k, i), *Z = q.z_plane(j, k, i);
            for (Index c = 0; c < l; ++c) {
                for (Index r = 0; r < m; ++r) {
                    const bool bit = Y[r * a.y_row_bytes() + c / 8] >> (c % 8) & 1;
                    b.Y.row(r)[i * l + c] = float(bit);
                    b.cy[z(i * l + c)] += double(bit);
                }
                for (Index r = 0; r < b.cols; ++r)
                    b.Z.row(r)[i * l + c] = float(Z[c * a.z_row_bytes() + r / 8] >> (r % 8) & 1);
            }
        }
        blocks.push_back(std::move(b));
    }

    // The target about its mean in the metric, and its products.
    std::vector<double> h(z(n), 0.0);
    double h0 = 0, mean = 0;
    for (Index r = 0; r < n; ++r) {
        for (Index c = 0; c < n; ++c) h[z(r)] += double(H.row(r)[c]);
        h0 += h[z(r)];
    }
    for (Index r = 0; r < m; ++r)
        for (Index c = 0; c < n; ++c) mean += double(W[r * ldw + c]) * h[z(c)];
    mean = h0 > 0 ? mean / (double(m) * h0) : 0;
    PaddedMatrix X(m, n), XH(m, n);
    for (Index r = 0; r < m; ++r)
        for (Index c = 0; c < n; ++c) X.row(r)[c] = float(double(W[r * ldw + c]) - mean);
    kernels.gemm(z(m), z(XH.ld), z(n), X.row(0), z(X.ld), 1, H.row(0), z(H.ld), nullptr, 0, nullptr, XH.row(0),
                 z(XH.ld));
    JointSystem e(per * Index(blocks.size()));
    for (Index r = 0; r < m; ++r)
        for (Index c = 0; c < n; ++c) e.XX += double(X.row(r)[c]) * double(XH.row(r)[c]);

    std::vector<float> dots(z(PaddedMatrix(0, L).ld)), Zh(dots), hZ(dots), row_sums(dots), col_sums(dots), rows(z(m)),
        ones(z(std::max(L, a.cols)), 1.0f);
    for (std::size_t x = 0; x < blocks.size(); ++x) {
        const Unpacked& A = blocks[x];
        const Index at = per * Index(x), ld = A.Y.ld;
        // Right-hand side.
        PaddedMatrix F(m, L);
        kernels.gemm(z(m), z(ld), z(A.cols), XH.row(0) + A.first, z(XH.ld), 1, A.Z.row(0), z(ld), nullptr, 0, nullptr,
                     F.row(0), z(ld));
        std::vector<float> cols(z(A.cols), 0.0f);
        double all = 0;
        for (Index r = 0; r < m; ++r) {
            double sum = 0;
            for (Index c = 0; c < A.cols; ++c) {
                const double v = double(XH.row(r)[A.first + c]);
                sum += v, cols[z(c)] += float(v);
            }
            rows[z(r)] = float(sum), all += sum;
        }
        const auto right = [&](Index count, const float* w, const PaddedMatrix& bits, const PaddedMatrix* with,
                               Index which) {
            kernels.column_dots(z(count), z(ld), w, bits.row(0), z(ld), with ? with->row(0) : nullptr, z(ld),
                                dots.data());
            for (Index i = 0; i < stacks; ++i) e.b[z(at + 3 * i + which)] = part(dots.data(), l, i);
        };
        right(m, nullptr, A.Y, &F, 0);
        right(m, rows.data(), A.Y, nullptr, 1);
        right(A.cols, cols.data(), A.Z, nullptr, 2);
        e.b[z(at + per - 1)] = all;

        for (std::size_t y = x; y < blocks.size(); ++y) {
            const Unpacked& B = blocks[y];
            const Index to = per * Index(y), u = at + per - 1, v = to + per - 1;
            PaddedMatrix P(A.cols, B.cols), T(L, B.cols), ZHZ(L, L), YY(L, L);
            std::vector<double> below(z(B.cols), 0.0);
            double total = 0;
            for (Index r = 0; r < A.cols; ++r)
                for (Index c = 0; c < B.cols; ++c) {
                    P.row(r)[c] = H.row(A.first + r)[B.first + c];
                    below[z(c)] += double(P.row(r)[c]), total += double(P.row(r)[c]);
                }
            kernels.gemm(z(L), z(T.ld), z(A.cols), A.Z.row(0), 1, z(ld), P.row(0), z(P.ld), nullptr, 0, nullptr,
                         T.row(0), z(T.ld));
            kernels.gemm(z(L), z(ld), z(B.cols), T.row(0), z(T.ld), 1, B.Z.row(0), z(ld), nullptr, 0, nullptr,
                         ZHZ.row(0), z(ld));
            kernels.gemm(z(L), z(ld), z(m), A.Y.row(0), 1, z(ld), B.Y.row(0), z(ld), nullptr, 0, nullptr, YY.row(0),
                         z(ld));
            for (Index c = 0; c < L; ++c) {
                double sum = 0;
                for (Index b = 0; b < B.cols; ++b) sum += double(T.row(c)[b]);
                Zh[z(c)] = float(sum);
            }
            const std::vector<float> w(below.begin(), below.end());
            kernels.column_dots(z(B.cols), z(ld), w.data(), B.Z.row(0), z(ld), nullptr, 0, hZ.data());
            for (Index i = 0; i < stacks; ++i) {
                const float *yy = YY.row(i * l), *zz = ZHZ.row(i * l), *zh = Zh.data() + i * l;
                const double zh_all = part(Zh.data(), l, i), cy_all = part(ones.data(), A.cy.data() + i * l, l, 0);
                std::vector<float> cy(A.cy.begin() + i * l, A.cy.begin() + (i + 1) * l);
                // Sums of an l x l part of YY and ZHZ, by stack of B, with weights on the rows and columns.
                const auto sums = [&](const float* weights, const float* left, const float* right_of) {
                    kernels.column_dots(z(l), z(ld), weights, left, z(ld), right_of, z(ld), dots.data());
                };
                const double r_u = part(zh, A.cy.data() + i * l, l, 0);
                e.set(at + 3 * i, v, r_u);
                e.set(at + 3 * i + 1, v, cy_all * total);
                e.set(at + 3 * i + 2, v, double(m) * zh_all);
                sums(nullptr, yy, zz);
                for (Index b = 0; b < stacks; ++b) e.set(at + 3 * i, to + 3 * b, part(dots.data(), l, b));
                sums(zh, yy, nullptr); // (Z_a h) . (Y_a^T Y_b) 1
                for (Index b = 0; b < stacks; ++b) e.set(at + 3 * i, to + 3 * b + 1, part(dots.data(), l, b));
                sums(cy.data(), zz, nullptr);
                for (Index b = 0; b < stacks; ++b) e.set(at + 3 * i, to + 3 * b + 2, part(dots.data(), l, b));
                sums(nullptr, yy, nullptr);
                for (Index b = 0; b < stacks; ++b) {
                    double s_r = 0;
                    for (Index c = b * l; c < (b + 1) * l; ++c) s_r += double(dots[z(c)]) * double(hZ[z(c)]);
                    e.set(at + 3 * i + 1, to + 3 * b, s_r);
                    e.set(at + 3 * i + 1, to + 3 * b + 1, total * part(dots.data(), l, b));
                    e.set(at + 3 * i + 1, to + 3 * b + 2, cy_all * part(hZ.data(), l, b));
                }
                sums(nullptr, zz, nullptr);
                for (Index b = 0; b < stacks; ++b) {
                    e.set(at + 3 * i + 2, to + 3 * b, part(dots.data(), B.cy.data(), l, b));
                    e.set(at + 3 * i + 2, to + 3 * b + 1, zh_all * part(ones.data(), B.cy.data() + b * l, l, 0));
                    e.set(at + 3 * i + 2, to + 3 * b + 2, double(m) * part(dots.data(), l, b));
                }
            }
            for (Index b = 0; b < stacks; ++b) {
                e.set(u, to + 3 * b, part(hZ.data(), B.cy.data(), l, b));
                e.set(u, to + 3 * b + 1, total * part(ones.data(), B.cy.data() + b * l, l, 0));
                e.set(u, to + 3 * b + 2, double(m) * part(hZ.data(), l, b));
            }
            e.set(u, v, double(m) * total);
        }
    }
    std::vector<double> solution(z(e.size));
    const double error = solve(e, solution.data());
    for (Index i = 0; i < e.size; ++i) scales[i] = float(solution[z(i)] + (i % per == per - 1 ? mean : 0));
    return error;
}

} // namespace bqq::detail
