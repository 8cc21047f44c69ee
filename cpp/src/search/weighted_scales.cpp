#include "search/metric.hpp"
#include "search/scales.hpp"

#include <algorithm>

namespace bqq::detail {
namespace {

std::size_t z(Index i) { return std::size_t(i); }

// The bits of all stacks of one block as floats, and the sums of the columns of Y.
struct Unpacked {
    Index first, cols; // columns of the target
    PaddedMatrix Y, Z; // rows x L, cols x L
    std::vector<double> cy;

    Unpacked(const View& q, Index j, Index k, Index first_col, Index stacks)
        : first(first_col), cols(q.layout.cols_of(k)), Y(q.layout.rows_of(j), stacks * q.layout.l),
          Z(cols, stacks * q.layout.l), cy(z(stacks * q.layout.l), 0.0) {
        const Layout& a = q.layout;
        for (Index i = 0; i < stacks; ++i) {
            const std::uint8_t *y = q.y_plane(j, k, i), *zs = q.z_plane(j, k, i);
            for (Index c = 0; c < a.l; ++c) {
                for (Index r = 0; r < Y.rows; ++r) {
                    const bool bit = y[r * a.y_row_bytes() + c / 8] >> (c % 8) & 1;
                    Y.row(r)[i * a.l + c] = float(bit);
                    cy[z(i * a.l + c)] += double(bit);
                }
                for (Index r = 0; r < cols; ++r)
                    Z.row(r)[i * a.l + c] = float(zs[c * a.z_row_bytes() + r / 8] >> (r % 8) & 1);
            }
        }
    }
};

// Of L = stacks * l numbers those of stack i: their sum, and their dot product with others.
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
double part(const double* a, Index l, Index i) {
    double total = 0;
    for (Index k = i * l; k < (i + 1) * l; ++k) total += a[k];
    return total;
}

// The normal equations of all scales of a range of blocks.
class WeightedSystem {
  public:
    WeightedSystem(const bqq_kernels& kernels, const View& q, const BlockRange& range, const float* W, Index ldw,
                   const PaddedMatrix& H)
        : kernels_(kernels), H_(H), m_(q.layout.rows_of(range.j)), l_(q.layout.l), stacks_(range.stacks),
          L_(stacks_ * l_), per_(3 * stacks_ + 1), X_(m_, H.cols), XH_(m_, H.cols),
          e_(per_ * (range.k_end - range.k_begin)), dots_(z(PaddedMatrix(0, L_).ld)), Zh_(dots_), hZ_(dots_) {
        for (Index k = range.k_begin; k < range.k_end; ++k)
            blocks_.emplace_back(q, range.j, k, (k - range.k_begin) * q.layout.cols, stacks_);
        set_target(W, ldw);
        for (Index x = 0; x < Index(blocks_.size()); ++x) {
            set_right_side(x);
            for (Index y = x; y < Index(blocks_.size()); ++y) set_pair(x, y);
        }
    }

    double solve(float* scales) const {
        std::vector<double> solution(z(e_.size));
        const double error = detail::solve(e_, solution.data());
        for (Index i = 0; i < e_.size; ++i) scales[i] = float(solution[z(i)] + (i % per_ == per_ - 1 ? mean_ : 0));
        return error;
    }

  private:
    // The target about its mean in the metric, and its products.
    void set_target(const float* W, Index ldw) {
        const Index n = H_.cols;
        std::vector<double> h(z(n), 0.0);
        double h0 = 0, mean = 0;
        for (Index r = 0; r < n; ++r) {
            for (Index c = 0; c < n; ++c) h[z(r)] += double(H_.row(r)[c]);
            h0 += h[z(r)];
        }
        for (Index r = 0; r < m_; ++r)
            for (Index c = 0; c < n; ++c) mean += double(W[r * ldw + c]) * h[z(c)];
        mean_ = h0 > 0 ? mean / (double(m_) * h0) : 0;
        for (Index r = 0; r < m_; ++r)
            for (Index c = 0; c < n; ++c) X_.row(r)[c] = float(double(W[r * ldw + c]) - mean_);
        kernels_.gemm(z(m_), z(XH_.ld), z(n), X_.row(0), z(X_.ld), 1, H_.row(0), z(H_.ld), nullptr, 0, nullptr,
                      XH_.row(0), z(XH_.ld));
        for (Index r = 0; r < m_; ++r)
            for (Index c = 0; c < n; ++c) e_.XX += double(X_.row(r)[c]) * double(XH_.row(r)[c]);
    }

