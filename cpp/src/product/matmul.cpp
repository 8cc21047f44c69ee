// The product from bit planes, in the centred form. With v_k = sum_b (z_kb - 1/2) x_b and sigma = sum x,
//
//   w_k = r v_k + (s + r/2) sigma
//   y_a = sum_k (Y_ak - 1/2) w_k  +  sum over stacks of [ (r/2 + t) sum_k v_k + l/2 (s + r/2 + t) sigma ... ] + u sigma
//
// It equals the form of matmul.hpp, but in it large common parts never meet to cancel: float32 keeps its digits for
// inputs that are far from centred. (1/2 sum_k w_k contributes r/2 sum v and l/2 (s + r/2) sigma to the second line.)
//
// A few columns of X (a Way knows how many) go through both stages together, a few block rows at a time, so that what
// lies between the stages stays in the second-level cache.
#include "bqq/prepared.hpp"

#include "kernels/dispatch.hpp"
#include "parallel.hpp"
#include "pool.hpp"
#include "product/dense.hpp"
#include "product/prepared.hpp"
#include "product/strided.hpp"

#include <memory>
#include <optional>

namespace bqq {
namespace {

using namespace detail;

constexpr Index kTablesBytes = 32 << 10; // tables of one call: a first-level cache or less
constexpr Index kTallRows = 2048;        // rows of stage 1 that share tables: building them then costs little
constexpr Index kLatentBytes = 512 << 10;
constexpr Index kColumnsAtOnce = 64;  // columns of X that are held in float32
constexpr double kThreadedWork = 2e7; // bit operations, about 0.15 ms: below, threads cost more than they bring

// Columns from which the wide product of a precision is faster than tables, where there is one.
constexpr Index kWideFrom[kPrecisions] = {10, 6};
constexpr Index kDenseColumns = 256, kDenseBlockRows = 4; // so many threads can share the work

// How a product of so many columns is computed: by tables of four inputs, by the wide product, by dense tiles of What.
struct Way {
    const bqq_product* kernel; // NULL: dense
    Index columns;             // that go together
    bool wide;

    Way(const bqq_kernels& kernels, const Prepared& h, Precision precision, Index batch) {
        const int class_ = int(precision);
        wide = kernels.tile[class_].lookup && batch >= kWideFrom[class_];
        const bool dense =
            !wide && kernels.dense && precision == Precision::float32 && pays(kernels.rates, h.layout, batch);
        kernel = dense ? nullptr : wide ? &kernels.tile[class_] : &kernels.product[class_];
        columns = std::clamp<Index>(batch, 1, dense ? kDenseColumns : wide ? kTileVectors : kMaxVectors);
    }

    /// Blocks of `count` columns whose tables are built at a time. Tables: a multiple of kChunkBlocks that fits.
    Index blocks(Index count) const { return wide ? kTileBlocks : count == 1 ? 32 : count == 2 ? 16 : 8; }
    Index table_bytes() const { return wide ? ceil_div(columns, 16) * kTileBlocks * kTileBytes : kTablesBytes; }

  private:
    // Whether dense tiles are faster than tables.
    static bool pays(const bqq_rates& rates, const Layout& a, Index batch) {
        const double p = double(a.p), columns = double(batch), turns = double(ceil_div(batch, kDenseColumns));
        const double table = (1 + rates.table_rows / double(a.rows)) / rates.table;
        return a.J >= kDenseBlockRows && columns * (p * table - 1 / rates.gemm) > turns * p * double(a.l) / rates.count;
    }
};

// Up to kColumnsAtOnce columns of X: x[(k*columns + c)*ld + b] zero-padded to units, sigma[k*columns + c].
struct Inputs {
    Index columns, ld;
    float* x;
    double* sigma;

    Inputs(const Prepared& h, Index columns, Arena& arena) : columns(columns), ld(h.z_units().cols()) {
        x = arena.floats(h.layout.K * columns * ld);
        sigma = arena.take<double>(h.layout.K * columns);
    }

    void load(const Prepared& h, const ConstArray& X, Index column) {
        const Layout& a = h.layout;
        for (Index k = 0; k < a.K; ++k) {
            float* slice = x + k * columns * ld;
            load_columns(X, k * a.cols, a.cols_of(k), column, columns, slice, ld);
            for (Index c = 0; c < columns; ++c) {
                float* v = slice + c * ld;
                std::fill(v + a.cols_of(k), v + ld, 0.0f);
                double sum[8] = {};
                for (Index b = 0; b < ld; b += 8)
                    for (Index e = 0; e < 8; ++e) sum[e] += double(v[b + e]);
                sigma[k * columns + c] =
                    (sum[0] + sum[1]) + (sum[2] + sum[3]) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
            }
        }
    }
};

// What lies between the stages, for `columns` columns of `count` block rows: the columns of stage 2 of block row j in
// w[(j*columns + c)*ld + ...], zero-padded to units, and what every row of the block row gets besides.
struct Latents {
    Index columns, ld;
    float *w, *sums; // sums: kPanelRows partial sums each
    double* total;

