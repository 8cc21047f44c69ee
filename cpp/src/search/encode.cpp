// New rows for a matrix whose Z and scales stay as they are. In block column k a row's target is x - sum_i t_i (1 Z_i)
// - u and its atoms are Phi_ie = r_i Z_ie + s_i 1, of all stacks together: a binary least-squares problem over p l bits
// with one Gram matrix Phi H Phi^T for all rows. Tabu search (Glover 1989) from two starts: stack by stack, as the
// matrix was made, and the row of q that is nearest, on whose residual the later stacks may have been trained.
#include "bqq/decompose.hpp"
#include "kernels/dispatch.hpp"
#include "parallel.hpp"
#include "search/arrange.hpp"
#include "search/floats.hpp"
#include "search/metric.hpp"
#include "progress.hpp"
#include "search/recipe.hpp"

#include <cmath>

namespace bqq {
namespace {

using namespace detail;

std::size_t z(Index i) { return std::size_t(i); }

constexpr Index kRows = 32, kStarts = 256; // that go together

// A codebook far from 1 in size, times a power of two: squares of its scales, and products with rows, then fit float32.
// Rows beyond that say no more than their signs.
struct Scaled {
    std::vector<float> scales;
    View view;
    int shift = 0;

    explicit Scaled(const View& q) : view(q) {
        float largest = 0;
        for (Index i = 0; i < q.layout.scales_count(); ++i) largest = std::max(largest, std::abs(q.scales[i]));
        if (largest == 0 || std::abs(std::ilogb(largest)) <= 20) return;
        shift = -std::ilogb(largest);
        scales.assign(q.scales, q.scales + q.layout.scales_count());
        for (float& x : scales) x = std::ldexp(x, shift);
        view.scales = scales.data();
    }
    void copy(const float* row, Index n, float* out) const {
        constexpr float most = 1e18f;
        for (Index b = 0; b < n; ++b) out[b] = std::clamp(shift ? std::ldexp(row[b], shift) : row[b], -most, most);
    }
};

// What all rows share in one block column.
struct Codebook {
    const View& q;
    const Index k, n, l, L;
    const PaddedMatrix* H;
    PaddedMatrix Phi, PhiT, G;       // minus the atoms, L x n; the atoms, n x L; minus their Gram matrix
    std::vector<float> held, mean;   // what no bit moves, n; share of ones of each bit in q, L
    std::vector<Index> starts;       // rows of q
    std::vector<float> start_square; // of what they stand for, less held

    Codebook(const bqq_kernels& kernels, const View& matrix, Index column, const PaddedMatrix* metric)
        : q(matrix), k(column), n(q.layout.cols_of(k)), l(q.layout.l), L(q.layout.p * l), H(metric), Phi(L, n),
          PhiT(n, L), G(L, L), mean(z(G.ld), 0.0f) {
        unpack_atoms();
        kernels.transpose(z(L), z(n), Phi.row(0), z(Phi.ld), PhiT.row(0), z(PhiT.ld));
        PaddedMatrix HPhiT(n, L);
        if (H)
            kernels.gemm(z(n), z(PhiT.ld), z(n), H->row(0), z(H->ld), 1, PhiT.row(0), z(PhiT.ld), nullptr, 0, nullptr,
                         HPhiT.row(0), z(PhiT.ld));
        for (float& v : Phi.v) v = -v;
        kernels.gemm(z(L), z(G.ld), z(n), Phi.row(0), z(Phi.ld), 1, (H ? HPhiT : PhiT).row(0), z(PhiT.ld), nullptr, 0,
                     nullptr, G.row(0), z(G.ld));
        find_starts(kernels);
    }

    // Bits of start `at` of this block column to out[0], out[step], ...
    void unpack(Index at, float* out, Index step) const {
        const Layout& a = q.layout;
        for (Index i = 0; i < a.p; ++i) {
            const std::uint8_t* row = q.y_plane(0, k, i) + starts[z(at)] * a.y_row_bytes();
            for (Index e = 0; e < l; ++e, out += step) *out = float(row[e / 8] >> (e % 8) & 1);
        }
    }