    void set_right_side(Index x) {
        const Unpacked& A = blocks_[z(x)];
        const Index at = per_ * x, ld = A.Y.ld;
        PaddedMatrix F(m_, L_);
        kernels_.gemm(z(m_), z(ld), z(A.cols), XH_.row(0) + A.first, z(XH_.ld), 1, A.Z.row(0), z(ld), nullptr, 0,
                      nullptr, F.row(0), z(ld));
        std::vector<float> rows(z(m_)), cols(z(A.cols), 0.0f);
        double all = 0;
        for (Index r = 0; r < m_; ++r) {
            double sum = 0;
            for (Index c = 0; c < A.cols; ++c) {
                const double v = double(XH_.row(r)[A.first + c]);
                sum += v, cols[z(c)] += float(v);
            }
            rows[z(r)] = float(sum), all += sum;
        }
        const auto right = [&](const float* w, const PaddedMatrix& bits, const PaddedMatrix* with, Index which) {
            kernels_.column_dots(z(bits.rows), z(ld), w, bits.row(0), z(ld), with ? with->row(0) : nullptr, z(ld),
                                 dots_.data());
            for (Index i = 0; i < stacks_; ++i) e_.b[z(at + 3 * i + which)] = part(dots_.data(), l_, i);
        };
        right(nullptr, A.Y, &F, 0);
        right(rows.data(), A.Y, nullptr, 1);
        right(cols.data(), A.Z, nullptr, 2);
        e_.b[z(at + per_ - 1)] = all;
    }

    // Products of the bits of two blocks: Y_a^T Y_b, Z_a H_ab Z_b^T, and with ones.
    struct Pair {
        const Unpacked &A, &B;
        Index at, to; // first scale of each
        PaddedMatrix YY, ZHZ;
        double total = 0; // 1^T H_ab 1
    };

    void set_pair(Index x, Index y) {
        const Unpacked &A = blocks_[z(x)], &B = blocks_[z(y)];
        const Index ld = A.Y.ld;
        Pair p{A, B, per_ * x, per_ * y, PaddedMatrix(L_, L_), PaddedMatrix(L_, L_)};
        PaddedMatrix P(A.cols, B.cols), T(L_, B.cols);
        std::vector<double> below(z(B.cols), 0.0);
        for (Index r = 0; r < A.cols; ++r)
            for (Index c = 0; c < B.cols; ++c) {
                P.row(r)[c] = H_.row(A.first + r)[B.first + c];
                below[z(c)] += double(P.row(r)[c]), p.total += double(P.row(r)[c]);
            }
        kernels_.gemm(z(L_), z(T.ld), z(A.cols), A.Z.row(0), 1, z(ld), P.row(0), z(P.ld), nullptr, 0, nullptr, T.row(0),
                      z(T.ld));
        kernels_.gemm(z(L_), z(ld), z(B.cols), T.row(0), z(T.ld), 1, B.Z.row(0), z(ld), nullptr, 0, nullptr,
                      p.ZHZ.row(0), z(ld));
        kernels_.gemm(z(L_), z(ld), z(m_), A.Y.row(0), 1, z(ld), B.Y.row(0), z(ld), nullptr, 0, nullptr, p.YY.row(0),
                      z(ld));
        for (Index c = 0; c < L_; ++c) {
            double sum = 0;
            for (Index b = 0; b < B.cols; ++b) sum += double(T.row(c)[b]);
            Zh_[z(c)] = float(sum);
        }
        const std::vector<float> w(below.begin(), below.end());
        kernels_.column_dots(z(B.cols), z(ld), w.data(), B.Z.row(0), z(ld), nullptr, 0, hZ_.data());
        for (Index i = 0; i < stacks_; ++i) set_stack(p, i);
        const Index u = p.at + per_ - 1;
        for (Index b = 0; b < stacks_; ++b) {
            e_.set(u, p.to + 3 * b, part(hZ_.data(), B.cy.data(), l_, b));
            e_.set(u, p.to + 3 * b + 1, p.total * part(B.cy.data(), l_, b));
            e_.set(u, p.to + 3 * b + 2, double(m_) * part(hZ_.data(), l_, b));
        }
        e_.set(u, p.to + per_ - 1, double(m_) * p.total);
    }

