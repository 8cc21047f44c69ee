// Columns of strided arrays of any dtype to contiguous float32 and back.
#pragma once

#include "bqq/array.hpp"
#include "half.hpp"
#include "product/method.hpp"

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

/// Calls f(i, c) for all elements, in the order in which an array with this row stride lies in memory.
template <class F> void in_order(Index rows, Index columns, Index row_stride, F&& f) {
    if (columns == 1 || row_stride == 1)
        for (Index c = 0; c < columns; ++c)
            for (Index i = 0; i < rows; ++i) f(i, c);
    else
        for (Index i = 0; i < rows; ++i)
            for (Index c = 0; c < columns; ++c) f(i, c);
}

/// Calls f(i, c, element (i, c) of v) in the order of an array with these strides; loops know which step is 1.
template <class T, class F> void for_elements(const VectorsOf<T>& v, Index rows, Index row_stride, F&& f) {
    if (v.step == 1)
        in_order(rows, v.count, row_stride, [&](Index i, Index c) { f(i, c, v.at[i + c * v.ld]); });
    else
        in_order(rows, v.count, row_stride, [&](Index i, Index c) { f(i, c, v.at[i * v.step + c]); });
}

/// to(i, c) = X(i, c), i < rows; with an order X(order[i], c).
inline void load_columns(const ConstArray& X, Index rows, const std::uint32_t* order, const VectorsOf<float>& to) {
    with_dtype(X.dtype, [&](auto kind) {
        using Kind = decltype(kind);
        const auto* from = static_cast<const typename Kind::type*>(X.data);
        if (order) {
            for_elements(to, rows, X.row_stride, [&](Index i, Index c, float& x) {
                x = Kind::get(from[Index(order[i]) * X.row_stride + c * X.col_stride]);
            });
            return;
        }
        if (to.ld == 1 && X.col_stride == 1) { // both row by row: the compiler makes vectors of it
            for (Index i = 0; i < rows; ++i)
                for (Index c = 0; c < X.cols; ++c) to.at[i * to.step + c] = Kind::get(from[i * X.row_stride + c]);
            return;
        }
        for_elements(to, rows, X.row_stride,
                     [&](Index i, Index c, float& x) { x = Kind::get(from[i * X.row_stride + c * X.col_stride]); });
    });
}

/// What element (i, c) of a result gets besides: of_row[i] * of_column[c]; nothing if of_row is null.
struct RowShift {
    const float* of_row;
    const double* of_column;
};

/// Rows of a result: row i is row `first` + i of `out` or, with an order, row order[i], if that is in [begin, end).
struct Rows {
    const Array& out;
    Index first, count;
    const std::uint32_t* order;
    Index begin, end;
};

/// Row i of the result (+)= from(i, c) + more(i, c).
template <class More> void store_with(const Vectors& from, const Rows& rows, bool accumulate, More&& more) {
    const Array out = part_of(rows.out, rows.order ? 0 : rows.first, rows.count, 0, rows.out.cols);
    with_dtype(out.dtype, [&](auto kind) {
        using Kind = decltype(kind);
        auto* to = static_cast<typename Kind::type*>(out.data);
        const auto put = [&](auto& target, float value, Index i, Index c) {
            const float sum = float(double(value) + more(i, c));
            target = Kind::put(accumulate ? Kind::get(target) + sum : sum);
        };
        if (rows.order) {
            for_elements(from, rows.count, out.row_stride, [&](Index i, Index c, float x) {
                const Index row = rows.order[i];
                if (row >= rows.begin && row < rows.end) put(to[row * out.row_stride + c * out.col_stride], x, i, c);
            });
            return;
        }
        if (from.ld == 1 && out.col_stride == 1) {
            for (Index i = 0; i < out.rows; ++i)
                for (Index c = 0; c < out.cols; ++c) put(to[i * out.row_stride + c], from.at[i * from.step + c], i, c);
            return;
        }
        for_elements(from, out.rows, out.row_stride,
                     [&](Index i, Index c, float x) { put(to[i * out.row_stride + c * out.col_stride], x, i, c); });
    });
}

/// Row i of the result (+)= from(i, c) + shift[c] + common.
inline void store_columns(const Vectors& from, const double* shift, const RowShift& common, const Rows& rows,
                          bool accumulate) {
    if (common.of_row)
        store_with(from, rows, accumulate,
                   [&](Index i, Index c) { return shift[c] + double(common.of_row[i]) * common.of_column[c]; });
    else
        store_with(from, rows, accumulate, [&](Index, Index c) { return shift[c]; });
}

} // namespace bqq::detail
