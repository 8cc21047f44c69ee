// Binds the C++ face to Python, for NumPy arrays of the right type only: checking and converting is the Python side's
// work.
#include "bindings.hpp"

#include <pybind11/functional.h>

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

// As a matrix with the contracted axis first: X of `X @ q` is turned round.
template <class Result, class Pointer> Result oriented(const py::array& a, Pointer data, bool left) {
    const py::ssize_t size = a.itemsize(), last = a.ndim() - 1;
    if (last == 0) return {data, bqq::Dtype::f32, a.shape(0), 1, a.strides(0) / size, 1};
    const py::ssize_t row = left ? 1 : 0, col = 1 - row;
    return {data, bqq::Dtype::f32, a.shape(row), a.shape(col), a.strides(row) / size, a.strides(col) / size};
}

// Read-only array over memory that `owner` keeps alive.
template <class T> py::array view_of(const T* data, std::vector<py::ssize_t> shape, const SharedMatrix& owner) {
    py::array_t<T> array(std::move(shape), data, py::cast(owner));
    py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
    return array;
}

} // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    m.attr("__version__") = bqq::version();

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

    py::class_<HostMatrix, SharedMatrix>(m, "Matrix")
        .def(py::init([](Index rows, Index cols, Index J, Index K, Index p, Index l, const Bytes& Y, const Bytes& Z,
                         const Floats& scales) {
                 bqq::Layout a;
                 a.m = rows, a.n = cols, a.J = J, a.K = K, a.p = p, a.l = l;
                 a.rows = J > 0 ? (rows + J - 1) / J : 0, a.cols = K > 0 ? (cols + K - 1) / K : 0;
                 bqq::validate(a);
                 if (Y.size() != a.y_bytes() || Z.size() != a.z_bytes() || scales.size() != a.scales_count())
                     throw Error(ErrorCode::format, "the planes or scales do not have the sizes the layout asks for");
                 bqq::Matrix q(a);
                 std::copy_n(Y.data(), Y.size(), q.Y.data());
                 std::copy_n(Z.data(), Z.size(), q.Z.data());
                 std::copy_n(scales.data(), scales.size(), q.scales.data());
                 bqq::validate(q.view());
                 return share(std::move(q));
             }),
             py::arg("m"), py::arg("n"), py::arg("J"), py::arg("K"), py::arg("p"), py::arg("l"), py::arg("Y"),
             py::arg("Z"), py::arg("scales"))
        .def_property_readonly("layout", [](const HostMatrix& h) { return layout_dict(h.view.layout); })
        .def_property_readonly("Y",
                               [](const SharedMatrix& h) {
                                   const auto& a = h->view.layout;
                                   return view_of(h->view.Y, {a.J, a.K, a.p, a.rows, a.y_row_bytes()}, h);
                               })
        .def_property_readonly("Z",
                               [](const SharedMatrix& h) {
                                   const auto& a = h->view.layout;
                                   return view_of(h->view.Z, {a.J, a.K, a.p, a.l, a.z_row_bytes()}, h);
                               })
        .def_property_readonly("scales",
                               [](const SharedMatrix& h) {
                                   const auto& a = h->view.layout;
                                   return view_of(h->view.scales, {a.J, a.K, a.scales_per_block()}, h);
                               })
        .def("prefix",
             [](const HostMatrix& h, Index k) {
                 py::gil_scoped_release release;
                 return share(bqq::prefix(h.view, k));
             })
        .def("transpose",
             [](const HostMatrix& h) {
                 py::gil_scoped_release release;
                 return share(bqq::transpose(h.view));
             })
        .def("reconstruct",
             [](const HostMatrix& h, int threads) {
                 const auto& a = h.view.layout;
                 py::array_t<float> out({a.m, a.n});
                 float* data = out.mutable_data();
                 py::gil_scoped_release release;
                 bqq::reconstruct(h.view, data, a.n, threads);
                 return out;
             })
        .def("squared_error",
             [](const HostMatrix& h, const Floats& W, int threads) {
                 check_shape(W);
                 const float* data = W.data();
                 py::gil_scoped_release release;
                 return bqq::squared_error(h.view, data, h.view.layout.n, threads);
             })
        .def("matmul",
             [](HostMatrix& h, const py::array& X, py::array out, int threads, int precision) {
                 const auto x = strided<bqq::ConstArray>(X, X.data());
                 const auto y = strided<bqq::Array>(out, out.mutable_data());
                 py::gil_scoped_release release;
                 h.prepared(false).matmul(x, y, {threads, static_cast<bqq::Precision>(precision)});
             })
        // q @ X or, with `left`, X @ q.T for the commonest arguments, in a microsecond; None for all others, which go
        // the careful way.
        .def("quick",
             [](HostMatrix& h, const py::array& X, const py::object& out, bool left, int threads,
                int precision) -> py::object {
                 const auto& a = h.view.layout;
                 if (!is_plain(X)) return py::none();
                 const auto x = oriented<bqq::ConstArray>(X, X.data(), left);
                 if (x.rows != a.n) return py::none();
                 py::array target;
                 if (out.is_none()) {
                     std::vector<py::ssize_t> shape(X.shape(), X.shape() + X.ndim());
                     shape[left ? shape.size() - 1 : 0] = a.m;
                     target = py::array_t<float>(shape);
                 } else {
                     target = py::reinterpret_borrow<py::array>(out);
                     if (!is_plain(target) || !target.writeable() || target.ndim() != X.ndim()) return py::none();
                     const auto from = extent(X), to = extent(target);
                     if (from.first < to.second && to.first < from.second) return py::none();
                 }
                 const auto y = oriented<bqq::Array>(target, target.mutable_data(), left);
                 if (y.rows != a.m || y.cols != x.cols) return py::none();
                 {
                     py::gil_scoped_release release;
                     h.prepared(false).matmul(x, y, {threads, static_cast<bqq::Precision>(precision)});
                 }
                 return std::move(target);
             });

    m.def("layout", [](Index rows, Index cols, Index p, Index l, Index patch) {
        return layout_dict(bqq::make_layout(rows, cols, p, l, patch));
    });
    m.def("decompose", [](const Floats& W, Index p, Index l, Index patch, const std::string& schedule, int effort,
                          Index steps, Index refine, const Floats& weight, double damping, std::uint64_t seed,
                          int threads, const py::object& progress) {
        check_shape(W);
        const auto options =
            options_of(l, patch, schedule, effort, steps, refine, weight, damping, seed, threads, progress);
        const float* data = W.data();
        const Index rows = W.shape(0), cols = W.shape(1);
        py::gil_scoped_release release;
        return share(bqq::decompose(data, rows, cols, cols, p, options));
    });
    m.def("extend", [](const HostMatrix& h, const Floats& W, Index p, const std::string& schedule, int effort,
                       Index steps, Index refine, const Floats& weight, double damping, std::uint64_t seed, int threads,
                       const py::object& progress) {
        check_shape(W);
        const auto options =
            options_of(0, 0, schedule, effort, steps, refine, weight, damping, seed, threads, progress);
        const float* data = W.data();
        py::gil_scoped_release release;
        return share(bqq::extend(h.view, data, h.view.layout.n, p, options));
    });
    bind_file(m);
    m.def("config", &bqq::config);
    m.def("isa", &bqq::isa);
#if defined(BQQ_WITH_CUDA)
    bind_cuda(m);
#endif
}