  private:
    void unpack_atoms() {
        const Layout& a = q.layout;
        const float* scales = q.block_scales(0, k);
        std::vector<double> constant(z(n), double(scales[3 * a.p]));
        for (Index i = 0; i < a.p; ++i)
            for (Index e = 0; e < l; ++e) {
                const std::uint8_t* bits = q.z_plane(0, k, i) + e * a.z_row_bytes();
                for (Index b = 0; b < n; ++b) {
                    const bool bit = bits[b / 8] >> (b % 8) & 1;
                    Phi.row(i * l + e)[b] = (bit ? scales[3 * i] : 0.0f) + scales[3 * i + 1];
                    if (bit) constant[z(b)] += double(scales[3 * i + 2]);
                }
            }
        held.assign(constant.begin(), constant.end());
    }

    void find_starts(const bqq_kernels& kernels) {
        const Index count = std::min(q.layout.m, tuning::kEncodeStarts);
        for (Index at = 0; at < count; ++at) starts.push_back(at * q.layout.m / count);
        start_square.resize(z(count));
        PaddedMatrix bits(kStarts, L), product(kStarts, L);
        for (Index first = 0; first < count; first += kStarts) {
            const Index some = std::min(kStarts, count - first);
            for (Index r = 0; r < some; ++r) unpack(first + r, bits.row(r), 1);
            kernels.gemm(z(some), z(G.ld), z(L), bits.row(0), z(bits.ld), 1, G.row(0), z(G.ld), nullptr, 0, nullptr,
                         product.row(0), z(G.ld));
            for (Index r = 0; r < some; ++r) {
                start_square[z(first + r)] = float(-dot(L, bits.row(r), product.row(r)));
                for (Index e = 0; e < L; ++e) mean[z(e)] += bits.row(r)[e] / float(count);
            }
        }
    }
};

// One block column among all, in a metric that couples them: H Phi^T with all rows of H, and minus Phi H Phi^T.
struct CoupledBook {
    PaddedMatrix HPhiT, G;

    CoupledBook(const bqq_kernels& kernels, const Codebook& book, const PaddedMatrix& H, Index first)
        : HPhiT(H.rows, book.L), G(book.L, book.L) {
        PaddedMatrix columns(H.rows, book.n);
        for (Index r = 0; r < H.rows; ++r) std::copy_n(H.row(r) + first, book.n, columns.row(r));
        kernels.gemm(z(H.rows), z(HPhiT.ld), z(book.n), columns.row(0), z(columns.ld), 1, book.PhiT.row(0),
                     z(book.PhiT.ld), nullptr, 0, nullptr, HPhiT.row(0), z(HPhiT.ld));
        kernels.gemm(z(book.L), z(G.ld), z(book.n), book.Phi.row(0), z(book.Phi.ld), 1, HPhiT.row(first), z(HPhiT.ld),
                     nullptr, 0, nullptr, G.row(0), z(G.ld));
    }
};

// The bits of one row: `c` holds the correlations of what is left with the atoms.
class RowSearch {
  public:
    RowSearch(const bqq_kernels& kernels, Index ld, Index steps, std::uint64_t seed)
        : kernels_(kernels), ld_(ld), steps_(steps), seed_(seed), c_(z(ld)), bits_(z(ld)), best_(z(ld)),
          free_from_(z(ld)) {}

    /// c0: correlations of the target with the atoms, XX its squared norm. start: bits of the nearest row of q.
    void run(const Codebook& book, double XX, const float* c0, const std::vector<float>& start, float* out) {
        begin(book.G, XX);
        c0_ = c0;
        set(book.mean); // bits of stacks that have not had their turn are as they are on average
        for (Index begin = 0; begin < book.L; begin += book.l) {
            for (Index e = begin; e < begin + book.l; ++e) move(e, 0);
            improve(begin, begin + book.l);
        }
        improve(0, book.L);
        const double scratch = error();
        std::copy(bits_.begin(), bits_.end(), out);
        set(start);
        improve(0, book.L);
        if (error() < scratch) std::copy(bits_.begin(), bits_.end(), out);
    }

    /// Goes on from bits with these correlations.
    void resume(const PaddedMatrix& G, double XX, const float* c, float* bits) {
        begin(G, XX);
        std::copy_n(c, ld_, c_.begin());
        std::copy_n(bits, ld_, bits_.begin());
        improve(0, G.rows);
        std::copy(bits_.begin(), bits_.end(), bits);
    }

