// What the files of the Python module share.
#pragma once

#include "bqq/bqq.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <mutex>

namespace bindings {

namespace py = pybind11;
using bqq::Index;
using Floats = py::array_t<float, py::array::c_style>;
using Bytes = py::array_t<std::uint8_t, py::array::c_style>;

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

    /// Of W_hat or of its transpose. Any number of threads may ask.
    const bqq::PreparedMatrix& prepared(bool transposed) {
        const std::lock_guard<std::mutex> lock(guard_);
        auto& planes = prepared_[transposed];
        if (!planes) planes = std::make_unique<const bqq::PreparedMatrix>(view, transposed);
        return *planes;
    }

  private:
    std::mutex guard_;
    std::unique_ptr<const bqq::PreparedMatrix> prepared_[2];
};
using SharedMatrix = std::shared_ptr<HostMatrix>;

inline SharedMatrix share(bqq::Matrix&& q) { return std::make_shared<HostMatrix>(std::move(q)); }

// effort: the numbers of bqq::Effort. refine: as in DecomposeOptions.
// weight: n x n, n, or without elements for none.
inline bqq::DecomposeOptions options_of(Index l, Index patch, const std::string& schedule, int effort, Index steps,
                                        Index refine, const Floats& weight, double damping, std::uint64_t seed,
                                        int threads, const py::object& progress) {
    bqq::DecomposeOptions options;
    options.l = l, options.patch = patch, options.steps = steps, options.seed = seed, options.threads = threads;
    options.effort = static_cast<bqq::Effort>(effort), options.refine = refine;
    if (weight.size()) options.weight = weight.data(), options.ldweight = weight.ndim() == 2 ? weight.shape(1) : 0;
    options.damping = damping == 0 ? -1 : damping; // 0 is none here
    options.schedule = schedule == "paper" ? bqq::Schedule::paper : bqq::Schedule::adaptive;
    // Runs on the calling thread: the place where Ctrl-C and the caller's own exceptions surface.
    options.progress = [progress](Index done, Index total) {
        py::gil_scoped_acquire gil;
        if (PyErr_CheckSignals()) throw py::error_already_set();
        if (!progress.is_none()) progress(done, total);
        return true;
    };
    return options;
}

inline void check_shape(const Floats& W) {
    if (W.ndim() != 2) throw py::value_error("expected a 2-D array");
}

inline py::dict layout_dict(const bqq::Layout& a) {
    py::dict d;
    d["m"] = a.m, d["n"] = a.n, d["J"] = a.J, d["K"] = a.K, d["rows"] = a.rows, d["cols"] = a.cols;
    d["p"] = a.p, d["l"] = a.l, d["nbytes"] = a.nbytes(), d["bits_per_weight"] = a.bits_per_weight();
    return d;
}

/// File and save.
void bind_file(py::module_& m);
/// The GPU part of the module; only where it is built with CUDA.
void bind_cuda(py::module_& m);

} // namespace bindings
