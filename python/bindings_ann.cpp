// Vector codes and their search. Arrays come checked from the Python side (ann/).
#include "bindings.hpp"

#include <pybind11/native_enum.h>

namespace bindings {

namespace {

using Ids = Contiguous<std::int64_t>;

template <class T> py::array_t<T> array_of(std::vector<T>&& values, std::vector<py::ssize_t> shape) {
    auto* kept = new std::vector<T>(std::move(values));
    const py::capsule owner(kept, [](void* p) { delete static_cast<std::vector<T>*>(p); });
    return py::array_t<T>(std::move(shape), kept->data(), owner);
}

const std::int64_t* data_or_null(const std::optional<Ids>& ids) { return ids ? ids->data() : nullptr; }

/// Options of training and encoding: progress as of decompose.
bqq::CodeOptions code_options(const Options& o) { return {o.effort, o.threads, o.progress}; }

bqq::SearchOptions search_options(Index coarse, Index rescore, const std::optional<Ids>& ids, int threads) {
    return {coarse, rescore, data_or_null(ids), ids ? ids->size() : 0, threads, Interrupt()};
}

/// search(distances, ids) into new arrays (queries, k).
template <class Search> py::tuple results(Index queries, Index k, Search&& search) {
    py::array_t<float> distances({queries, k});
    Ids ids({queries, k});
    float* d = distances.mutable_data();
    std::int64_t* i = ids.mutable_data();
    {
        const WithoutGil release;
        search(d, i);
    }
    return py::make_tuple(distances, ids);
}

void bind_codec(py::module_& m) {
    py::native_enum<bqq::MetricType>(m, "MetricType", "enum.Enum")
        .value("l2", bqq::MetricType::l2)
        .value("ip", bqq::MetricType::ip)
        .value("cosine", bqq::MetricType::cosine)
        .finalize();
    py::class_<bqq::Codec>(m, "Codec")
        .def_static("train",
                    [](const Floats& X, Index code_size, bqq::MetricType metric, const Options& o) {
                        check_shape(X);
                        const float* data = X.data();
                        const Index rows = X.shape(0), d = X.shape(1);
                        const WithoutGil release;
                        return bqq::Codec::train(data, rows, d, d, code_size,
                                                 {metric, o.effort, o.seed, o.threads, o.progress});
                    })
        .def_static("load",
                    [](const std::string& path) {
                        const WithoutGil release;
                        return bqq::Codec::load(path);
                    })
        .def("save",
             [](const bqq::Codec& c, const std::string& path) {
                 const WithoutGil release;
                 c.save(path);
             })
        .def_property_readonly("d", &bqq::Codec::d)
        .def_property_readonly("code_size", &bqq::Codec::code_size)
        .def_property_readonly("metric", &bqq::Codec::metric)
        .def_property_readonly("stage_bytes", &bqq::Codec::stage_bytes)
        .def("prefix",
             [](const bqq::Codec& c, Index k) {
                 const WithoutGil release;
                 return c.prefix(k);
             })
        .def("encode",
             [](const bqq::Codec& c, const Floats& X, const Options& o) {
                 check_shape(X);
                 const Index rows = X.shape(0), d = X.shape(1);
                 Bytes codes({rows, c.code_size()});
                 const float* x = X.data();
                 std::uint8_t* out = codes.mutable_data();
                 {
                     const WithoutGil release;
                     c.encode(x, rows, d, out, code_options(o));
                 }
                 return codes;
             })
        .def("decode",
             [](const bqq::Codec& c, const Bytes& codes, int threads) {
                 const Index rows = codes.shape(0);
                 py::array_t<float> out({rows, c.d()});
                 const std::uint8_t* data = codes.data();
                 float* w = out.mutable_data();
                 {
                     const WithoutGil release;
                     c.decode(data, rows, w, c.d(), threads, Interrupt());
                 }
                 return out;
             })
        .def("parts", [](const bqq::Codec& c) { // entries, center, origin, norm_low, norm_step
            bqq::Codec::Parts parts = c.parts();
            const Index d = c.d(), groups = Index(parts.entries.size()) / (16 * d);
            return py::make_tuple(array_of(std::move(parts.entries), {groups, 16, d}),
                                  array_of(std::move(parts.center), {d}), array_of(std::move(parts.origin), {d}),
                                  parts.norm_low, parts.norm_step);
        });
}

using Index_ = bqq::VectorIndex;

void bind_index(py::class_<Index_> index) {
    index.def(py::init<const bqq::Codec&>())
        .def_static("open",
                    [](const std::string& path) {
                        const WithoutGil release;
                        return Index_::open(path);
                    })
        .def("save",
             [](const Index_& a, const std::string& path) {
                 const WithoutGil release;
                 a.save(path);
             })
        .def_property_readonly("codec", &Index_::codec)
        .def("size",
             [](const Index_& a) {
                 const WithoutGil release;
                 return a.size();
             })
        .def("ids",
             [](const Index_& a) {
                 std::vector<std::int64_t> ids;
                 {
                     const WithoutGil release;
                     ids = a.ids();
                 }
                 const auto count = py::ssize_t(ids.size());
                 return array_of(std::move(ids), {count});
             })
        .def("add",
             [](Index_& a, const Floats& X, const std::optional<Ids>& ids, const Options& o) {
                 const float* x = X.data();
                 const Index rows = X.shape(0), d = X.shape(1);
                 const WithoutGil release;
                 a.add(x, rows, d, data_or_null(ids), code_options(o));
             })
        .def("add_codes",
             [](Index_& a, const Bytes& codes, const std::optional<Ids>& ids) {
                 const WithoutGil release;
                 a.add_codes(codes.data(), codes.shape(0), data_or_null(ids));
             })
        .def("remove", [](Index_& a, const Ids& ids) {
            const WithoutGil release;
            return a.remove(ids.data(), ids.size());
        });
}

void bind_searches(py::class_<Index_> index) {
    index
        .def("search",
             [](const Index_& a, const Floats& Q, Index k, Index coarse, Index rescore, const std::optional<Ids>& ids,
                int threads) {
                 const auto options = search_options(coarse, rescore, ids, threads);
                 const Index queries = Q.shape(0), d = Q.shape(1);
                 const float* q = Q.data();
                 return results(queries, k, [&](float* distances, std::int64_t* out) {
                     a.search(q, queries, d, k, distances, out, options);
                 });
             })
        .def("range_search",
             [](const Index_& a, const Floats& Q, float radius, const std::optional<Ids>& ids, int threads) {
                 const auto options = search_options(0, 0, ids, threads);
                 const float* q = Q.data();
                 const Index queries = Q.shape(0), d = Q.shape(1);
                 Index_::Range range;
                 {
                     const WithoutGil release;
                     range = a.range_search(q, queries, d, radius, options);
                 }
                 const auto hits = py::ssize_t(range.ids.size());
                 return py::make_tuple(array_of(std::move(range.limits), {py::ssize_t(queries + 1)}),
                                       array_of(std::move(range.distances), {hits}),
                                       array_of(std::move(range.ids), {hits}));
             })
        .def("reconstruct",
             [](const Index_& a, const Ids& ids) {
                 const Index count = ids.size(), d = a.codec().d();
                 py::array_t<float> out({count, d});
                 const std::int64_t* at = ids.data();
                 float* w = out.mutable_data();
                 {
                     const WithoutGil release;
                     a.reconstruct(at, count, w, d);
                 }
                 return out;
             })
        .def("codes", [](const Index_& a, const Ids& ids) {
            const Index count = ids.size();
            Bytes out({count, a.codec().code_size()});
            const std::int64_t* at = ids.data();
            std::uint8_t* codes = out.mutable_data();
            {
                const WithoutGil release;
                a.codes(at, count, codes);
            }
            return out;
        });
}

} // namespace

void bind_ann(py::module_& m) {
    bind_codec(m);
    py::class_<Index_> index(m, "VectorIndex");
    bind_index(index);
    bind_searches(index);
}

} // namespace bindings