  private:
    void begin(const PaddedMatrix& G, double XX) {
        G_ = &G, XX_ = XX, step_ = 0;
        random_ = seed_ * 6364136223846793005u + 1442695040888963407u;
        std::fill(free_from_.begin(), free_from_.end(), Index(0));
    }
    void move(Index e, float to) {
        kernels_.axpy(z(ld_), to - bits_[z(e)], G_->row(e), c_.data());
        bits_[z(e)] = to;
    }
    void flip(Index e) { move(e, 1 - bits_[z(e)]); }
    void set(const std::vector<float>& bits) {
        std::copy_n(c0_, ld_, c_.begin());
        std::fill(bits_.begin(), bits_.end(), 0.0f);
        for (Index e = 0; e < G_->rows; ++e)
            if (bits[z(e)] != 0) move(e, bits[z(e)]);
    }
    double error() const { return XX_ - dot(ld_, bits_.data(), c0_) - dot(ld_, bits_.data(), c_.data()); }

    // Best flips among bits [begin, end), for better or worse, of bits that did not flip lately unless they give a new
    // lowest error; ends at the lowest.
    void improve(Index begin, Index end) {
        const double least_gain = tuning::kTabuGain * XX_;
        double now = 0, lowest = 0; // less than at the start
        best_ = bits_;
        for (const Index stop = step_ + steps_; step_ < stop;) {
            ++step_;
            double most = -INFINITY;
            Index best = -1;
            for (Index e = begin; e < end; ++e) {
                const float d = 1 - 2 * bits_[z(e)];
                const double gain = double(2 * d * c_[z(e)] + G_->row(e)[e]);
                if (gain > most && (free_from_[z(e)] <= step_ || now - gain < lowest - least_gain))
                    most = gain, best = e;
            }
            if (best < 0) continue;
            flip(best);
            now -= most;
            random_ = random_ * 6364136223846793005u + 1442695040888963407u;
            free_from_[z(best)] = step_ + 1 + tuning::kTabuTenure + Index((random_ >> 33) % tuning::kTabuTenure);
            if (now < lowest - least_gain) lowest = now, best_ = bits_;
        }
        for (Index e = begin; e < end; ++e)
            if (bits_[z(e)] != best_[z(e)]) flip(e);
    }

    const bqq_kernels& kernels_;
    const Index ld_, steps_;
    const std::uint64_t seed_;
    const PaddedMatrix* G_ = nullptr;
    double XX_ = 0;
    const float* c0_ = nullptr;
    Index step_ = 0;
    std::uint64_t random_ = 0;
    std::vector<float> c_, bits_, best_;
    std::vector<Index> free_from_;
};

// Up to kRows rows at a time, on one thread.
class RowEncoder {
  public:
    RowEncoder(const bqq_kernels& kernels, const Layout& a, Index steps, std::uint64_t seed)
        : kernels_(kernels), X_(kRows, a.n + 2 * kPad), T_(kRows, a.cols), TH_(kRows, a.cols), C_(kRows, a.p * a.l),
          E_(kRows, a.n + 2 * kPad), bits_(z(a.K), PaddedMatrix(kRows, a.p * a.l)), starts_(a.p * a.l, kStarts),
          scores_(kRows, kStarts), search_(kernels, C_.ld, steps, seed) {}

    float* row(Index r) { return X_.row(r); }
    Index ld() const { return X_.ld; }

    const PaddedMatrix& bits(Index k) const { return bits_[z(k)]; }

    /// The bits of the first `rows` rows for the columns of a book, which begin at `first`.
    void run(const Codebook& book, Index first, Index rows) {
        const PaddedMatrix* target = &T_;
        for (Index r = 0; r < rows; ++r) {
            float* t = T_.row(r);
            for (Index b = 0; b < book.n; ++b) t[b] = X_.row(r)[first + b] - book.held[z(b)];
            std::fill(t + book.n, t + T_.ld, 0.0f);
        }
        if (book.H) {
            kernels_.gemm(z(rows), z(book.H->ld), z(book.n), T_.row(0), z(T_.ld), 1, book.H->row(0), z(book.H->ld),
                          nullptr, 0, nullptr, TH_.row(0), z(TH_.ld));
            target = &TH_;
        }
        kernels_.gemm(z(rows), z(C_.ld), z(book.n), target->row(0), z(T_.ld), 1, book.PhiT.row(0), z(C_.ld), nullptr, 0,
                      nullptr, C_.row(0), z(C_.ld));
        const std::vector<Index> nearest = nearest_starts(book, rows);
        std::vector<float> start(z(C_.ld));
        for (Index r = 0; r < rows; ++r) {
            book.unpack(nearest[z(r)], start.data(), 1);
            search_.run(book, dot(book.n, T_.row(r), target->row(r)), C_.row(r), start, bits_[z(book.k)].row(r));
        }
    }