    // The equations of stack i of A against all of B.
    void set_stack(const Pair& p, Index i) {
        const Index ld = p.YY.ld, l = l_, r = p.at + 3 * i, s = r + 1, t = r + 2, v = p.to + per_ - 1;
        const float *yy = p.YY.row(i * l), *zz = p.ZHZ.row(i * l), *zh = Zh_.data() + i * l;
        const double zh_all = part(Zh_.data(), l, i), cy_all = part(p.A.cy.data(), l, i), m = double(m_);
        const std::vector<float> cy(p.A.cy.begin() + i * l, p.A.cy.begin() + (i + 1) * l);
        // Sums of an l x l part of YY and ZHZ, by stack of B, with weights on the rows and columns.
        const auto sums = [&](const float* weights, const float* left, const float* right_of) {
            kernels_.column_dots(z(l), z(ld), weights, left, z(ld), right_of, z(ld), dots_.data());
        };
        const auto set_sums = [&](Index row, Index which) {
            for (Index b = 0; b < stacks_; ++b) e_.set(row, p.to + 3 * b + which, part(dots_.data(), l, b));
        };
        e_.set(r, v, part(zh, p.A.cy.data() + i * l, l, 0));
        e_.set(s, v, cy_all * p.total);
        e_.set(t, v, m * zh_all);
        sums(nullptr, yy, zz), set_sums(r, 0);
        sums(zh, yy, nullptr), set_sums(r, 1); // (Z_a h) . (Y_a^T Y_b) 1
        sums(cy.data(), zz, nullptr), set_sums(r, 2);
        sums(nullptr, yy, nullptr);
        for (Index b = 0; b < stacks_; ++b) {
            double s_r = 0;
            for (Index c = b * l; c < (b + 1) * l; ++c) s_r += double(dots_[z(c)]) * double(hZ_[z(c)]);
            e_.set(s, p.to + 3 * b, s_r);
            e_.set(s, p.to + 3 * b + 1, p.total * part(dots_.data(), l, b));
            e_.set(s, p.to + 3 * b + 2, cy_all * part(hZ_.data(), l, b));
        }
        sums(nullptr, zz, nullptr);
        for (Index b = 0; b < stacks_; ++b) {
            e_.set(t, p.to + 3 * b, part(dots_.data(), p.B.cy.data(), l, b));
            e_.set(t, p.to + 3 * b + 1, zh_all * part(p.B.cy.data(), l, b));
            e_.set(t, p.to + 3 * b + 2, m * part(dots_.data(), l, b));
        }
    }

    const bqq_kernels& kernels_;
    const PaddedMatrix& H_;
    const Index m_, l_, stacks_, L_, per_;
    std::vector<Unpacked> blocks_;
    double mean_ = 0;
    PaddedMatrix X_, XH_;
    JointSystem e_;
    std::vector<float> dots_, Zh_, hZ_;
};

} // namespace

double solve_scales_in_metric(const bqq_kernels& kernels, const View& q, const BlockRange& range, const float* W,
                              Index ldw, const PaddedMatrix& H, float* scales) {
    return WeightedSystem(kernels, q, range, W, ldw, H).solve(scales);
}

} // namespace bqq::detail
