// Integer and float intrinsics, and atomics.
#pragma once

#include "cuemu.h"

#include <cmath>

#define CUEMU_MIN_MAX(T)                                                                                               \
    inline T min(T a, T b) { return b < a ? b : a; }                                                                   \
    inline T max(T a, T b) { return a < b ? b : a; }
CUEMU_MIN_MAX(int)
CUEMU_MIN_MAX(unsigned)
CUEMU_MIN_MAX(long)
CUEMU_MIN_MAX(unsigned long)
CUEMU_MIN_MAX(long long)
CUEMU_MIN_MAX(unsigned long long)
#undef CUEMU_MIN_MAX
inline float min(float a, float b) { return std::fmin(a, b); } // as on the device, NaN loses
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
    unsigned r = 0;
    for (int i = 0; i < 32; ++i) r |= (x >> i & 1u) << (31 - i);
    return r;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return unsigned(((std::uint64_t(high) << 32 | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned((std::uint64_t(high) << 32 | low) >> (shift & 31));
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const std::uint64_t bytes = std::uint64_t(y) << 32 | x;
    unsigned r = 0;
    for (int i = 0; i < 4; ++i) r |= unsigned(bytes >> (selector >> 4 * i & 7) * 8 & 0xFF) << 8 * i;
    return r;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(std::uint64_t(a) * b >> 32); }
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; ++i) c += std::int8_t(a >> 8 * i) * std::int8_t(b >> 8 * i);
    return c;
}

namespace cuemu {
template <class To, class From> To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}
} // namespace cuemu
inline unsigned __float_as_uint(float x) { return cuemu::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return cuemu::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return cuemu::bit_cast<float>(x); }
inline float __int_as_float(int x) { return cuemu::bit_cast<float>(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; } // never contracted with a product
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }
inline int __float2int_rn(float x) { return int(std::nearbyint(x)); }
inline int __float2int_rd(float x) { return int(std::floor(x)); }
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcs(const T* p) { return *p; }

namespace cuemu {
template <class T, class Update> T atomic(T* p, Where at, Update update) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "no such atomic on the device");
    access(p, sizeof(T), Access::atomic, at, sizeof(T));
    Unchecked off;
    const T old = *p;
    *p = update(old);
    return old;
}
template <class T> using Plain = typename std::common_type<T>::type; // the value is converted, never deduced from
} // namespace cuemu

#define CUEMU_ATOMIC(name, expression)                                                                                 \
    template <class T> T name(T* p, cuemu::Plain<T> v, cuemu::Where at = cuemu::Where::here()) {                       \
        return cuemu::atomic(p, at, [v](T old) { return T(expression); });                                             \
    }
CUEMU_ATOMIC(atomicAdd, old + v)
CUEMU_ATOMIC(atomicSub, old - v)
CUEMU_ATOMIC(atomicExch, ((void)old, v))
CUEMU_ATOMIC(atomicMin, v < old ? v : old)
CUEMU_ATOMIC(atomicMax, old < v ? v : old)
CUEMU_ATOMIC(atomicAnd, old& v)
CUEMU_ATOMIC(atomicOr, old | v)
CUEMU_ATOMIC(atomicXor, old ^ v)
#undef CUEMU_ATOMIC
template <class T>
T atomicCAS(T* p, cuemu::Plain<T> compare, cuemu::Plain<T> v, cuemu::Where at = cuemu::Where::here()) {
    return cuemu::atomic(p, at, [=](T old) { return old == compare ? v : old; });
}