    /// What the bits of run() leave over.
    const PaddedMatrix& error(const Codebook& book, Index rows) {
        subtract(book, rows, T_.row(0), T_.ld);
        T_.rows = rows, T_.cols = book.n;
        return T_;
    }

    /// Searches each block column once more, now that all the others have their bits, in the metric of all together.
    /// Rows as they were before any error was moved: originals.
    void polish(const std::vector<std::unique_ptr<const Codebook>>& books, const std::vector<CoupledBook>& coupled,
                Index cols, const PaddedMatrix& originals) {
        const Index rows = originals.rows;
        for (Index r = 0; r < rows; ++r) std::copy_n(originals.row(r), originals.cols, E_.row(r));
        for (const auto& book : books) {
            for (Index r = 0; r < rows; ++r)
                for (Index b = 0; b < book->n; ++b) E_.row(r)[book->k * cols + b] -= book->held[z(b)];
            subtract(*book, rows, E_.row(0) + book->k * cols, E_.ld);
        }
        for (const auto& book : books) {
            const CoupledBook& own = coupled[z(book->k)];
            kernels_.gemm(z(rows), z(C_.ld), z(own.HPhiT.rows), E_.row(0), z(E_.ld), 1, own.HPhiT.row(0),
                          z(own.HPhiT.ld), nullptr, 0, nullptr, C_.row(0), z(C_.ld));
            PaddedMatrix& bits = bits_[z(book->k)];
            const PaddedMatrix before = bits;
            for (Index r = 0; r < rows; ++r)
                search_.resume(own.G, dot(originals.cols, E_.row(r), E_.row(r)), C_.row(r), bits.row(r));
            PaddedMatrix change = bits;
            for (std::size_t i = 0; i < change.v.size(); ++i) change.v[i] -= before.v[i];
            kernels_.gemm(z(rows), z(book->Phi.ld), z(book->L), change.row(0), z(change.ld), 1, book->Phi.row(0),
                          z(book->Phi.ld), E_.row(0) + book->k * cols, z(E_.ld), nullptr, E_.row(0) + book->k * cols,
                          z(E_.ld));
        }
    }

  private:
    // Of the first rows of X, what their bits stand for in the columns of a book.
    void subtract(const Codebook& book, Index rows, float* X, Index ld) {
        const PaddedMatrix& bits = bits_[z(book.k)];
        kernels_.gemm(z(rows), z(book.Phi.ld), z(book.L), bits.row(0), z(bits.ld), 1, book.Phi.row(0), z(book.Phi.ld),
                      X, z(ld), nullptr, X, z(ld));
    }

    // By |x - w|^2 = |x|^2 - 2 bits . c0 + |w|^2.
    std::vector<Index> nearest_starts(const Codebook& book, Index rows) {
        std::vector<float> least(z(rows), INFINITY);
        std::vector<Index> nearest(z(rows), 0);
        const Index count = Index(book.starts.size());
        for (Index first = 0; first < count; first += kStarts) {
            const Index some = std::min(kStarts, count - first);
            for (Index s = 0; s < some; ++s) book.unpack(first + s, starts_.row(0) + s, starts_.ld);
            kernels_.gemm(z(rows), z(starts_.ld), z(book.L), C_.row(0), z(C_.ld), 1, starts_.row(0), z(starts_.ld),
                          nullptr, 0, nullptr, scores_.row(0), z(scores_.ld));
            for (Index r = 0; r < rows; ++r)
                for (Index s = 0; s < some; ++s) {
                    const float distance = book.start_square[z(first + s)] - 2 * scores_.row(r)[s];
                    if (distance < least[z(r)]) least[z(r)] = distance, nearest[z(r)] = first + s;
                }
        }
        return nearest;
    }

