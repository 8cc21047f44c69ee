// Binds the C++ face to Python, for NumPy arrays of the right type only: checking and converting is the Python side's
// work.
#include "bindings.hpp"

#include <pybind11/native_enum.h>

using bqq::Error;
using bqq::ErrorCode;

namespace {

using namespace bindings;

bqq::Dtype dtype_of(const py::array& a) {
    const py::dtype dtype = a.dtype();
    if (dtype.kind() == 'f' && dtype.itemsize() == 4) return bqq::Dtype::f32;
    if (dtype.kind() == 'f' && dtype.itemsize() == 2) return bqq::Dtype::f16;
    if (dtype.kind() == 'f' && dtype.itemsize() == 8) return bqq::Dtype::f64;
    throw py::type_error("expected float16, float32 or float64");
}

template <class Result, class Pointer> Result strided(const py::array& a, Pointer data) {
    if (a.ndim() != 2) throw py::value_error("expected a 2-D array");
    const py::ssize_t size = a.itemsize();
    if (a.strides(0) % size || a.strides(1) % size) throw py::value_error("strides are not whole elements");
    return {data, dtype_of(a), a.shape(0), a.shape(1), a.strides(0) / size, a.strides(1) / size};
}

// A float32 array of one or two dimensions, aligned, in whole strides, not empty.
bool is_plain(const py::array& a) {
    const int aligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    bool plain = py::isinstance<py::array_t<float>>(a) && (a.flags() & aligned) && a.size() > 0 && a.ndim() >= 1 &&
                 a.ndim() <= 2;
    for (py::ssize_t d = 0; plain && d < a.ndim(); ++d) plain = a.strides(d) % a.itemsize() == 0;
    return plain;
}

// The bytes an array reaches into.
std::pair<std::intptr_t, std::intptr_t> extent(const py::array& a) {
    auto low = reinterpret_cast<std::intptr_t>(a.data()), high = low + a.itemsize();
    for (py::ssize_t d = 0; d < a.ndim(); ++d) (a.strides(d) < 0 ? low : high) += a.strides(d) * (a.shape(d) - 1);
    return {low, high};
}

// A plain array as a matrix with the contracted axis first: that is the last one of X in `X @ q`.
template <class Result, class Pointer> Result as_columns(const py::array& a, Pointer data, bool left) {
    const py::ssize_t size = a.itemsize(), last = a.ndim() - 1;
    if (last == 0) return {data, bqq::Dtype::f32, a.shape(0), 1, a.strides(0) / size, 1};
    const py::ssize_t row = left ? 1 : 0, col = 1 - row;
    return {data, bqq::Dtype::f32, a.shape(row), a.shape(col), a.strides(row) / size, a.strides(col) / size};
}

// Read-only array over memory of the matrix.
template <class T> py::array view_of(const T* data, std::vector<py::ssize_t> shape, const SharedMatrix& owner) {
    py::array_t<T> array(std::move(shape), data, py::cast(owner));
    py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
    return array;
}

// Y (J, K, p, rows, bytes of a row), Z (J, K, p, l, bytes of a row) and scales, copied and checked.
SharedMatrix from_planes(Index m, Index n, const Bytes& Y, const Bytes& Z, const Floats& scales) {
    if (Y.ndim() != 5 || Z.ndim() != 5) throw Error(ErrorCode::format, "expected planes of 5 dimensions");
    bqq::Layout a;
    a.m = m, a.n = n, a.J = Y.shape(0), a.K = Y.shape(1), a.p = Y.shape(2), a.l = Z.shape(3);
    const auto side = [](Index whole, Index count) { // of a block; what is out of range is refused below
        return count > 0 && whole > 0 && whole <= bqq::kMaxSide ? (whole + count - 1) / count : 0;
    };
    a.rows = side(m, a.J), a.cols = side(n, a.K);
    bqq::validate(a);
    if (Y.size() != a.y_bytes() || Z.size() != a.z_bytes() || scales.size() != a.scales_count())
        throw Error(ErrorCode::format, "the planes or scales do not have the sizes the layout asks for");
    const bqq::View view{a, Y.data(), Z.data(), scales.data()};
    bqq::validate(view);
    return share(bqq::Matrix(view));
}

// Columns [first, first + count) of an array of elements of so many bytes.
template <class Result, class Pointer> Result columns(const Result& a, Pointer data, Index first, Index count) {
    const Index size = a.dtype == bqq::Dtype::f64 ? 8 : a.dtype == bqq::Dtype::f32 ? 4 : 2;
    Result part = a;
    part.data = data + first * a.col_stride * size, part.cols = count;
    return part;
}

// The product, in pieces of about a quarter of a second where it takes longer: Ctrl-C surfaces between them. With the
// GIL released.
void multiply(HostMatrix& q, const bqq::ConstArray& X, const bqq::Array& out, bool transposed,
              const bqq::MatmulOptions& options) {
    constexpr Index least = 256; // the most columns that go through a product together
    constexpr double work = 1e10;
    const bqq::PreparedMatrix& prepared = q.prepared(transposed);
    const bqq::Layout& a = prepared.layout();
    const double column = double(a.p) * double(a.l) * (double(a.m) * double(a.K) + double(a.n) * double(a.J));
    const Index piece = std::max<Index>(1, Index(work / column / least)) * least;
    Interrupt interrupt;
    Index first = 0;
    for (; X.cols == out.cols && X.cols - first >= 2 * piece; first += piece) {
        prepared.matmul(columns(X, static_cast<const char*>(X.data), first, piece),
                        columns(out, static_cast<char*>(out.data), first, piece), options);
        interrupt();
    }
    prepared.matmul(columns(X, static_cast<const char*>(X.data), first, X.cols - first),
                    columns(out, static_cast<char*>(out.data), first, X.cols - first), options);
}

// A matrix that shares the planes of `q` and owns what is new.
template <class Change> SharedMatrix changed(const SharedMatrix& q, Change&& change) {
    struct Parts {
        SharedMatrix base;
        bqq::Matrix own;
    };
    const auto parts = std::make_shared<Parts>();
    parts->base = q;
    bqq::View view = q->view;
    change(view, parts->own);
    bqq::validate(view);
    return std::make_shared<HostMatrix>(view, parts);
}

using Orders = Contiguous<std::uint32_t>;

// Orders without elements: none. Entries ascending by row and column.
SharedMatrix with_extras(const SharedMatrix& q, const Orders& row_order, const Orders& col_order, const Orders& rows,
                         const Orders& cols, const Floats& values) {
    const bqq::Layout& a = q->view.layout;
    if ((row_order.size() && row_order.size() != a.m) || (col_order.size() && col_order.size() != a.n) ||
        rows.size() != cols.size() || rows.size() != values.size())
        throw Error(ErrorCode::format, "orders or entries do not have the sizes that the shape asks for");
    return changed(q, [&](bqq::View& view, bqq::Matrix& own) {
        own.row_order.assign(row_order.data(), row_order.data() + row_order.size());
        own.col_order.assign(col_order.data(), col_order.data() + col_order.size());
        for (py::ssize_t i = 0; i < rows.size(); ++i)
            own.entries.push_back({rows.data()[i], cols.data()[i], values.data()[i]});
        const bqq::View extras = own.view();
        view.row_order = extras.row_order, view.col_order = extras.col_order;
        view.entries = extras.entries, view.entry_count = extras.entry_count;
    });
}

SharedMatrix with_scales(const SharedMatrix& q, const Floats& scales) {
    if (scales.size() != q->view.layout.scales_count())
        throw Error(ErrorCode::format, "the scales do not have the size that the layout asks for");
    return changed(q, [&](bqq::View& view, bqq::Matrix& own) {
        own.scales.assign(scales.data(), scales.data() + scales.size());
        view.scales = own.scales.data();
    });
}

// None without one.
py::object order_of(const std::uint32_t* order, Index side, const SharedMatrix& q) {
    return order ? py::object(view_of(order, {side}, q)) : py::none();
}

// Rows, columns and values.
py::tuple entries_of(const HostMatrix& q) {
    const auto count = py::ssize_t(q.view.entry_count);
    py::array_t<std::uint32_t> rows(count), cols(count);
    py::array_t<float> values(count);
    for (py::ssize_t i = 0; i < count; ++i) {
        const bqq::Entry& e = q.view.entries[i];
        rows.mutable_data()[i] = e.row, cols.mutable_data()[i] = e.col, values.mutable_data()[i] = e.value;
    }
    return py::make_tuple(rows, cols, values);
}

void matmul(HostMatrix& q, const py::array& X, py::array out, bool transposed, const bqq::MatmulOptions& options) {
    const auto x = strided<bqq::ConstArray>(X, X.data());
    const auto y = strided<bqq::Array>(out, out.mutable_data());
    const WithoutGil release;
    multiply(q, x, y, transposed, options);
}

// W_hat X or, with `left`, X W_hat^T, W_hat being transposed if `transposed`, for the commonest arguments in a
// microsecond; None for all others, which go the careful way.
py::object matmul_f32_fast(HostMatrix& q, const py::array& X, const py::object& out, bool transposed, bool left,
                           const bqq::MatmulOptions& options) {
    const bqq::Layout& a = q.view.layout;
    const Index m = transposed ? a.n : a.m, n = transposed ? a.m : a.n;
    if (!is_plain(X)) return py::none();
    const auto x = as_columns<bqq::ConstArray>(X, X.data(), left);
    if (x.rows != n) return py::none();
    py::array target;
    if (out.is_none()) {
        std::vector<py::ssize_t> shape(X.shape(), X.shape() + X.ndim());
        shape[left ? shape.size() - 1 : 0] = m;
        target = py::array_t<float>(shape);
    } else {
        target = py::reinterpret_borrow<py::array>(out);
        if (!is_plain(target) || !target.writeable() || target.ndim() != X.ndim()) return py::none();
        const auto from = extent(X), to = extent(target);
        if (from.first < to.second && to.first < from.second) return py::none();
    }
    const auto y = as_columns<bqq::Array>(target, target.mutable_data(), left);
    if (y.rows != m || y.cols != x.cols) return py::none();
    {
        const WithoutGil release;
        multiply(q, x, y, transposed, options);
    }
    return std::move(target);
}

void bind_errors(py::module_& m) {
    static py::object format_error = py::exception<Error>(m, "FormatError", PyExc_ValueError);
    py::register_exception_translator([](std::exception_ptr p) {
        try {
            if (p) std::rethrow_exception(p);
        } catch (const Error& e) {
            switch (e.code()) {
            case ErrorCode::invalid_argument:
                PyErr_SetString(PyExc_ValueError, e.what());
                break;
            case ErrorCode::out_of_memory:
                PyErr_SetString(PyExc_MemoryError, e.what());
                break;
            case ErrorCode::io:
                if (e.system_error())
                    PyErr_SetObject(PyExc_OSError, py::make_tuple(e.system_error(), e.what()).ptr());
                else
                    PyErr_SetString(PyExc_OSError, e.what());
                break;
            case ErrorCode::format:
                PyErr_SetString(format_error.ptr(), e.what());
                break;
            default:
                PyErr_SetString(PyExc_RuntimeError, e.what());
            }
        }
    });
}

void bind_options(py::module_& m) {
    py::native_enum<bqq::Schedule>(m, "Schedule", "enum.Enum")
        .value("adaptive", bqq::Schedule::adaptive)
        .value("paper", bqq::Schedule::paper)
        .finalize();
    py::native_enum<bqq::Effort>(m, "Effort", "enum.Enum")
        .value("standard", bqq::Effort::standard)
        .value("fast", bqq::Effort::fast)
        .value("best", bqq::Effort::best)
        .finalize();
    py::native_enum<bqq::Precision>(m, "Precision", "enum.Enum")
        .value("float32", bqq::Precision::float32)
        .value("fast", bqq::Precision::fast)
        .finalize();
    py::native_enum<bqq::Order>(m, "Order", "enum.Enum")
        .value("none", bqq::Order::none)
        .value("weight", bqq::Order::weight)
        .finalize();
    m.attr("REFINE_OF_EFFORT") = bqq::kRefineOfEffort;

    py::class_<Options>(m, "DecomposeOptions")
        .def(py::init())
        .def_readwrite("l", &Options::l)
        .def_readwrite("patch", &Options::patch)
        .def_readwrite("schedule", &Options::schedule)
        .def_readwrite("effort", &Options::effort)
        .def_readwrite("steps", &Options::steps)
        .def_readwrite("refine", &Options::refine)
        .def_property(
            "weight", [](const Options& o) { return o.metric; }, &Options::set_weight)
        .def_readwrite("damping", &Options::damping)
        .def_readwrite("order", &Options::order)
        .def_readwrite("outliers", &Options::outliers)
        .def_readwrite("seed", &Options::seed)
        .def_readwrite("threads", &Options::threads)
        .def_readwrite("progress", &Options::report);
    py::class_<bqq::MatmulOptions>(m, "MatmulOptions")
        .def(py::init())
        .def_readwrite("threads", &bqq::MatmulOptions::threads)
        .def_readwrite("precision", &bqq::MatmulOptions::precision);
}

void bind_matrix(py::module_& m) {
    py::class_<HostMatrix, SharedMatrix>(m, "Matrix")
        .def(py::init(&from_planes))
        .def("layout", [](const HostMatrix& q, bool transposed) { return layout_dict(q.view, transposed); })
        .def_property_readonly("Y",
                               [](const SharedMatrix& q) {
                                   const auto& a = q->view.layout;
                                   return view_of(q->view.Y, {a.J, a.K, a.p, a.rows, a.y_row_bytes()}, q);
                               })
        .def_property_readonly("Z",
                               [](const SharedMatrix& q) {
                                   const auto& a = q->view.layout;
                                   return view_of(q->view.Z, {a.J, a.K, a.p, a.l, a.z_row_bytes()}, q);
                               })
        .def_property_readonly("scales",
                               [](const SharedMatrix& q) {
                                   const auto& a = q->view.layout;
                                   return view_of(q->view.scales, {a.J, a.K, a.scales_per_block()}, q);
                               })
        .def_property_readonly("row_order",
                               [](const SharedMatrix& q) { return order_of(q->view.row_order, q->view.layout.m, q); })
        .def_property_readonly("col_order",
                               [](const SharedMatrix& q) { return order_of(q->view.col_order, q->view.layout.n, q); })
        .def_property_readonly("entries", &entries_of)
        .def("with_extras", &with_extras)
        .def("with_scales", &with_scales)
        .def("prefix",
             [](const HostMatrix& q, Index k) {
                 const WithoutGil release;
                 return share(bqq::prefix(q.view, k));
             })
        .def("transpose",
             [](const HostMatrix& q) {
                 const WithoutGil release;
                 return share(bqq::transpose(q.view));
             })
        .def("reconstruct",
             [](const HostMatrix& q, int threads) {
                 const auto& a = q.view.layout;
                 py::array_t<float> out({a.m, a.n});
                 float* data = out.mutable_data();
                 const WithoutGil release;
                 bqq::reconstruct(q.view, data, a.n, threads, Interrupt());
                 return out;
             })
        .def("row_squares",
             [](const HostMatrix& q, int threads) {
                 py::array_t<float> out(q.view.layout.m);
                 float* data = out.mutable_data();
                 const WithoutGil release;
                 bqq::row_squares(q.view, data, threads, Interrupt());
                 return out;
             })
        .def("squared_error",
             [](const HostMatrix& q, const Floats& W, int threads) {
                 check_shape(W);
                 const float* data = W.data();
                 const WithoutGil release;
                 return bqq::squared_error(q.view, data, q.view.layout.n, threads, Interrupt());
             })
        .def("matmul", &matmul)
        .def("matmul_f32_fast", &matmul_f32_fast);
}

void bind_decompose(py::module_& m) {
    m.def("layout", [](Index rows, Index cols, Index p, Index l, Index patch) {
        return layout_dict(bqq::make_layout(rows, cols, p, l, patch));
    });
    m.def("decompose", [](const Floats& W, Index p, const Options& options) {
        check_shape(W);
        const float* data = W.data();
        const Index rows = W.shape(0), cols = W.shape(1);
        const WithoutGil release;
        return share(bqq::decompose(data, rows, cols, cols, p, options));
    });
    m.def("extend", [](const HostMatrix& q, const Floats& W, Index p, const Options& options) {
        check_shape(W);
        const float* data = W.data();
        const WithoutGil release;
        return share(bqq::extend(q.view, data, q.view.layout.n, p, options));
    });
    m.def("encode", [](const HostMatrix& q, const Floats& rows, const Options& options) {
        check_shape(rows);
        const float* data = rows.data();
        const Index count = rows.shape(0), width = rows.shape(1);
        const WithoutGil release;
        return share(bqq::encode(q.view, data, count, width, options));
    });
}

} // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    m.attr("__version__") = bqq::version();
    m.def("config", &bqq::config);
    m.def("isa", &bqq::isa);
    bind_errors(m);
    bind_options(m);
    bind_matrix(m);
    bind_decompose(m);
    bind_file(m);
    bind_ann(m);
#if defined(BQQ_WITH_CUDA)
    bind_cuda(m);
#endif
}
