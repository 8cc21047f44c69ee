// Device memory on the host, and the memory calls of the CUDA runtime. Addresses are never used twice.
#include "machine.hpp"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <sys/mman.h>

namespace cuemu {
namespace {

constexpr std::size_t arena_bytes = std::size_t(64) << 30, page = 64 << 10;
char *arena = nullptr, *arena_top = nullptr;
std::map<std::uintptr_t, std::unique_ptr<Allocation>> allocations;
Allocation* recent[4] = {};
int open_count = 0;

void protect(bool open) {
    if (!options().protect || !arena) return;
    const std::size_t used = (std::size_t(arena_top - arena) + page) / page * page;
    mprotect(arena, used, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

cudaError_t allocate(void** out, std::size_t bytes, bool pinned_host) {
    if (!out) return failed(cudaErrorInvalidValue);
    *out = nullptr;
    if (!bytes) return cudaSuccess;
    const OpenMemory open;
    auto a = std::make_unique<Allocation>();
    a->size = bytes;
    a->pinned_host = pinned_host;
    if (pinned_host) {
        a->base = static_cast<char*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256));
        if (!a->base) return failed(cudaErrorMemoryAllocation);
    } else {
        if (!arena) {
            void* p =
                mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (p == MAP_FAILED) return failed(cudaErrorMemoryAllocation);
            arena = arena_top = static_cast<char*>(p);
        }
        const std::size_t step = (bytes + 511) / 256 * 256; // at least 256 bytes that belong to nobody
        if (step > std::size_t(arena + arena_bytes - arena_top)) return failed(cudaErrorMemoryAllocation);
        a->base = arena_top;
        arena_top += step;
        protect(true);
        std::memset(a->base, 0xFF, bytes); // NaN, -1
    }
    *out = a->base;
    allocations[std::uintptr_t(a->base)] = std::move(a);
    return cudaSuccess;
}

cudaError_t release(void* p) {
    const auto found = allocations.find(std::uintptr_t(p));
    if (found == allocations.end() || found->second->freed) return failed(cudaErrorInvalidValue);
    std::fill(std::begin(recent), std::end(recent), nullptr);
    Allocation& a = *found->second;
    if (a.pinned_host) {
        std::free(a.base);
        allocations.erase(found);
        return cudaSuccess;
    }
    a.freed = true; // stays known, so that its use is recognised; whole pages go back
    a.shadow.clear();
    const std::uintptr_t begin = (std::uintptr_t(a.base) + page - 1) / page * page,
                         end = (std::uintptr_t(a.base) + a.size) / page * page;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
    return cudaSuccess;
}

/// A copy or fill as the checker sees it: `write` marks the bytes, otherwise they are only read.
void check_transfer(const void* p, std::size_t bytes, bool write) {
    Allocation* a = instrumented && bytes ? find_allocation(std::uintptr_t(p)) : nullptr;
    if (!a || (a->pinned_host && !write)) return;
    const std::size_t offset = std::uintptr_t(p) - std::uintptr_t(a->base);
    if (a->shadow.empty() && !write) return;
    bool ordered = true;
    const Shadow::Range cells = a->shadow.cells(offset, bytes, a->size);
    for (Cell* c = cells.begin; c != cells.end; ++c) {
        ordered = ordered && (!c->write_operation || ordered_before_current(c->write_operation));
        if (!write) {
            c->read_operation = current_operation();
            c->read_run = 0;
            continue;
        }
        ordered = ordered && (!c->read_operation || ordered_before_current(c->read_operation));
        *c = Cell();
        c->write_operation = current_operation();
        c->initialised = true;
    }
    if (!ordered)
        report(cudaErrorLaunchFailure,
               "STREAM ORDER: a copy or fill %s a global array of %zu bytes against earlier work on another stream "
               "that this "
               "one does not wait for",
               write ? "to" : "from", a->size);
}

bool inside(const void* p, std::size_t bytes) {
    const Allocation* a = find_allocation(std::uintptr_t(p));
    return !a || (!a->freed && std::uintptr_t(p) + bytes <= std::uintptr_t(a->base) + a->size);
}
bool on_device(const void* p) {
    const Allocation* a = find_allocation(std::uintptr_t(p));
    return a && !a->pinned_host;
}
bool on_pageable_host(const void* p) { return !find_allocation(std::uintptr_t(p)); }

bool copy_is_legal(const void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    if (!inside(to, bytes) || !inside(from, bytes)) return false;
    if (kind == cudaMemcpyDefault) return true;
    return on_device(to) == (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) &&
           on_device(from) == (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice);
}

void copy_now(void* to, const void* from, std::size_t bytes) {
    const OpenMemory open;
    std::memmove(to, from, bytes);
    check_transfer(from, bytes, false);
    check_transfer(to, bytes, true);
}

cudaError_t copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    if (sticky_error) return sticky_error;
    if (!bytes) return cudaSuccess;
    if (!copy_is_legal(to, from, bytes, kind)) return failed(cudaErrorInvalidValue);
    if (on_pageable_host(from)) { // staged before the call returns
        auto staged =
            std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
        return enqueue(stream, [=] { copy_now(to, staged->data(), bytes); });
    }
    const cudaError_t e = enqueue(stream, [=] { copy_now(to, from, bytes); });
    if (on_pageable_host(to)) drain(stream); // returns only when the copy is complete
    return e ? e : sticky_error;
}

cudaError_t fill(void* p, int value, std::size_t bytes, cudaStream_t stream) {
    if (sticky_error) return sticky_error;
    if (!bytes) return cudaSuccess;
    if (!inside(p, bytes) || on_pageable_host(p)) return failed(cudaErrorInvalidValue);
    return enqueue(stream, [=] {
        const OpenMemory open;
        std::memset(p, value, bytes);
        check_transfer(p, bytes, true);
    });
}

} // namespace

