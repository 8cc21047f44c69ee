// The GPU part of the module: memory and matrices on a device, and calls that take addresses there. Shapes and dtypes
// are the Python side's work (_cuda.py); addresses are checked here. A stream is its cudaStream_t as a number, 0 and 1
// being the legacy default stream; work is ordered on it, and only what says so waits.
#include "bindings.hpp"
#include "bqq/cuda.hpp"
#include "dlpack.hpp"

#include <cuda_runtime_api.h>

#include <new>

namespace {

using namespace bindings;
using bqq::Error;
using bqq::ErrorCode;
using Address = std::uintptr_t;

void check(cudaError_t e, const char* what) {
    if (e == cudaSuccess) return;
    (void)cudaGetLastError();
    if (e == cudaErrorMemoryAllocation) throw std::bad_alloc();
    throw Error(ErrorCode::internal, std::string(what) + ": " + cudaGetErrorString(e));
}

cudaStream_t stream_of(Address stream) { return reinterpret_cast<cudaStream_t>(stream); }

// Makes a device the current one of this thread, for a while.
class Current {
  public:
    explicit Current(int device) {
        check(cudaGetDevice(&before_), "cudaGetDevice");
        if (device != before_) check(cudaSetDevice(device), "cudaSetDevice");
    }
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;
    ~Current() { (void)cudaSetDevice(before_); }

  private:
    int before_ = 0;
};

// Memory on a device. cudaFree waits for work that may still use it.
class Memory {
  public:
    Memory(std::size_t size, int device) : size_(size), device_(device) {
        const Current current(device);
        check(cudaMalloc(&at_, std::max<std::size_t>(size, 1)), "cudaMalloc");
    }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    ~Memory() {
        try {
            const Current current(device_);
            (void)cudaFree(at_);
        } catch (const std::exception&) { // the device is gone, and its memory with it
        }
    }
    template <class T = void> T* at() const { return static_cast<T*>(at_); }
    std::size_t size() const { return size_; }
    int device() const { return device_; }

