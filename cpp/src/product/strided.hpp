// Columns of strided arrays of any dtype to contiguous float32 and back.
#pragma once

#include "bqq/array.hpp"
#include "half.hpp"

#include <type_traits>

namespace bqq::detail {

// Elements of a dtype as float32 and back.
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

/// Calls f(kind) with the one of those types that belongs to `dtype`.
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

/// Rows [row, row + rows) and columns [column, column + columns) of an array.
template <class AnyArray> AnyArray part_of(AnyArray a, Index row, Index rows, Index column, Index columns) {
    with_dtype(a.dtype, [&](auto kind) {
        using Type = typename decltype(kind)::type;
        using Pointer = std::conditional_t<std::is_same_v<AnyArray, ConstArray>, const Type*, Type*>;
        a.data = static_cast<Pointer>(a.data) + row * a.row_stride + column * a.col_stride;
    });
    a.rows = rows, a.cols = columns;
    return a;
}

/// to[c*ld + i] = X(i, c).
inline void load_columns(const ConstArray& X, float* to, Index ld) {
    with_dtype(X.dtype, [&](auto kind) {
        using Kind = decltype(kind);
        const Index rows = X.rows, columns = X.cols;
        const auto* from = static_cast<const typename Kind::type*>(X.data);
        if (columns == 1 || X.row_stride == 1)
            for (Index c = 0; c < columns; ++c)
                for (Index i = 0; i < rows; ++i) to[c * ld + i] = Kind::get(from[i * X.row_stride + c * X.col_stride]);
        else
            for (Index i = 0; i < rows; ++i)
                for (Index c = 0; c < columns; ++c)
                    to[c * ld + i] = Kind::get(from[i * X.row_stride + c * X.col_stride]);
    });
}

/// out(i, c) (+)= from[c*ld + i] + shift[c].
inline void store_columns(const float* from, Index ld, const double* shift, const Array& out, bool accumulate) {
    with_dtype(out.dtype, [&](auto kind) {
        using Kind = decltype(kind);
        const Index rows = out.rows, columns = out.cols;
        auto* to = static_cast<typename Kind::type*>(out.data);
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
