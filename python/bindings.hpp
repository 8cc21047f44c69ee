// What the files of the Python module share.
#pragma once

#include "bqq/bqq.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <thread>

#if defined(__GLIBCXX__)
#include <cxxabi.h>
#endif

namespace bindings {

namespace py = pybind11;
using bqq::Index;
/// Elements one after the other, at their alignment: arrays that are not so are copied.
template <class T> using Contiguous = py::array_t<T, py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_>;
using Floats = Contiguous<float>;
using Bytes = Contiguous<std::uint8_t>;

inline bool interpreter_has_ended() {
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing() || !Py_IsInitialized();
#else
    return _Py_IsFinalizing() || !Py_IsInitialized();
#endif
}

/// Calls f, which takes the GIL or runs Python. Where the interpreter has ended meanwhile, the thread sleeps until the
/// process ends, as in Python 3.14. Before, Python ends a thread that waits for the GIL with pthread_exit, which would
/// unwind through C++ that must not be left that way; and what it needs to take the GIL may be gone.
template <class F> void in_python(F&& f) {
    const auto sleep = [] {
        for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    };
    if (interpreter_has_ended()) sleep();
#if defined(__GLIBCXX__)
    try {
        f();
    } catch (abi::__forced_unwind&) {
        sleep();
    }
#else
    f();
#endif
}

/// The GIL is released for the life of the object.
class WithoutGil {
  public:
    WithoutGil() : state_(PyEval_SaveThread()) {}
    ~WithoutGil() {
        in_python([this] { PyEval_RestoreThread(state_); });
    }
    WithoutGil(const WithoutGil&) = delete;
    WithoutGil& operator=(const WithoutGil&) = delete;

  private:
    PyThreadState* state_;
};

/// And taken again within.
class WithGil {
  public:
    WithGil() {
        in_python([this] { gil_.emplace(); });
    }

  private:
    std::optional<py::gil_scoped_acquire> gil_;
};

/// What long work calls now and then with the GIL released, on the thread that the caller is on: Ctrl-C surfaces here.
class Interrupt {
  public:
    void operator()() {
        const auto now = std::chrono::steady_clock::now();
        if (now - last_ < std::chrono::milliseconds(50)) return;
        last_ = now;
        const WithGil gil;
        in_python([] {
            if (PyErr_CheckSignals()) throw py::error_already_set();
        });
    }

  private:
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

/// A compressed matrix in memory that `owner` keeps alive, and what products read, made on first use for each
/// direction.
struct HostMatrix {
    bqq::View view;
    std::shared_ptr<const void> owner;

    HostMatrix(bqq::View view, std::shared_ptr<const void> owner) : view(view), owner(std::move(owner)) {}
    explicit HostMatrix(bqq::Matrix&& q) {
        const auto kept = std::make_shared<const bqq::Matrix>(std::move(q));
        view = kept->view(), owner = kept;
    }

    HostMatrix(const HostMatrix&) = delete;
    HostMatrix& operator=(const HostMatrix&) = delete;
    ~HostMatrix() {
        for (const auto& planes : prepared_) delete planes.load();
    }

    /// Of W_hat or of its transpose. Any number of threads may ask; several that ask first each make it, one of them is
    /// kept. There is no lock: one that another thread holds when a process forks stays held for ever in the child.
    const bqq::PreparedMatrix& prepared(bool transposed) {
        auto& planes = prepared_[transposed];
        if (const bqq::PreparedMatrix* known = planes.load(std::memory_order_acquire)) return *known;
        auto made = std::make_unique<const bqq::PreparedMatrix>(view, transposed);
        const bqq::PreparedMatrix* first = nullptr;
        return planes.compare_exchange_strong(first, made.get()) ? *made.release() : *first;
    }

  private:
    std::atomic<const bqq::PreparedMatrix*> prepared_[2] = {};
};
using SharedMatrix = std::shared_ptr<HostMatrix>;

inline SharedMatrix share(bqq::Matrix&& q) { return std::make_shared<HostMatrix>(std::move(q)); }

/// Options that own what they point to. Used with the GIL released: nothing of Python is copied there.
struct Options : bqq::DecomposeOptions {
    py::object report = py::none();
    Floats metric;

    /// `progress` runs on the calling thread: the place where Ctrl-C and the caller's own exceptions surface.
    Options() {
        progress = [this](Index done, Index total) {
            const WithGil gil;
            in_python([&] { // no C++ objects in here: they would go without the GIL
                if (PyErr_CheckSignals()) throw py::error_already_set();
                if (report.is_none()) return;
                PyObject* answer = PyObject_CallFunction(report.ptr(), "nn", Py_ssize_t(done), Py_ssize_t(total));
                if (!answer) throw py::error_already_set();
                Py_DECREF(answer);
            });
            return true;
        };
    }
    Options(const Options&) = delete;
    Options& operator=(const Options&) = delete;

    /// (n, n), (n,) or, for none, without elements.
    void set_weight(const Floats& array) {
        metric = array;
        weight = array.size() ? array.data() : nullptr;
        ldweight = array.ndim() == 2 ? array.shape(1) : 0;
    }
};

inline void check_shape(const Floats& W) {
    if (W.ndim() != 2) throw py::value_error("expected a 2-D array");
}

/// Of the blocks alone.
inline py::dict layout_dict(const bqq::Layout& a) {
    py::dict d;
    d["m"] = a.m, d["n"] = a.n, d["J"] = a.J, d["K"] = a.K, d["rows"] = a.rows, d["cols"] = a.cols;
    d["p"] = a.p, d["l"] = a.l, d["nbytes"] = a.nbytes(), d["bits_per_weight"] = a.bits_per_weight();
    return d;
}
inline py::dict layout_dict(const bqq::Layout& a, bool transposed) {
    return layout_dict(transposed ? bqq::transposed_layout(a) : a);
}

inline py::dict layout_dict(const bqq::View& q, bool transposed) {
    py::dict d = layout_dict(q.layout, transposed);
    d["nbytes"] = q.nbytes(),
    d["bits_per_weight"] = 8.0 * double(q.nbytes()) / (double(q.layout.m) * double(q.layout.n));
    return d;
}

/// File and save.
void bind_file(py::module_& m);
/// Codec, VectorIndex and search.
void bind_ann(py::module_& m);
/// The GPU part of the module; only where it is built with CUDA.
void bind_cuda(py::module_& m);

} // namespace bindings
