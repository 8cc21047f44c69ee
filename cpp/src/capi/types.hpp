// What the C interfaces of the CPU and the GPU share: errors, structures that grow, translation to C++.
#pragma once

#include "arguments.hpp"
#include "bqq/bqq.h"
#include "bqq/bqq.hpp"
#include "memory.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>

namespace bqq::capi {

using detail::bad_argument;

// A plain array: recording an error must not allocate.
inline thread_local char last_error[1024];

inline bqq_status fail(bqq_status status, const char* text) noexcept {
    std::size_t length = std::strlen(text);
    if (length >= sizeof last_error) {
        length = sizeof last_error - 1;
        while (length > 0 && (static_cast<unsigned char>(text[length]) & 0xC0) == 0x80) --length;
    }
    std::memcpy(last_error, text, length);
    last_error[length] = 0;
    return status;
}

template <class Body> bqq_status guarded(Body&& body) noexcept {
    try {
        body();
        return BQQ_OK;
    } catch (const bqq::Error& e) {
        return fail(static_cast<bqq_status>(e.code()), e.what());
    } catch (const std::bad_alloc&) {
        return fail(BQQ_OUT_OF_MEMORY, "out of memory");
    } catch (const std::length_error&) {
        return fail(BQQ_OUT_OF_MEMORY, "out of memory: the size does not fit the address space");
    } catch (const std::exception& e) {
        return fail(BQQ_INTERNAL, e.what());
    } catch (...) {
        return fail(BQQ_INTERNAL, "unknown exception");
    }
}

inline void require(const void* pointer, const char* name) {
    if (!pointer) bad_argument(std::string(name) + " is NULL");
}

/// *out: a new owner of what `value` returns; NULL after a failure.
template <class Owner, class Value> bqq_status make(Owner** out, Value&& value) noexcept {
    if (out) *out = nullptr;
    return guarded([&] {
        require(out, "out");
        *out = new Owner{value()};
    });
}

inline void require_aligned(const void* pointer, const char* name) {
    require(pointer, name);
    if (!detail::is_aligned(pointer)) bad_argument(std::string(name) + " is not aligned to 64 bytes");
}

inline void check_struct_size(std::size_t size, std::size_t least, const char* type) {
    constexpr std::size_t most = 4096; // catches a struct_size that was never set
    if (size < least || size > most || size % alignof(std::int64_t))
        bad_argument(std::string(type) + ".struct_size is " + std::to_string(size) + ", expected sizeof(" + type + ")");
}

inline void check_tail(const void* object, std::size_t size, std::size_t known, const char* type) {
    const auto* bytes = static_cast<const unsigned char*>(object);
    if (size > known && std::any_of(bytes + known, bytes + size, [](unsigned char b) { return b != 0; }))
        throw bqq::Error(bqq::ErrorCode::unsupported, std::string(type) + " of " + std::to_string(size) +
                                                          " bytes sets fields that this version of bqq (" +
                                                          std::to_string(known) + " bytes) does not know");
}

constexpr std::size_t kPlainViewSize = offsetof(bqq_view, row_order); ///< of the first version

static_assert(sizeof(bqq_entry) == sizeof(bqq::Entry) && offsetof(bqq_entry, value) == offsetof(bqq::Entry, value),
              "the C and the C++ entry differ");

/// Sizes and pointers; the pointers may be NULL.
inline bqq::View to_layout(const bqq_view* given) {
    require(given, "view");
    check_struct_size(given->struct_size, kPlainViewSize, "bqq_view");
    check_tail(given, given->struct_size, sizeof *given, "bqq_view");
    bqq_view v{};
    std::memcpy(&v, given, std::min(given->struct_size, sizeof v));
    const bqq::Layout a{v.m, v.n, v.J, v.K, v.rows, v.cols, v.p, v.l};
    bqq::validate(a);
    if (v.entry_count < 0)
        bad_argument("view.entry_count is " + std::to_string(v.entry_count) + ", expected 0 or more");
    if (v.entry_count) require(v.entries, "view.entries");
    bqq::View q{a, v.y, v.z, v.scales};
    q.row_order = v.row_order, q.col_order = v.col_order;
    q.entries = reinterpret_cast<const bqq::Entry*>(v.entries), q.entry_count = v.entry_count;
    return q;
}

inline bqq::View to_view(const bqq_view* v) {
    require(v, "view");
    check_struct_size(v->struct_size, kPlainViewSize, "bqq_view");
    require(v->y, "view.y");
    require(v->z, "view.z");
    require(v->scales, "view.scales");
    return to_layout(v);
}

inline void check_output(const bqq_view* out) {
    require(out, "view");
    check_struct_size(out->struct_size, kPlainViewSize, "bqq_view");
}

/// The structure but for its struct_size; fields that this version does not know become zero.
template <class T> void assign(T* out, const T& value) {
    const std::size_t size = out->struct_size;
    std::memset(static_cast<void*>(out), 0, size);
    std::memcpy(static_cast<void*>(out), &value, std::min(size, sizeof value));
    out->struct_size = size;
}

inline void assign(bqq_view* out, const bqq::View& q) {
    const bqq::Layout& a = q.layout;
    if (!q.is_plain() && out->struct_size < sizeof *out)
        throw bqq::Error(bqq::ErrorCode::unsupported, "the matrix has an order or entries, for which a bqq_view of " +
                                                          std::to_string(out->struct_size) +
                                                          " bytes, of an older version of bqq, has no room");
    assign(out, bqq_view{0, a.m, a.n, a.J, a.K, a.rows, a.cols, a.p, a.l, q.Y, q.Z, q.scales, q.row_order, q.col_order,
                         reinterpret_cast<const bqq_entry*>(q.entries), q.entry_count});
}

template <class Options> Options read_options(const Options* given, const char* type) {
    Options o{};
    if (!given) return o;
    std::size_t size = 0;
    std::memcpy(&size, given, sizeof size);
    check_struct_size(size, sizeof size, type);
    check_tail(given, size, sizeof o, type);
    std::memcpy(&o, given, std::min(size, sizeof o));
    return o;
}

template <class Options> void fill_defaults(Options* options, std::size_t struct_size, const char* type) {
    require(options, "options");
    check_struct_size(struct_size, sizeof struct_size, type);
    std::memset(static_cast<void*>(options), 0, struct_size);
    std::memcpy(static_cast<void*>(options), &struct_size, sizeof struct_size);
}

inline std::function<bool(bqq::Index, bqq::Index)> to_progress(bqq_progress call, void* user) {
    if (!call) return nullptr;
    return [=](bqq::Index done, bqq::Index total) { return call(done, total, user) == 0; };
}

inline bqq::DecomposeOptions to_options(const bqq_decompose_options* given) {
    const bqq_decompose_options o = read_options(given, "bqq_decompose_options");
    bqq::DecomposeOptions options;
    options.l = o.l;
    options.patch = o.patch;
    options.steps = o.steps;
    options.seed = o.seed;
    if (o.schedule != BQQ_SCHEDULE_ADAPTIVE && o.schedule != BQQ_SCHEDULE_PAPER)
        bad_argument("schedule is " + std::to_string(o.schedule) + ", expected a bqq_schedule");
    if (o.reserved != 0) bad_argument("reserved is " + std::to_string(o.reserved) + ", expected 0");
    options.effort = static_cast<bqq::Effort>(o.effort);
    options.refine = o.refine;
    options.schedule = static_cast<bqq::Schedule>(o.schedule);
    options.threads = o.threads;
    options.weight = o.weight;
    options.ldweight = o.ldweight;
    options.damping = o.damping;
    if (o.order != BQQ_ORDER_NONE && o.order != BQQ_ORDER_WEIGHT)
        bad_argument("order is " + std::to_string(o.order) + ", expected a bqq_order");
    if (o.reserved2 != 0) bad_argument("reserved2 is " + std::to_string(o.reserved2) + ", expected 0");
    options.order = static_cast<bqq::Order>(o.order);
    options.outliers = o.outliers;
    options.progress = to_progress(o.progress, o.user);
    return options;
}

template <class To> To to_array(const bqq_array* a, const char* name) {
    require(a, name);
    if (a->rows > 0 && a->cols > 0) require(a->data, (std::string(name) + ".data").c_str());
    if (a->dtype < BQQ_F32 || a->dtype > BQQ_F64)
        bad_argument(std::string(name) + ".dtype is " + std::to_string(a->dtype) + ", expected a bqq_dtype");
    return {a->data, static_cast<bqq::Dtype>(a->dtype), a->rows, a->cols, a->row_stride, a->col_stride};
}

inline bqq::MatmulOptions to_options(const bqq_matmul_options* given) {
    const bqq_matmul_options o = read_options(given, "bqq_matmul_options");
    if (o.precision != BQQ_PRECISION_FLOAT32 && o.precision != BQQ_PRECISION_FAST)
        bad_argument("precision is " + std::to_string(o.precision) + ", expected a bqq_precision");
    if (o.reserved != 0) bad_argument("bqq_matmul_options.reserved is " + std::to_string(o.reserved) + ", expected 0");
    return {o.threads, static_cast<bqq::Precision>(o.precision), o.accumulate != 0};
}

} // namespace bqq::capi
