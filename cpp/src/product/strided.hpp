// Columns of strided arrays of any dtype to contiguous float32 and back.
#pragma once

#include "bqq/prepared.hpp"
#include "half.hpp"

namespace bqq::detail {

/// Calls f(tag) with a value whose type reads and writes elements of `dtype`: f.get(i), f.put(i, x).
struct F32 {
    using type = float;
    static float get(type x) { return x; }
    static type put(float x) { return x; }
};
struct F64 {
    using type = double;
    static float get(type x) { return float(x); }
    static type put(float x) { return double(x); }
};
struct F16 {
    using type = std::uint16_t;
    static float get(type x) { return f16_to_f32(x); }
    static type put(float x) { return f32_to_f16(x); }
};
struct BF16 {
    using type = std::uint16_t;
    static float get(type x) { return bf16_to_f32(x); }
    static type put(float x) { return f32_to_bf16(x); }
};

template <class F> void with_dtype(Dtype dtype, F&& f) {
    switch (dtype) {
    case Dtype::f32:
        return f(F32{});
    case Dtype::f64:
        return f(F64{});
    case Dtype::f16:
        return f(F16{});
    case Dtype::bf16:
        return f(BF16{});
    }
}

/// to[c*ld + i] = X(row + i, column + c), i < rows, c < columns.
inline void load_columns(const ConstArray& X, Index row, Index rows, Index column, Index columns, float* to, Index ld) {
    with_dtype(X.dtype, [&](auto kind) {
        using Kind = decltype(kind);
        const auto* from = static_cast<const typename Kind::type*>(X.data) + row * X.row_stride + column * X.col_stride;
        if (columns == 1 || X.row_stride == 1)
            for (Index c = 0; c < columns; ++c)
                for (Index i = 0; i < rows; ++i) to[c * ld + i] = Kind::get(from[i * X.row_stride + c * X.col_stride]);
        else
            for (Index i = 0; i < rows; ++i)
                for (Index c = 0; c < columns; ++c)
                    to[c * ld + i] = Kind::get(from[i * X.row_stride + c * X.col_stride]);
    });
}

/// out(row + i, column + c) (+)= from[c*ld + i] + shift[c].
inline void store_columns(const float* from, Index ld, const double* shift, const Array& out, Index row, Index rows,
                          Index column, Index columns, bool accumulate) {
    with_dtype(out.dtype, [&](auto kind) {
        using Kind = decltype(kind);
        auto* to = static_cast<typename Kind::type*>(out.data) + row * out.row_stride + column * out.col_stride;
        const auto put = [&](Index i, Index c) {
            auto& target = to[i * out.row_stride + c * out.col_stride];
            const float value = float(double(from[c * ld + i]) + shift[c]);
            target = Kind::put(accumulate ? Kind::get(target) + value : value);
        };
        if (columns == 1 || out.row_stride == 1)
            for (Index c = 0; c < columns; ++c)
                for (Index i = 0; i < rows; ++i) put(i, c);
        else
            for (Index i = 0; i < rows; ++i)
                for (Index c = 0; c < columns; ++c) put(i, c);
    });
}

} // namespace bqq::detail