    Latents(const Prepared& h, Index count, Index columns, Arena& arena) : columns(columns), ld(h.y_units().cols()) {
        w = arena.floats(count * columns * ld);
        sums = arena.floats(count * columns * kPanelRows);
        total = arena.take<double>(count * columns);
    }

    void begin(const Prepared& h, Index count) {
        const Index used = h.layout.K * h.latents();
        std::fill(total, total + count * columns, 0.0);
        std::fill(sums, sums + count * columns * kPanelRows, 0.0f);
        for (Index i = 0; i < count * columns; ++i) std::fill(w + i * ld + used, w + (i + 1) * ld, 0.0f);
    }

    // Block (j, k) of column c, from stage 1: v has p l entries. `slot`: the place of j.
    void put(const bqq_kernels& kernel, const Prepared& h, Index j, Index slot, Index k, Index c, const float* v,
             double sigma) {
        const Index at = slot * columns + c;
        kernel.apply_scales(std::size_t(h.layout.p), std::size_t(h.layout.l), h.block(j, k), float(sigma), v,
                       w + at * ld + k * h.latents(), sums + at * kPanelRows);
        total[at] += h.constant(j, k) * sigma;
    }

    void end(Index count) {
        for (Index at = 0; at < count * columns; ++at)
            for (Index lane = 0; lane < kPanelRows; ++lane) total[at] += double(sums[at * kPanelRows + lane]);
    }
};

// out[c*ldo + ...] = panels [begin, end) of a bit matrix, centred, times the vectors x + c*ldx.
void multiply(const Way& way, const Units& units, const std::uint8_t* bits, Index begin, Index end, const float* x,
              Index ldx, Index columns, float* tables, float* out, Index ldo) {
    const bqq_product& kernel = *way.kernel;
    const Index step = way.blocks(columns);
    for (Index b = 0; b < units.blocks; b += step) {
        const Index count = std::min(step, units.blocks - b);
        kernel.tables(std::size_t(count), std::size_t(columns), x + b * kUnitColumns, std::size_t(ldx), tables);
        for (Index q = begin; q < end;) {
            const Index panels = std::min(end, (q / kMaxPanels + 1) * kMaxPanels) - q;
            kernel.lookup(std::size_t(panels), std::size_t(count), bits + units.offset(q, b),
                          std::size_t(units.width(q) * kUnitBytes), std::size_t(columns), tables,
                          out + (q - begin) * kPanelRows, std::size_t(ldo), b > 0);
            q += panels;
        }
    }
}

// Columns [first, first + columns) of `in`, one panel at most, through block rows begin to end of stage 1.
struct Stage1 {
    const Prepared& h;
    const bqq_kernels& kernel;
    const Way& way;

    // Rows of the tall bit matrix that belong to block rows [begin, end), in whole panels.
    Index first_panel(Index begin) const { return begin * h.latents() / kPanelRows; }
    Index last_panel(Index end) const { return ceil_div(end * h.latents(), kPanelRows); }

    void run(const Inputs& in, Index first, Index columns, Index begin, Index end, float* tables, float* v,
             Latents& latents) const {
        latents.begin(h, end - begin);
        const Units units = h.z_units();
        const Index top = first_panel(begin), bottom = last_panel(end), ldv = (bottom - top) * kPanelRows;
        for (Index k = 0; k < h.layout.K; ++k) {
            multiply(way, units, h.z_bits(k), top, bottom, in.x + (k * in.columns + first) * in.ld, in.ld, columns,
                     tables, v, ldv);
            for (Index j = begin; j < end; ++j)
                for (Index c = 0; c < columns; ++c)
                    latents.put(kernel, h, j, j - begin, k, c, v + c * ldv + j * h.latents() - top * kPanelRows,
                                in.sigma[k * in.columns + first + c]);
        }
        latents.end(end - begin);
    }
};

// Block rows that go through stage 1 together.
Index rows_at_once(const Prepared& h, Index columns) {
    const Index tall = ceil_div(kTallRows, h.latents());
    const Index fit = kLatentBytes / (Index(sizeof(float)) * columns * h.y_units().cols());
    return std::max<Index>(1, std::min({tall, fit, h.layout.J}));
}

// The memory of one thread: the rows of a block and either tables and both sides of stage 1 or tiles of What.
struct Scratch {
    Index together;
    float *y, *tables = nullptr, *v = nullptr;
    std::optional<Latents> latents;
    std::optional<DenseTiles> dense;