    const bqq_kernels& kernels_;
    PaddedMatrix X_, T_, TH_, C_, E_;
    std::vector<PaddedMatrix> bits_;
    PaddedMatrix starts_, scores_;
    RowSearch search_;
};

Layout layout_for(const Layout& q, Index m) {
    if (q.J != 1)
        bad_argument("q has " + std::to_string(q.J) + " block rows, expected 1: decompose with patch of at least m");
    if (m < 1 || m > kMaxSide) bad_value("m", m, "1 or more rows");
    Layout a = q;
    a.m = m, a.J = ceil_div(m, kMaxBlockSide), a.rows = ceil_div(m, a.J);
    return a;
}

// In the order of the columns of q. Its entries and the order of its rows are those of its own rows.
Matrix encode_in_order(const View& q, const float* rows, const Layout& a, Index ldrows,
                       const DecomposeOptions& options) {
    View columns = q.blocks_alone();
    columns.layout = a;
    columns.col_order = q.col_order;
    const Arranged arranged(columns, rows, ldrows, options);
    Matrix out = encode(q.blocks_alone(), arranged.W(), a.m, arranged.ldw(), arranged.options());
    arranged.complete(out);
    return out;
}

} // namespace

Matrix encode(const View& q, const float* rows, Index m, Index ldrows, const DecomposeOptions& options) {
    validate(q);
    const Layout a = layout_for(q.layout, m);
    check_entries("rows", rows, "ldrows", {m, a.n, ldrows});
    if (!q.is_plain()) return encode_in_order(q, rows, a, ldrows, options);
    const Index steps = encode_steps(options);
    const std::unique_ptr<const Metric> metric = make_metric(a, options);
    const bool coupled = metric && metric->coupled();
    const bqq_kernels& table = kernels();
    Matrix out(a);
    for (Index j = 0; j < a.J; ++j) { // Z and scales once for each block row
        std::copy_n(q.Z, q.layout.z_bytes(), out.Z.data() + j * q.layout.z_bytes());
        std::copy_n(q.scales, q.layout.scales_count(), out.scales.data() + j * q.layout.scales_count());
    }
    const Scaled scaled(q);
    std::vector<std::unique_ptr<const Codebook>> books(z(a.K));
    const int threads = resolve_threads(options.threads);
    parallel_for(a.K, threads, [&](Index k, int) {
        books[z(k)] = std::make_unique<const Codebook>(table, scaled.view, k, metric ? &metric->patch(k) : nullptr);
    });
    std::vector<CoupledBook> together;
    for (Index k = 0; coupled && k < a.K; ++k) together.emplace_back(table, *books[z(k)], metric->whole(), k * a.cols);
    const Index chunks = ceil_div(a.rows, kRows), tasks = a.J * chunks;
    Progress progress(options.progress, m);
    std::vector<std::unique_ptr<RowEncoder>> encoders(z(std::min<Index>(threads, tasks)));
    const auto encode_chunk = [&](Index task, int worker) {
        auto& own = encoders[std::size_t(worker)];
        if (!own) own = std::make_unique<RowEncoder>(table, a, steps, options.seed);
        const Index j = task / chunks, begin = task % chunks * kRows, count = std::min(kRows, a.rows_of(j) - begin);
        if (count <= 0) return;
        PaddedMatrix originals(count, a.n);
        for (Index r = 0; r < count; ++r) {
            scaled.copy(rows + (j * a.rows + begin + r) * ldrows, a.n, originals.row(r));
            std::copy_n(originals.row(r), a.n, own->row(r));
        }
        for (Index k = 0; k < a.K; ++k) {
            own->run(*books[z(k)], k * a.cols, count);
            if (coupled) metric->compensate(table, k, own->error(*books[z(k)], count), own->row(0), own->ld());
        }
        if (coupled) own->polish(books, together, a.cols, originals);
        for (Index k = 0; k < a.K; ++k)
            for (Index i = 0; i < a.p; ++i)
                pack_bits(count, a.l, own->bits(k).row(0) + i * a.l, own->bits(k).ld,
                          out.Y.data() + ((j * a.K + k) * a.p + i) * a.y_plane_bytes() + begin * a.y_row_bytes(),
                          a.y_row_bytes());
        progress.advance(count, worker == 0);
    };
    parallel_for(tasks, int(encoders.size()), encode_chunk, [&] { progress.poll(); }, &progress.stop);
    progress.finish();
    return out;
}

} // namespace bqq
