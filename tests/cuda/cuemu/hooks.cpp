// What gcc calls for -fsanitize=thread and for -fsanitize=alignment,shift,bounds,signed-integer-overflow. The run-time
// libraries of the sanitizers are not linked: these are all there are. This file itself is not instrumented.
#include "machine.hpp"

namespace cuemu {
namespace {

void hook(void* p, std::size_t bytes, Access kind, void* pc) { check(std::uintptr_t(p), bytes, kind, {"", 0}, pc); }

void hook_unaligned(void* p, std::size_t bytes, Access kind, void* pc) {
    if (current && !unchecked && std::uintptr_t(p) % bytes) {
        report(cudaErrorMisalignedAddress, "MISALIGNED access of %zu bytes by %s at %s", bytes, who(*current).c_str(),
               source_of({"", 0}, pc).c_str());
        die();
    }
    hook(p, bytes, kind, pc);
}

struct SourceLocation { // as gcc writes it
    const char* file;
    std::uint32_t line, column;
};

void undefined_behaviour(const char* kind, const char* what, const SourceLocation* at, bool fatal) {
    report(current ? cudaErrorLaunchFailure : cudaSuccess, "%s: %s by %s at %s:%u", kind, what,
           current ? who(*current).c_str() : "host code", at->file, at->line);
    if (current && fatal) die();
}

} // namespace
} // namespace cuemu

using cuemu::Access;
using cuemu::SourceLocation;

extern "C" {

void __tsan_init() { cuemu::instrumented = true; }
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

#define CUEMU_HOOKS(bytes)                                                                                             \
    void __tsan_read##bytes(void* p) { cuemu::hook(p, bytes, Access::read, __builtin_return_address(0)); }             \
    void __tsan_write##bytes(void* p) { cuemu::hook(p, bytes, Access::write, __builtin_return_address(0)); }           \
    void __tsan_volatile_read##bytes(void* p) { cuemu::hook(p, bytes, Access::read, __builtin_return_address(0)); }    \
    void __tsan_volatile_write##bytes(void* p) { cuemu::hook(p, bytes, Access::write, __builtin_return_address(0)); }  \
    void __tsan_unaligned_read##bytes(void* p) {                                                                       \
        cuemu::hook_unaligned(p, bytes, Access::read, __builtin_return_address(0));                                    \
    }                                                                                                                  \
    void __tsan_unaligned_write##bytes(void* p) {                                                                      \
        cuemu::hook_unaligned(p, bytes, Access::write, __builtin_return_address(0));                                   \
    }
CUEMU_HOOKS(1)
CUEMU_HOOKS(2)
CUEMU_HOOKS(4)
CUEMU_HOOKS(8)
CUEMU_HOOKS(16)
#undef CUEMU_HOOKS
void __tsan_read_range(void* p, std::size_t n) { cuemu::hook(p, n, Access::read, __builtin_return_address(0)); }
void __tsan_write_range(void* p, std::size_t n) { cuemu::hook(p, n, Access::write, __builtin_return_address(0)); }

// Atomics of the host's standard library in instrumented files.
#define CUEMU_ATOMICS(bits, T)                                                                                         \
    T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }            \
    void __tsan_atomic##bits##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }            \
    T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }  \
    T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }  \
    T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); }  \
    T __tsan_atomic##bits##_fetch_and(volatile T* p, T v, int) { return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); }  \
    T __tsan_atomic##bits##_fetch_or(volatile T* p, T v, int) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }    \
    T __tsan_atomic##bits##_fetch_xor(volatile T* p, T v, int) { return __atomic_fetch_xor(p, v, __ATOMIC_SEQ_CST); }  \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* expected, T v, int, int) {                     \
        return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                 \
    }                                                                                                                  \
    int __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* expected, T v, int, int) {                       \
        return __atomic_compare_exchange_n(p, expected, v, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                  \
    }
CUEMU_ATOMICS(8, char)
CUEMU_ATOMICS(16, short)
CUEMU_ATOMICS(32, int)
CUEMU_ATOMICS(64, long)
#undef CUEMU_ATOMICS
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) {}

void __ubsan_handle_type_mismatch_v1(SourceLocation* at, void* p) {
    cuemu::undefined_behaviour(p ? "MISALIGNED" : "NULL POINTER", "access", at, true);
}
void __ubsan_handle_out_of_bounds(SourceLocation* at, void*) {
    cuemu::undefined_behaviour("OUT OF BOUNDS", "index of an array", at, true);
}
#define CUEMU_UNDEFINED(name, what)                                                                                    \
    void __ubsan_handle_##name(SourceLocation* at, void*, void*) {                                                     \
        cuemu::undefined_behaviour("UNDEFINED BEHAVIOUR", what, at, false);                                            \
    }
CUEMU_UNDEFINED(shift_out_of_bounds, "shift out of range")
CUEMU_UNDEFINED(add_overflow, "signed overflow in a sum")
CUEMU_UNDEFINED(sub_overflow, "signed overflow in a difference")
CUEMU_UNDEFINED(mul_overflow, "signed overflow in a product")
CUEMU_UNDEFINED(negate_overflow, "signed overflow in a negation")
CUEMU_UNDEFINED(divrem_overflow, "signed overflow or zero in a division")
#undef CUEMU_UNDEFINED
}