    Scratch(const Prepared& h, const bqq_kernels& kernel, const Way& way, Index together, Arena& arena)
        : together(together), y(arena.floats(way.columns * h.y_units().rows())) {
        if (!way.kernel) {
            dense.emplace(h, kernel, arena);
            return;
        }
        tables = arena.floats(way.table_bytes() / Index(sizeof(float)));
        v = arena.floats(way.columns * (together * h.latents() + 2 * kPanelRows));
        latents.emplace(h, together, way.columns, arena);
    }
};

struct Product {
    const Prepared& h;
    const bqq_kernels& kernel;
    const Way& way;
    const ConstArray& X;
    const Array& out;
    const MatmulOptions& options;

    Stage1 stage1() const { return {h, kernel, way}; }

    // Rows [begin, end) of block row j, from its columns w and totals, to columns [column, column + columns) of out.
    void stage2(Index j, Index begin, Index end, Index column, Index columns, const float* w, Index ldw,
                const double* total, float* tables, float* y) const {
        const Index top = begin / kPanelRows, bottom = ceil_div(end, kPanelRows), ldy = (bottom - top) * kPanelRows;
        multiply(way, h.y_units(), h.y_bits(j), top, bottom, w, ldw, columns, tables, y, ldy);
        store_columns(y + begin - top * kPanelRows, ldy, total, out, j * h.layout.rows + begin, end - begin, column,
                      columns, options.accumulate);
    }

    // The same from tiles of What and columns [first, first + columns) of `in`.
    void dense(Index j, Index begin, Index end, const Inputs& in, Index first, Index column, Index columns,
               DenseTiles& tiles, float* y) const {
        const Layout& a = h.layout;
        const Index top = begin / kPanelRows, bottom = ceil_div(end, kPanelRows), ldy = (bottom - top) * kPanelRows;
        for (Index k = 0; k < a.K; ++k)
            for (Index b = 0; b < a.cols_of(k); b += DenseTiles::kColumns) {
                const Index count = std::min(DenseTiles::kColumns, a.cols_of(k) - b);
                tiles.select(j, k, b, count);
                for (Index q = top; q < bottom;) {
                    const Index panels = std::min(bottom, (q / kMaxPanels + 1) * kMaxPanels) - q;
                    const float* tile = tiles.tile(q, panels);
                    float* out = y + (q - top) * kPanelRows;
                    kernel.gemm(std::size_t(columns), std::size_t(panels * kPanelRows), std::size_t(count),
                                in.x + (k * in.columns + first) * in.ld + b, std::size_t(in.ld), 1, tile,
                                std::size_t(panels * kPanelRows), k || b ? out : nullptr, std::size_t(ldy), nullptr,
                                out, std::size_t(ldy));
                    q += panels;
                }
            }
        const double none[kDenseColumns] = {};
        store_columns(y + begin - top * kPanelRows, ldy, none, out, j * a.rows + begin, end - begin, column, columns,
                      options.accumulate);
    }

