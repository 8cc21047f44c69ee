// Contexts of execution that switch by hand: x86-64 and AArch64 in assembler (some ten times faster), else ucontext.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(CUEMU_UCONTEXT) || !(defined(__x86_64__) || defined(__aarch64__))
#include <ucontext.h>
#define CUEMU_USES_UCONTEXT 1
#else
#define CUEMU_USES_UCONTEXT 0
#endif

namespace cuemu {

struct Context {
#if CUEMU_USES_UCONTEXT
    ucontext_t state;
#else
    void* stack_pointer = nullptr;
#endif
};

constexpr std::size_t stack_bytes = 256 << 10;
constexpr int max_stacks = 1024;

/// Stack number i, with an inaccessible page below it.
char* stack_of(int i);
bool on_some_stack(std::uintptr_t address);

/// Makes `context` one that runs entry() on stack i; entry must not return.
void prepare(Context& context, int i, void (*entry)());
/// Saves where the caller is in `from` and goes on in `to`.
void swap(Context& from, Context& to);

} // namespace cuemu
