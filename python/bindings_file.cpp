// The file part of the module. Names, paths and arrays come checked from the Python side (_files.py).
#include "bindings.hpp"

namespace bindings {

namespace {

using SharedFile = std::shared_ptr<bqq::File>;

/// Bytes that the file keeps alive: read-only where it is mapped, the caller's own to change where it was read.
py::array bytes_of(const bqq::Tensor& t, const SharedFile& file) {
    py::array_t<std::uint8_t> bytes({py::ssize_t(t.nbytes)}, t.data, py::cast(file));
    if (file->mapped()) py::detail::array_proxy(bytes.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
    return bytes;
}

} // namespace

void bind_file(py::module_& m) {
    py::class_<bqq::File, SharedFile>(m, "File")
        .def(py::init([](const std::string& path, bool mapped) {
            const WithoutGil release;
            return std::make_shared<bqq::File>(mapped ? bqq::File::open(path) : bqq::File::read(path));
        }))
        .def_property_readonly("metadata", &bqq::File::metadata)
        .def_property_readonly("matrices", // name -> bytes as stored
                               [](const bqq::File& file) {
                                   std::map<std::string, std::size_t> sizes;
                                   for (const auto& q : file.matrices()) sizes[q.name] = q.nbytes;
                                   return sizes;
                               })
        .def_property_readonly("tensors", // (dtype, shape, bytes) by name
                               [](const SharedFile& file) {
                                   py::dict tensors;
                                   for (const auto& t : file->tensors())
                                       tensors[py::str(t.name)] =
                                           py::make_tuple(t.dtype, py::tuple(py::cast(t.shape)), bytes_of(t, file));
                                   return tensors;
                               })
        .def("matrix", [](const SharedFile& file, const std::string& name) {
            const WithoutGil release;
            return std::make_shared<HostMatrix>(file->matrix(name), file);
        });

    m.def("save", [](const std::string& path, const std::vector<std::pair<std::string, SharedMatrix>>& matrices,
                     const std::vector<std::tuple<std::string, std::string, std::vector<Index>, Bytes>>& tensors,
                     const std::map<std::string, std::string>& metadata, int scales) {
        std::vector<bqq::NamedMatrix> named;
        for (const auto& [name, matrix] : matrices) named.push_back({name, matrix->view});
        std::vector<bqq::Tensor> others;
        for (const auto& [name, dtype, shape, bytes] : tensors)
            others.push_back({name, dtype, shape, bytes.data(), std::size_t(bytes.size())});
        const WithoutGil release;
        bqq::save(path, named, others, {static_cast<bqq::Dtype>(scales), metadata});
    });
}

} // namespace bindings
