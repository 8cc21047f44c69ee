#include "fiber.hpp"

#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

namespace cuemu {
namespace {

constexpr std::size_t guard_bytes = 64 << 10; // a multiple of every page size in use
char* stacks = nullptr;

} // namespace

char* stack_of(int i) {
    if (!stacks) {
        void* p = mmap(nullptr, max_stacks * (stack_bytes + guard_bytes), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) std::abort();
        stacks = static_cast<char*>(p);
        for (int k = 0; k < max_stacks; ++k) mprotect(stacks + k * (stack_bytes + guard_bytes), guard_bytes, PROT_NONE);
    }
    return stacks + std::size_t(i) * (stack_bytes + guard_bytes) + guard_bytes;
}

bool on_some_stack(std::uintptr_t address) {
    return stacks && address - std::uintptr_t(stacks) < max_stacks * (stack_bytes + guard_bytes);
}

#if CUEMU_USES_UCONTEXT

void prepare(Context& context, int i, void (*entry)()) {
    getcontext(&context.state);
    context.state.uc_stack.ss_sp = stack_of(i);
    context.state.uc_stack.ss_size = stack_bytes;
    context.state.uc_link = nullptr;
    makecontext(&context.state, entry, 0);
}
void swap(Context& from, Context& to) { swapcontext(&from.state, &to.state); }

#else

// Pushes what the calling convention asks a function to keep, exchanges the stack pointers, pops.
extern "C" void cuemu_swap(void** save, void* load);
#if defined(__x86_64__)
asm(R"(
.text
.globl cuemu_swap
.hidden cuemu_swap
.type cuemu_swap, @function
cuemu_swap:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cuemu_swap, .-cuemu_swap
)");
#else
asm(R"(
.text
.globl cuemu_swap
.hidden cuemu_swap
.type cuemu_swap, %function
cuemu_swap:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size cuemu_swap, .-cuemu_swap
)");
#endif

void prepare(Context& context, int i, void (*entry)()) {
    char* top = stack_of(i) + stack_bytes - i % 31 * 128; // neighbours' frames in different cache sets
    auto* sp = reinterpret_cast<std::uintptr_t*>(top);
#if defined(__x86_64__)
    *--sp = 0; // keeps the alignment that a call would leave
    *--sp = reinterpret_cast<std::uintptr_t>(entry);
    sp -= 6;
    std::memset(sp, 0, 6 * sizeof *sp);
#else
    sp -= 20;
    std::memset(sp, 0, 20 * sizeof *sp);
    sp[11] = reinterpret_cast<std::uintptr_t>(entry); // x30, the link register
#endif
    context.stack_pointer = sp;
}
void swap(Context& from, Context& to) { cuemu_swap(&from.stack_pointer, to.stack_pointer); }

#endif

} // namespace cuemu