    // Rows [begin, end) of the matrix, all of block rows that go together, columns [first, first + columns) of `in`,
    // which start at `column` of X.
    void rows(const Inputs& in, Index first, Index column, Index columns, Index begin, Index end,
              Scratch& scratch) const {
        const Index rows = h.layout.rows, j0 = begin / rows, j1 = ceil_div(end, rows);
        const auto first_row = [&](Index j) { return std::max(begin, j * rows) - j * rows; };
        const auto end_row = [&](Index j) { return std::min(end, (j + 1) * rows) - j * rows; };
        if (!way.kernel) {
            for (Index j = j0; j < j1; ++j)
                dense(j, first_row(j), end_row(j), in, first, column, columns, *scratch.dense, scratch.y);
            return;
        }
        Latents& latents = *scratch.latents;
        latents.columns = columns;
        stage1().run(in, first, columns, j0, j1, scratch.tables, scratch.v, latents);
        for (Index j = j0; j < j1; ++j)
            stage2(j, first_row(j), end_row(j), column, columns, latents.w + (j - j0) * columns * latents.ld,
                   latents.ld, latents.total + (j - j0) * columns, scratch.tables, scratch.y);
    }
};

void check(const Layout& a, const ConstArray& X, const Array& out, const MatmulOptions& options) {
    if (X.rows != a.n) bad_argument("X has " + std::to_string(X.rows) + " rows, expected n = " + std::to_string(a.n));
    if (out.rows != a.m)
        bad_argument("out has " + std::to_string(out.rows) + " rows, expected m = " + std::to_string(a.m));
    if (X.cols < 0 || out.cols != X.cols)
        bad_argument("out has " + std::to_string(out.cols) + " columns and X " + std::to_string(X.cols) +
                     ", expected the same number");
    if (X.cols && (!X.data || !out.data)) bad_argument("X or out is a null pointer");
    for (const Dtype dtype : {X.dtype, out.dtype})
        if (int(dtype) < 0 || int(dtype) > int(Dtype::f64))
            bad_argument("dtype is " + std::to_string(int(dtype)) + ", expected 0 (f32), 1 (f16), 2 (bf16) or 3 (f64)");
    if (options.precision != Precision::float32 && options.precision != Precision::int8)
        bad_argument("precision is " + std::to_string(int(options.precision)) + ", expected 0 (float32) or 1 (int8)");
}

// A crew of threads: block rows times panels of columns or, where these are too few, first all of stage 1, then all of
// stage 2, both cut by rows.
class Threaded {
  public:
    Threaded(const Product& product, int crew, Index columns)
        : p_(product), h_(product.h), crew_(crew), columns_(columns), panels_(ceil_div(columns, product.way.columns)),
          together_(rows_at_once(h_, product.way.columns)) {
        const Index J = h_.layout.J;
        while (together_ > 1 && ceil_div(J, together_) * panels_ < 4 * crew) together_ = ceil_div(together_, 2);
        staged_ = product.way.kernel && crew > 1 && ceil_div(J, together_) * panels_ < 2 * crew;
    }

    void run() {
        Arena measure;
        allot(measure);
        std::unique_ptr<std::uint8_t[]> memory(new std::uint8_t[measure.used() + kAlign]);
        Arena arena(reinterpret_cast<void*>(aligned(reinterpret_cast<std::uintptr_t>(memory.get()))));
        allot(arena);
        for (Index column = 0; column < p_.X.cols; column += columns_) {
            Inputs in = inputs_.front();
            in.columns = std::min(columns_, p_.X.cols - column);
            in.load(h_, p_.X, column);
            if (staged_)
                in_stages(in, column);
            else
                at_once(in, column);
        }
    }

  private:
    void allot(Arena& arena) {
        inputs_.clear(), scratch_.clear(), latents_.clear();
        inputs_.emplace_back(h_, columns_, arena);
        for (int worker = 0; worker < crew_; ++worker)
            scratch_.emplace_back(h_, p_.kernel, p_.way, staged_ ? 1 : together_, arena);
        if (!staged_) return;
        v_ = arena.floats(h_.layout.K * columns_ * h_.z_units().rows());
        latents_.emplace_back(h_, h_.layout.J, columns_, arena);
    }

    Index panels(const Inputs& in) const { return ceil_div(in.columns, p_.way.columns); }
    Index panel_columns(const Inputs& in, Index first) const { return std::min(p_.way.columns, in.columns - first); }

    void at_once(const Inputs& in, Index column) {
        const Index panels = this->panels(in), groups = ceil_div(h_.layout.J, together_);
        Pool::run(groups * panels, crew_, [&](Index task, int worker) {
            const Index first = task % panels * p_.way.columns, group = task / panels;
            const Index begin = group * together_ * h_.layout.rows;
            const Index end = std::min(h_.layout.m, begin + together_ * h_.layout.rows);
            p_.rows(in, first, column + first, panel_columns(in, first), begin, end, scratch_[std::size_t(worker)]);
        });
    }

    // Panels of a task: enough to share tables, few enough for all threads.
    Index share(Index panels, Index others) const {
        const Index most = ceil_div(panels * others, 3 * crew_), least = 512 / kPanelRows;
        return ceil_div(std::max(std::min(least, panels), most), kMaxPanels) * kMaxPanels;
    }