  private:
    void* at_ = nullptr;
    std::size_t size_;
    int device_;
};

// Memory for the work of one call, given back in the order of its stream.
class Scratch {
  public:
    Scratch(std::size_t size, cudaStream_t stream) : stream_(stream) {
        check(cudaMallocAsync(&at_, std::max<std::size_t>(size, 1), stream), "cudaMallocAsync");
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { (void)cudaFreeAsync(at_, stream_); }
    void* at() const { return at_; }

  private:
    void* at_ = nullptr;
    cudaStream_t stream_;
};

// Copies between host and device, on a stream of ours; complete on return.
void copy(void* to, const void* from, std::size_t size, cudaMemcpyKind kind, cudaStream_t stream) {
    if (!size) return;
    check(cudaMemcpyAsync(to, from, size, kind, stream), "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

// The device an address belongs to; ValueError for memory of the host.
int device_of(const std::string& name, Address address) {
    cudaPointerAttributes a = {};
    check(cudaPointerGetAttributes(&a, reinterpret_cast<const void*>(address)), "cudaPointerGetAttributes");
    if (a.type != cudaMemoryTypeDevice && a.type != cudaMemoryTypeManaged)
        throw Error(ErrorCode::invalid_argument, name + " claims to be on a CUDA device, but its memory is not");
    return a.device;
}

// address, dtype, rows, columns, strides in elements
using Strided = std::tuple<Address, int, Index, Index, Index, Index>;

std::size_t size_of(bqq::Dtype dtype) { return dtype == bqq::Dtype::f64 ? 8 : dtype == bqq::Dtype::f32 ? 4 : 2; }

// Both ends of the memory it reaches into are on the device.
template <class Result> Result strided(const char* name, const Strided& a, int device) {
    const auto [address, number, rows, cols, row_stride, col_stride] = a;
    const auto dtype = static_cast<bqq::Dtype>(number);
    if (rows > 0 && cols > 0) {
        const Index size = Index(size_of(dtype));
        Index low = 0, high = size - 1;
        (row_stride < 0 ? low : high) += row_stride * (rows - 1) * size;
        (col_stride < 0 ? low : high) += col_stride * (cols - 1) * size;
        for (const Index end : {low, high})
            if (device_of(name, address + Address(end)) != device)
                throw Error(ErrorCode::invalid_argument,
                            std::string(name) + " is not on device cuda:" + std::to_string(device));
    }
    return {reinterpret_cast<void*>(address), dtype, rows, cols, row_stride, col_stride};
}

// `stream` goes on once what `before` has been given until now is done.
void wait(Address stream, Address before, int device) {
    if (stream == before || (stream <= 1 && before <= 1)) return;
    const Current current(device);
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    cudaError_t e = cudaEventRecord(event, stream_of(before));
    if (e == cudaSuccess) e = cudaStreamWaitEvent(stream_of(stream), event, 0);
    (void)cudaEventDestroy(event);
    check(e, "cudaStreamWaitEvent");
}

// A compressed matrix on a device, with the planes that matmul reads, made on first use for each direction.
class DeviceMatrix {
  public:
    const bqq::Layout layout;
    const int device;

    DeviceMatrix(const bqq::Layout& a, int device)
        : layout(a), device(device), Y_(std::size_t(a.y_bytes()), device), Z_(std::size_t(a.z_bytes()), device),
          scales_(4 * std::size_t(a.scales_count()), device) {}
    DeviceMatrix(const bqq::View& q, int device) : DeviceMatrix(plain(q).layout, device) {
        const Current current(device);
        copy(Y_.at(), q.Y, Y_.size(), cudaMemcpyHostToDevice, cudaStreamPerThread);
        copy(Z_.at(), q.Z, Z_.size(), cudaMemcpyHostToDevice, cudaStreamPerThread);
        copy(scales_.at(), q.scales, scales_.size(), cudaMemcpyHostToDevice, cudaStreamPerThread);
    }
    bqq::View view() const { return {layout, Y_.at<std::uint8_t>(), Z_.at<std::uint8_t>(), scales_.at<float>()}; }
    bqq::cuda::Result result() const { return {Y_.at<std::uint8_t>(), Z_.at<std::uint8_t>(), scales_.at<float>()}; }

    bqq::Matrix to_host() const {
        const Current current(device);
        bqq::Matrix q(layout);
        copy(q.Y.data(), Y_.at(), Y_.size(), cudaMemcpyDeviceToHost, cudaStreamPerThread);
        copy(q.Z.data(), Z_.at(), Z_.size(), cudaMemcpyDeviceToHost, cudaStreamPerThread);
        copy(q.scales.data(), scales_.at(), scales_.size(), cudaMemcpyDeviceToHost, cudaStreamPerThread);
        return q;
    }

    void matmul(const Strided& X, const Strided& out, bool transposed, Address stream) {
        const Current current(device);
        const auto x = strided<bqq::Array>("X", X, device);
        const auto y = strided<bqq::Array>("out", out, device);
        const Memory& planes = prepared(transposed);
        const std::size_t size = bqq::cuda::workspace_size(layout, transposed, x.cols);
        const Scratch workspace(size, stream_of(stream));
        bqq::cuda::matmul({layout, transposed, planes.at()},
                          {x.data, x.dtype, x.rows, x.cols, x.row_stride, x.col_stride}, y, workspace.at(), size,
                          stream_of(stream));
    }

  private:
    static const bqq::View& plain(const bqq::View& q) {
        if (!q.is_plain())
            throw bqq::Error(bqq::ErrorCode::unsupported,
                             "a matrix with an order of its rows or columns or with entries is not supported on the "
                             "GPU yet");
        return q;
    }

    Memory Y_, Z_, scales_;
    std::mutex guard_;
    std::unique_ptr<Memory> prepared_[2];

    // Complete, so that any stream may use it.
    const Memory& prepared(bool transposed) {
        const std::lock_guard<std::mutex> lock(guard_);
        auto& memory = prepared_[transposed];
        if (!memory) {
            auto fresh = std::make_unique<Memory>(bqq::cuda::prepared_size(layout, transposed), device);
            bqq::cuda::prepare(view(), transposed, fresh->at(), fresh->size(), cudaStreamPerThread);
            check(cudaStreamSynchronize(cudaStreamPerThread), "cudaStreamSynchronize");
            memory = std::move(fresh);
        }
        return *memory;
    }
};

// W as the solver reads it: as it lies, or copied.
struct Source {
    const float* data;
    Index ld;
    std::unique_ptr<Scratch> copy;

    Source(const Strided& W, int device, cudaStream_t stream) {
        const auto w = strided<bqq::ConstArray>("W", W, device);
        data = static_cast<const float*>(w.data), ld = w.row_stride;
        if (w.dtype == bqq::Dtype::f32 && w.col_stride == 1 && ld >= w.cols) return;
        copy = std::make_unique<Scratch>(4 * std::size_t(w.rows) * std::size_t(w.cols), stream);
        data = static_cast<const float*>(copy->at()), ld = w.cols;
        bqq::cuda::to_float32(w, static_cast<float*>(copy->at()), stream);
    }
};

std::vector<std::string> devices() {
    std::vector<std::string> found;
    for (int device = 0; device < bqq::cuda::devices(); ++device) {
        int major = 0, minor = 0, processors = 0;
        check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
        check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
        check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
        found.push_back("cuda:" + std::to_string(device) + " (compute capability " + std::to_string(major) + "." +
                        std::to_string(minor) + ", " + std::to_string(processors) + " multiprocessors)");
    }
    return found;
}

// Why there is no device.
std::string device_error() {
    int count = 0;
    const cudaError_t e = cudaGetDeviceCount(&count);
    (void)cudaGetLastError();
    return cudaGetErrorString(e);
}

using SharedMemory = std::shared_ptr<Memory>;

// What an exported tensor keeps alive.
struct Exported {
    dlpack::Managed managed{};
    SharedMemory memory;
    std::vector<Index> shape;
};

py::capsule to_dlpack(const SharedMemory& memory, int code, int bits, const std::vector<Index>& shape) {
    auto owner = std::make_unique<Exported>();
    owner->memory = memory, owner->shape = shape;
    auto& managed = owner->managed;
    managed.tensor.data = memory->at();
    managed.tensor.device = {dlpack::cuda, memory->device()};
    managed.tensor.ndim = std::int32_t(shape.size());
    managed.tensor.type = {std::uint8_t(code), std::uint8_t(bits), 1};
    managed.tensor.shape = owner->shape.data();
    managed.context = owner.get();
    managed.deleter = [](dlpack::Managed* m) { delete static_cast<Exported*>(m->context); };
    PyObject* capsule = PyCapsule_New(&managed, "dltensor", [](PyObject* self) {
        if (!PyCapsule_IsValid(self, "dltensor")) return; // somebody took it
        auto* m = static_cast<dlpack::Managed*>(PyCapsule_GetPointer(self, "dltensor"));
        m->deleter(m);
    });
    if (!capsule) throw py::error_already_set();
    (void)owner.release();
    return py::reinterpret_steal<py::capsule>(capsule);
}

template <class T>
py::tuple import_dlpack(const py::capsule& capsule, const char* name, const char* used, bool read_only) {
    auto* managed = static_cast<T*>(PyCapsule_GetPointer(capsule.ptr(), name));
    if (!managed) throw py::error_already_set();
    if (PyCapsule_SetName(capsule.ptr(), used)) throw py::error_already_set();
    const py::capsule owner(managed, [](void* p) {
        auto* m = static_cast<T*>(p);
        if (m->deleter) m->deleter(m);
    });
    const dlpack::Tensor& t = managed->tensor;
    if ((t.device.type != dlpack::cuda && t.device.type != dlpack::cuda_managed) || t.type.lanes != 1)
        throw py::value_error("the DLPack tensor is not one of plain elements on a CUDA device");
    const std::vector<Index> shape(t.shape, t.shape + t.ndim);
    std::vector<Index> strides(shape.size());
    Index step = 1;
    for (std::size_t d = shape.size(); d-- > 0; step *= shape[d]) strides[d] = t.strides ? t.strides[d] : step;
    return py::make_tuple(reinterpret_cast<Address>(t.data) + Address(t.byte_offset), int(t.type.code),
                          int(t.type.bits), t.device.id, py::tuple(py::cast(shape)), py::tuple(py::cast(strides)),
                          read_only, owner);
}

// address, type code, bits, device, shape, strides in elements, read-only, what keeps it alive
py::tuple from_dlpack(const py::capsule& capsule) {
    if (!PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned"))
        return import_dlpack<dlpack::Managed>(capsule, "dltensor", "used_dltensor", false);
    const auto* v = static_cast<dlpack::Versioned*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    if (v->major != 1) throw py::value_error("DLPack version " + std::to_string(v->major) + " is not known");
    return import_dlpack<dlpack::Versioned>(capsule, "dltensor_versioned", "used_dltensor_versioned",
                                            v->flags & dlpack::read_only);
}

using Release = py::call_guard<WithoutGil>;

void bind_memory(py::module_& m) {
    py::class_<Memory, SharedMemory>(m, "DeviceMemory")
        .def(py::init<std::size_t, int>())
        .def_property_readonly("address", [](const Memory& a) { return reinterpret_cast<Address>(a.at()); })
        .def_property_readonly("device", &Memory::device)
        .def("dlpack", &to_dlpack);
    m.def("from_dlpack", &from_dlpack);
}

void bind_matrix(py::module_& m) {
    py::class_<DeviceMatrix, std::shared_ptr<DeviceMatrix>>(m, "DeviceMatrix")
        .def(py::init([](const HostMatrix& q, int device) {
            const WithoutGil release;
            return std::make_shared<DeviceMatrix>(q.view, device);
        }))
        .def_property_readonly("device", [](const DeviceMatrix& q) { return q.device; })
        .def("layout", [](const DeviceMatrix& q, bool transposed) { return layout_dict(q.layout, transposed); })
        .def(
            "to_host", [](const DeviceMatrix& q) { return share(q.to_host()); }, Release())
        .def("matmul", &DeviceMatrix::matmul, Release());

    m.def("device_decompose", [](const Strided& W, Index p, const Options& options, int device, Address stream) {
        const WithoutGil release;
        const Current current(device);
        const auto layout = bqq::make_layout(std::get<2>(W), std::get<3>(W), p, options.l, options.patch);
        auto q = std::make_shared<DeviceMatrix>(layout, device);
        const Source source(W, device, stream_of(stream));
        bqq::cuda::decompose(layout, source.data, source.ld, options, q->result(), stream_of(stream));
        return q;
    });
    m.def("device_extend",
          [](const DeviceMatrix& old, const Strided& W, Index p, const Options& options, Address stream) {
              const WithoutGil release;
              const Current current(old.device);
              auto layout = old.layout;
              layout.p = p;
              auto q = std::make_shared<DeviceMatrix>(layout, old.device);
              const Source source(W, old.device, stream_of(stream));
              bqq::cuda::extend(old.view(), layout, source.data, source.ld, options, q->result(), stream_of(stream));
              return q;
          });
}

void bind_copies(py::module_& m) {
    // rows x columns of any dtype as a float32 array of the host, once `stream` is done
    m.def("device_get", [](const std::string& name, const Strided& x, int device, Address stream) {
        py::array_t<float> out({std::get<2>(x), std::get<3>(x)});
        float* data = out.mutable_data();
        const std::size_t size = std::size_t(out.nbytes());
        const WithoutGil release;
        const Current current(device);
        const auto from = strided<bqq::ConstArray>(name.c_str(), x, device);
        const Scratch plain(size, stream_of(stream));
        bqq::cuda::to_float32(from, static_cast<float*>(plain.at()), stream_of(stream));
        copy(data, plain.at(), size, cudaMemcpyDeviceToHost, stream_of(stream));
        return out;
    });
    // bytes to the device and back, complete on return
    m.def("device_write", [](Address to, const Bytes& bytes, int device, Address stream) {
        const auto* data = bytes.data();
        const std::size_t size = std::size_t(bytes.nbytes());
        const WithoutGil release;
        const Current current(device);
        copy(reinterpret_cast<void*>(to), data, size, cudaMemcpyHostToDevice, stream_of(stream));
    });
    m.def("device_read", [](Address from, std::size_t size, int device, Address stream) {
        Bytes bytes(static_cast<py::ssize_t>(size));
        auto* data = bytes.mutable_data();
        const WithoutGil release;
        const Current current(device);
        copy(data, reinterpret_cast<const void*>(from), size, cudaMemcpyDeviceToHost, stream_of(stream));
        return bytes;
    });
}

} // namespace

void bindings::bind_cuda(py::module_& m) {
    m.def("devices", &devices);
    m.def("device_error", &device_error);
    m.def("device_of", &device_of);
    m.def("device_wait", &wait);
    m.def(
        "device_synchronize",
        [](Address stream, int device) {
            const Current current(device);
            check(cudaStreamSynchronize(stream_of(stream)), "cudaStreamSynchronize");
        },
        Release());
    m.attr("cuda_version") = CUDART_VERSION;
    bind_memory(m);
    bind_matrix(m);
    bind_copies(m);
}
