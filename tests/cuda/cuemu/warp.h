// Barriers, shuffles, votes and reductions of a warp.
#pragma once

#include "cuemu.h"

inline void __syncthreads(cuemu::Where at = cuemu::Where::here()) { cuemu::barrier(cuemu::Barrier::sync, 0, at); }
inline int __syncthreads_or(int p, cuemu::Where at = cuemu::Where::here()) {
    return cuemu::barrier(cuemu::Barrier::any, p, at);
}
inline int __syncthreads_and(int p, cuemu::Where at = cuemu::Where::here()) {
    return cuemu::barrier(cuemu::Barrier::all, p, at);
}
inline int __syncthreads_count(int p, cuemu::Where at = cuemu::Where::here()) {
    return cuemu::barrier(cuemu::Barrier::count, p, at);
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, cuemu::Where at = cuemu::Where::here()) {
    cuemu::collective(mask, "__syncwarp", nullptr, nullptr, at);
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline unsigned __activemask() { return cuemu::active_lanes(); }

namespace cuemu {

inline int lane() { return int((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) & 31); }

/// Every lane gets the value of lane `source`; -1 is its own. Of an absent lane the value is undefined: all bits set.
template <class T> T shuffle(unsigned mask, T value, int source, const char* what, Where at) {
    static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= 8, "not a type that the device can shuffle");
    struct Request {
        T in, out;
        int source;
    } mine{value, value, source};
    collective(
        mask, what, &mine,
        [](void** all, unsigned) {
            for (int i = 0; i < 32; ++i) {
                if (!all[i]) continue;
                auto* r = static_cast<Request*>(all[i]);
                if (r->source < 0) continue;
                if (all[r->source])
                    r->out = static_cast<Request*>(all[r->source])->in;
                else
                    std::memset(static_cast<void*>(&r->out), 0xFF, sizeof(T));
            }
        },
        at);
    return mine.out;
}

struct Vote {
    bool predicate;
    std::uint64_t value;
    unsigned ballot, match;
};
inline Vote vote(unsigned mask, bool predicate, std::uint64_t value, const char* what, Where at) {
    Vote mine{predicate, value, 0, 0};
    collective(
        mask, what, &mine,
        [](void** all, unsigned) {
            for (int i = 0; i < 32; ++i) {
                if (!all[i]) continue;
                auto* a = static_cast<Vote*>(all[i]);
                for (int j = 0; j < 32; ++j) {
                    if (!all[j]) continue;
                    const auto* b = static_cast<const Vote*>(all[j]);
                    a->ballot |= unsigned(b->predicate) << j;
                    a->match |= unsigned(b->value == a->value) << j;
                }
            }
        },
        at);
    return mine;
}

template <class T, class Op> T reduce(unsigned mask, T value, Op, const char* what, Where at) {
    struct Request {
        T in, out;
    } mine{value, value};
    collective(
        mask, what, &mine,
        [](void** all, unsigned present) {
            T sum = static_cast<Request*>(all[__builtin_ctz(present)])->in;
            for (unsigned rest = present & (present - 1); rest; rest &= rest - 1)
                sum = Op()(sum, static_cast<Request*>(all[__builtin_ctz(rest)])->in);
            for (unsigned rest = present; rest; rest &= rest - 1)
                static_cast<Request*>(all[__builtin_ctz(rest)])->out = sum;
        },
        at);
    return mine.out;
}

} // namespace cuemu

template <class T>
T __shfl_sync(unsigned mask, T v, int source, int width = 32, cuemu::Where at = cuemu::Where::here()) {
    return cuemu::shuffle(mask, v, (cuemu::lane() & ~(width - 1)) + (source & (width - 1)), "__shfl_sync", at);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, cuemu::Where at = cuemu::Where::here()) {
    const int lane = cuemu::lane(), source = lane - int(delta);
    return cuemu::shuffle(mask, v, source < (lane & ~(width - 1)) ? -1 : source, "__shfl_up_sync", at);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, cuemu::Where at = cuemu::Where::here()) {
    const int lane = cuemu::lane(), source = lane + int(delta);
    return cuemu::shuffle(mask, v, source > (lane | (width - 1)) ? -1 : source, "__shfl_down_sync", at);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, cuemu::Where at = cuemu::Where::here()) {
    const int lane = cuemu::lane(), source = lane ^ bits;
    return cuemu::shuffle(mask, v, source > (lane | (width - 1)) ? -1 : source, "__shfl_xor_sync", at);
}
inline unsigned __ballot_sync(unsigned mask, int p, cuemu::Where at = cuemu::Where::here()) {
    return cuemu::vote(mask, p, 0, "__ballot_sync", at).ballot;
}
inline int __any_sync(unsigned mask, int p, cuemu::Where at = cuemu::Where::here()) {
    return cuemu::vote(mask, p, 0, "__any_sync", at).ballot != 0;
}
inline int __all_sync(unsigned mask, int p, cuemu::Where at = cuemu::Where::here()) {
    return cuemu::vote(mask, !p, 0, "__all_sync", at).ballot == 0;
}
template <class T> unsigned __match_any_sync(unsigned mask, T v, cuemu::Where at = cuemu::Where::here()) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, &v, sizeof v);
    return cuemu::vote(mask, false, bits, "__match_any_sync", at).match;
}

#define CUEMU_REDUCE(name, type, expression)                                                                           \
    inline type name(unsigned mask, type v, cuemu::Where at = cuemu::Where::here()) {                                  \
        struct Op {                                                                                                    \
            type operator()(type a, type b) const { return expression; }                                               \
        };                                                                                                             \
        return cuemu::reduce(mask, v, Op(), #name, at);                                                                \
    }
CUEMU_REDUCE(__reduce_add_sync, unsigned, a + b)
CUEMU_REDUCE(__reduce_add_sync, int, int(unsigned(a) + unsigned(b)))
CUEMU_REDUCE(__reduce_min_sync, unsigned, b < a ? b : a)
CUEMU_REDUCE(__reduce_min_sync, int, b < a ? b : a)
CUEMU_REDUCE(__reduce_max_sync, unsigned, a < b ? b : a)
CUEMU_REDUCE(__reduce_max_sync, int, a < b ? b : a)
CUEMU_REDUCE(__reduce_and_sync, unsigned, a& b)
CUEMU_REDUCE(__reduce_or_sync, unsigned, a | b)
CUEMU_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
#undef CUEMU_REDUCE