OpenMemory::OpenMemory() {
    if (!open_count++) protect(true);
}
OpenMemory::~OpenMemory() {
    if (!--open_count) protect(false);
}

bool is_device_address(std::uintptr_t address) {
    return arena && address - std::uintptr_t(arena) < std::size_t(arena_top - arena);
}

Allocation* find_allocation(std::uintptr_t address) {
    for (Allocation* a : recent)
        if (a && address - std::uintptr_t(a->base) < a->size) return a;
    auto next = allocations.upper_bound(address);
    if (next == allocations.begin()) return nullptr;
    Allocation* a = std::prev(next)->second.get();
    if (address - std::uintptr_t(a->base) < a->size) {
        static unsigned turn = 0;
        return recent[turn++ % 4] = a;
    }
    return !a->pinned_host && is_device_address(address) ? a : nullptr;
}

} // namespace cuemu

using namespace cuemu;
using Lock = std::lock_guard<std::recursive_mutex>;
#define API extern "C" cudaError_t CUDARTAPI

API cudaMalloc(void** p, size_t bytes) {
    const Lock lock(machine_mutex);
    return sticky_error ? sticky_error : allocate(p, bytes, false);
}
API cudaMallocHost(void** p, size_t bytes) {
    const Lock lock(machine_mutex);
    return sticky_error ? sticky_error : allocate(p, bytes, true);
}
API cudaMallocAsync(void** p, size_t bytes, cudaStream_t) { return cudaMalloc(p, bytes); }
API cudaFree(void* p) {
    const Lock lock(machine_mutex);
    if (!p) return cudaSuccess;
    drain_all();
    const cudaError_t e = release(p);
    return sticky_error ? sticky_error : e;
}
API cudaFreeHost(void* p) { return cudaFree(p); }
API cudaFreeAsync(void* p, cudaStream_t stream) {
    const Lock lock(machine_mutex);
    return p ? enqueue(stream, [p] { release(p); }) : cudaSuccess;
}
API cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    const Lock lock(machine_mutex);
    return copy(to, from, bytes, kind, stream);
}
API cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    const Lock lock(machine_mutex);
    const cudaError_t e = copy(to, from, bytes, kind, nullptr);
    drain(nullptr);
    return sticky_error ? sticky_error : e;
}
API cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
    const Lock lock(machine_mutex);
    return fill(p, value, bytes, stream);
}
API cudaMemset(void* p, int value, size_t bytes) { return cudaMemsetAsync(p, value, bytes, nullptr); }
API cudaPointerGetAttributes(cudaPointerAttributes* out, const void* p) {
    const Lock lock(machine_mutex);
    const Allocation* a = find_allocation(std::uintptr_t(p));
    if (a && (a->freed || std::uintptr_t(p) - std::uintptr_t(a->base) >= a->size)) a = nullptr;
    *out = {};
    out->type = !a ? cudaMemoryTypeUnregistered : a->pinned_host ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    out->device = a ? 0 : -2;
    out->devicePointer = a ? const_cast<void*>(p) : nullptr;
    out->hostPointer = a && a->pinned_host ? const_cast<void*>(p) : nullptr;
    return cudaSuccess;
}
