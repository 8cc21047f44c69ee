// The product from bit planes, in the centred form. With v_k = sum_b (z_kb - 1/2) x_b and sigma = sum x,
//
//   w_k = r v_k + (s + r/2) sigma
//   y_a = sum_k (Y_ak - 1/2) w_k  +  sum over stacks of [ (r/2 + t) sum_k v_k + l/2 (s + r/2 + t) sigma ]  +  u sigma
//
// It equals the form of bqq/prepared.hpp, but in it large common parts never meet to cancel: float32 keeps its digits
// for inputs that are far from centred. (1/2 sum_k w_k contributes r/2 sum_k v_k and l/2 (s + r/2) sigma to the second
// line.)
//
// A few columns of X (a ProductMethod knows how many) go through both stages together, a few block rows at a time, so
// that what lies between the stages stays in the second-level cache.
#include "bqq/prepared.hpp"
#include "kernels/dispatch.hpp"
#include "parallel.hpp"
#include "pool.hpp"
#include "product/stages.hpp"
#include "product/tuning.hpp"

namespace bqq {
namespace {

using namespace detail;

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
            bad_value("dtype", int(dtype), "0 (f32), 1 (f16), 2 (bf16) or 3 (f64)");
    if (options.precision != Precision::float32 && options.precision != Precision::fast)
        bad_value("precision", int(options.precision), "0 (float32) or 1 (fast)");
}

// A crew of threads: block rows times groups of columns or, where these are too few, first all of stage 1, then all of
// stage 2, both cut by rows.
class Threaded {
  public:
    Threaded(const Product& product, int crew, Index columns)
        : p_(product), h_(product.h), crew_(crew), columns_(columns), width_(product.method.columns),
          together_(rows_at_once(h_, width_)) {
        const bool dense = product.method.kind == ProductMethod::dense;
        const Index groups = ceil_div(columns, width_);
        const auto tasks = [&] { return ceil_div(h_.layout.J, together_) * groups; };
        while (together_ > 1 && tasks() < kTasksPerThread * crew) together_ = ceil_div(together_, 2);
        staged_ = !dense && crew > 1 && tasks() < kFewTasksPerThread * crew;
        rows_ = together_ * h_.layout.rows;
        if (!dense || crew == 1) return;
        const Index tiles = h_.layout.m * groups / (kTasksPerThread * crew) / DenseTiles::kRows; // cuts block rows, too
        rows_ = std::min(rows_, std::max<Index>(tiles, 1) * DenseTiles::kRows);
    }

    void run(const ConstArray& X) {
        Arena measure;
        allot(measure);
        const AlignedMemory memory(measure.used());
        Arena arena(memory.data());
        allot(arena);
        Inputs& in = *inputs_;
        for (Index column = 0; column < X.cols; column += columns_) {
            in.load(X, column, std::min(columns_, X.cols - column));
            if (staged_)
                in_stages();
            else
                at_once();
        }
    }

  private:
    void allot(Arena& arena) {
        inputs_.emplace(h_, p_.method, columns_, arena);
        scratch_.clear(), between_.clear();
        for (int worker = 0; worker < crew_; ++worker)
            scratch_.emplace_back(h_, p_.kernels, p_.method, staged_ ? 1 : together_, arena);
        if (!staged_) return;
        v_ = arena.floats(h_.layout.K * p_.method.room(columns_) * h_.z_units().rows());
        for (Index g = 0; g < inputs_->groups(); ++g)
            between_.emplace_back(h_, p_.method, h_.layout.J, inputs_->group(g).count, arena);
    }

    // What stage 1 makes of a group of columns and block column k.
    VectorsOf<float> v(Columns group, Index k) const {
        const Index room = p_.method.room(group.count), rows = h_.z_units().rows();
        return p_.method.arrange(v_ + (group.first * h_.layout.K + k * room) * rows, rows, group.count);
    }

    void at_once() {
        const Index groups = inputs_->groups(), m = h_.layout.m;
        Pool::run(ceil_div(m, rows_) * groups, crew_, [&](Index task, int worker) {
            const Index begin = task / groups * rows_, end = std::min(m, begin + rows_);
            p_.rows(*inputs_, inputs_->group(task % groups), begin, end, scratch_[std::size_t(worker)]);
        });
    }

    void in_stages() {
        const Index J = h_.layout.J;
        stage1();
        for (Index g = 0; g < inputs_->groups(); ++g) {
            const Columns group = inputs_->group(g);
            StageBuffer& between = between_[std::size_t(g)];
            between.begin(J, group.count);
            for (Index k = 0; k < h_.layout.K; ++k)
                between.put(p_.kernels, k, 0, J, v(group, k), inputs_->sigma(group, k));
            between.end(J);
        }
        stage2();
    }

