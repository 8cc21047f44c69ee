// What the tests of the C interface of vector codes share: owners, vectors, a codec.
#pragma once

#include "bqq/bqq_ann.h"
#include "capi.hpp"

namespace capi {

constexpr std::int64_t N_ROWS = 500, D = 20, SIZE = 16;

inline std::size_t z(std::int64_t i) { return std::size_t(i); }

template <class T, void (*Free)(T*)> struct Handle {
    T* p = nullptr;
    Handle() = default;
    Handle(const Handle&) = delete;
    Handle& operator=(const Handle&) = delete;
    ~Handle() { Free(p); }
};
using CodecOwner = Handle<bqq_codec, bqq_codec_free>;
using IndexOwner = Handle<bqq_index, bqq_index_free>;
using RangeOwner = Handle<bqq_range, bqq_range_free>;

template <class Options> Options sized() {
    Options o{};
    o.struct_size = sizeof o;
    return o;
}

inline const std::vector<float>& rows() {
    static const std::vector<float> X = numbers(z(N_ROWS * D), 1);
    return X;
}

inline bqq_train_options fast(bqq_metric metric = BQQ_METRIC_L2) {
    bqq_train_options o;
    CHECK_EQ(bqq_train_options_init(&o, sizeof o), BQQ_OK);
    o.effort = BQQ_EFFORT_FAST;
    o.metric = metric;
    return o;
}
inline void train(CodecOwner& codec, bqq_metric metric = BQQ_METRIC_L2) {
    const bqq_train_options o = fast(metric);
    CHECK_EQ(bqq_codec_train(rows().data(), N_ROWS, D, D, SIZE, &o, &codec.p), BQQ_OK);
}

} // namespace capi