    void in_stages(const Inputs& in, Index column) {
        const Layout& a = h_.layout;
        const Index panels = this->panels(in);
        const Units zu = h_.z_units(), yu = h_.y_units();
        const Index z_share = share(zu.panels, 1), z_tasks = ceil_div(zu.panels, z_share);
        Pool::run(a.K * panels * z_tasks, crew_, [&](Index task, int worker) {
            const Index top = task % z_tasks * z_share, first = task / z_tasks % panels * p_.way.columns;
            const Index k = task / z_tasks / panels;
            multiply(p_.way, zu, h_.z_bits(k), top, std::min(zu.panels, top + z_share),
                     in.x + (k * in.columns + first) * in.ld, in.ld, panel_columns(in, first),
                     scratch_[std::size_t(worker)].tables, v_ + (k * in.columns + first) * zu.rows() + top * kPanelRows,
                     zu.rows());
        });
        Latents& latents = latents_.front();
        latents.columns = in.columns;
        latents.begin(h_, a.J);
        for (Index k = 0; k < a.K; ++k)
            for (Index j = 0; j < a.J; ++j)
                for (Index c = 0; c < in.columns; ++c)
                    latents.put(p_.kernel, h_, j, j, k, c, v_ + (k * in.columns + c) * zu.rows() + j * h_.latents(),
                                in.sigma[k * in.columns + c]);
        latents.end(a.J);
        const Index y_share = share(yu.panels, 1), y_tasks = ceil_div(yu.panels, y_share);
        Pool::run(a.J * panels * y_tasks, crew_, [&](Index task, int worker) {
            const Index j = task / y_tasks / panels, first = task / y_tasks % panels * p_.way.columns;
            const Index begin = task % y_tasks * y_share * kPanelRows;
            const Index end = std::min(a.rows_of(j), begin + y_share * kPanelRows);
            if (begin >= end) return;
            Scratch& s = scratch_[std::size_t(worker)];
            const Index at = j * in.columns + first;
            p_.stage2(j, begin, end, column + first, panel_columns(in, first), latents.w + at * latents.ld, latents.ld,
                      latents.total + at, s.tables, s.y);
        });
    }

    const Product& p_;
    const Prepared& h_;
    int crew_;
    Index columns_, panels_, together_;
    bool staged_;
    std::vector<Inputs> inputs_;
    std::vector<Scratch> scratch_;
    std::vector<Latents> latents_;
    float* v_ = nullptr;
};

} // namespace

std::size_t workspace_size(const void* prepared, Index batch) {
    const Prepared& h = prepared_of(prepared);
    if (batch < 0) bad_argument("batch is " + std::to_string(batch) + ", expected 0 or more");
    std::size_t most = 0; // fewer columns may go with more block rows
    for (const Precision precision : {Precision::float32, Precision::int8})
        for (Index count = 1; count <= std::clamp<Index>(batch, 1, kDenseColumns); ++count) {
            const Way way(kernels(), h, precision, count);
            Arena arena;
            Inputs(h, way.columns, arena);
            Scratch(h, kernels(), way, rows_at_once(h, way.columns), arena);
            most = std::max(most, arena.used());
        }
    return most;
}

void matmul_rows(const void* prepared, const ConstArray& X, const Array& out, Index row_begin, Index row_end,
                 void* workspace, const MatmulOptions& options) {
    const Prepared& h = prepared_of(prepared);
    const Layout& a = h.layout;
    check(a, X, out, options);
    if (row_begin < 0 || row_begin > row_end || row_end > a.m)
        bad_argument("rows " + std::to_string(row_begin) + " to " + std::to_string(row_end) +
                     ", expected a range within 0 to " + std::to_string(a.m));
    if (!workspace || reinterpret_cast<std::uintptr_t>(workspace) % kAlign)
        bad_argument("workspace is null or not 64-byte aligned");
    if (X.cols == 0) return;
    const Way way(kernels(), h, options.precision, X.cols);
    const Index columns = way.columns, together = rows_at_once(h, columns);
    Arena arena(workspace);
    Inputs in(h, columns, arena);
    Scratch scratch(h, kernels(), way, together, arena);
    const Product product{h, kernels(), way, X, out, options};
    for (Index column = 0; column < X.cols; column += columns) {
        in.columns = std::min(columns, X.cols - column);
        in.load(h, X, column);
        for (Index row = row_begin; row < row_end;) {
            const Index stop = std::min(row_end, (row / a.rows + together) * a.rows);
            product.rows(in, 0, column, in.columns, row, stop, scratch);
            row = stop;
        }
    }
}

void matmul(const void* prepared, const ConstArray& X, const Array& out, const MatmulOptions& options) {
    const Prepared& h = prepared_of(prepared);
    const Layout& a = h.layout;
    check(a, X, out, options);
    if (X.cols == 0) return;
    const Way way(kernels(), h, options.precision, X.cols);
    const Product product{h, kernels(), way, X, out, options};
    const double work = double(a.p) * double(a.l) * double(a.m * a.K + a.n * a.J) * double(X.cols);
    const int crew = work < kThreadedWork ? 1 : resolve_threads(options.threads);
    Threaded(product, crew, std::min(X.cols, std::max(kColumnsAtOnce, way.columns))).run();
}

} // namespace bqq
