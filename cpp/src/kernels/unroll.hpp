// What compilers have to be told about loops.
#pragma once

// gcc 12 keeps an array of accumulators in memory unless every loop over it is unrolled by order (BQQ_UNROLL before the
// loop) and, where registers are scarce, an element is used where it was made (BQQ_HOLD after its last change).
#if defined(__GNUC__) && !defined(__clang__)
#define BQQ_UNROLL _Pragma("GCC unroll 16")
#define BQQ_HOLD(x) __asm__("" : "+v"(x))
#define BQQ_NOINLINE __attribute__((noinline))
#else
#define BQQ_UNROLL
#define BQQ_HOLD(x) (void)0
#define BQQ_NOINLINE
#endif

// An index into tables, hidden: else the compiler adds up an address for each load, a third slower.
#if defined(__GNUC__)
#define BQQ_HIDE(x) __asm__("" : "+r"(x))
#else
#define BQQ_HIDE(x) (void)0
#endif