    // Calls body(i, group, begin, end, scratch) for matrices i < count, all groups of columns and all panels, by tasks
    // of panels: enough to share tables, few enough for all threads.
    template <class Body> void for_panels(Index count, Index panels, Body&& body) {
        const Index most = ceil_div(panels, kStageTasksPerThread * crew_), least = kStageRows / kPanelRows;
        const Index share = ceil_div(std::max(std::min(least, panels), most), kMaxPanels) * kMaxPanels;
        const Index shares = ceil_div(panels, share), groups = inputs_->groups();
        Pool::run(count * groups * shares, crew_, [&](Index task, int worker) {
            const Index begin = task % shares * share;
            body(task / shares / groups, task / shares % groups, begin, std::min(panels, begin + share),
                 scratch_[std::size_t(worker)]);
        });
    }

    void stage1() {
        for_panels(h_.layout.K, h_.z_units().panels, [&](Index k, Index g, Index begin, Index end, Scratch& s) {
            const Columns group = inputs_->group(g);
            multiply(p_.method, p_.z(k), begin, end, inputs_->x(group, k), s, v(group, k).from(begin * kPanelRows));
        });
    }

    void stage2() {
        for_panels(h_.layout.J, h_.y_units().panels, [&](Index j, Index g, Index begin, Index end, Scratch& s) {
            const Index first = begin * kPanelRows, last = std::min(h_.layout.rows_of(j), end * kPanelRows);
            if (first < last) p_.stage2(j, first, last, between_[std::size_t(g)], j, *inputs_, inputs_->group(g), s);
        });
    }

    const Product& p_;
    const Prepared& h_;
    int crew_;
    Index columns_, width_, together_, rows_; // columns held, going together; block rows together; rows of a task
    bool staged_;
    std::optional<Inputs> inputs_;
    std::vector<Scratch> scratch_;
    std::vector<StageBuffer> between_; // of the whole matrix, for each group, when staged
    float* v_ = nullptr;
};

} // namespace

std::size_t workspace_size(const void* prepared, Index batch) {
    const Prepared& h = prepared_of(prepared);
    if (batch < 0) bad_value("batch", batch, "0 or more");
    std::size_t most = 0; // fewer columns may go with more block rows
    for (const Precision precision : {Precision::float32, Precision::fast})
        for (Index count = 1; count <= std::clamp<Index>(batch, 1, kDenseColumns); ++count) {
            const ProductMethod method(kernels(), h.layout, precision, count);
            Arena arena;
            Inputs(h, method, method.columns, arena);
            Scratch(h, kernels(), method, rows_at_once(h, method.columns), arena);
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
    if (!workspace || !is_aligned(workspace)) bad_argument("workspace is null or not 64-byte aligned");
    if (X.cols == 0) return;
    const ProductMethod method(kernels(), a, options.precision, X.cols);
    const Index columns = method.columns, together = rows_at_once(h, columns);
    Arena arena(workspace);
    Inputs in(h, method, columns, arena);
    Scratch scratch(h, kernels(), method, together, arena);
    const Product product{h, kernels(), method, out, options.accumulate, row_begin, row_end};
    // With an order, rows of the range may lie anywhere.
    const std::uint32_t* order = h.row_order();
    const Index first = order ? 0 : row_begin, last = order ? a.m : row_end;
    const auto wanted = [&](std::uint32_t row) { return Index(row) >= row_begin && Index(row) < row_end; };
    for (Index column = 0; column < X.cols; column += columns) {
        in.load(X, column, std::min(columns, X.cols - column));
        for (Index row = first; row < last;) {
            const Index stop = std::min(last, (row / a.rows + together) * a.rows);
            if (!order || std::any_of(order + row, order + stop, wanted))
                product.rows(in, {0, in.columns}, row, stop, scratch);
            row = stop;
        }
    }
}

void detail::matmul_by(const ProductMethod& method, const void* prepared, const ConstArray& X, const Array& out,
                       const MatmulOptions& options) {
    const Prepared& h = prepared_of(prepared);
    const Layout& a = h.layout;
    const Product product{h, kernels(), method, out, options.accumulate, 0, a.m};
    const double work = double(a.p) * double(a.l) * double(a.m * a.K + a.n * a.J) * double(X.cols);
    const int crew = work < kThreadedWork ? 1 : resolve_threads(options.threads);
    Threaded(product, crew, std::min(X.cols, std::max(kColumnsAtOnce, method.columns))).run(X);
}

void matmul(const void* prepared, const ConstArray& X, const Array& out, const MatmulOptions& options) {
    const Layout& a = prepared_of(prepared).layout;
    check(a, X, out, options);
    if (X.cols == 0) return;
    matmul_by({kernels(), a, options.precision, X.cols}, prepared, X, out, options);
}

} // namespace bqq
