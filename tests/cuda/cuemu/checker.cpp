// Checks every access of a kernel: is it in an array, is the data there, is it ordered against the other threads'.
#include "machine.hpp"

#include <algorithm>
#include <link.h>

namespace cuemu {

extern "C" char __start_cuemu_built_in[], __stop_cuemu_built_in[]; // threadIdx, blockIdx, blockDim, gridDim

bool instrumented = false;

Shadow::Range Shadow::cells(std::size_t offset, std::size_t bytes, std::size_t size) {
    if (cells_.empty()) cells_.resize((size + grain_ - 1) / grain_);
    const std::size_t end = offset + bytes, odd = offset | (end == size ? 0 : end);
    if (odd % grain_) { // a finer grain: every cell becomes several alike
        const unsigned finer = odd % 2 ? 1 : 2, parts = grain_ / finer;
        std::vector<Cell> cells((size + finer - 1) / finer);
        for (std::size_t i = 0; i < cells.size(); ++i) cells[i] = cells_[i / parts];
        cells_.swap(cells);
        grain_ = finer;
    }
    return {cells_.data() + offset / grain_, cells_.data() + (end + grain_ - 1) / grain_};
}

namespace {

constexpr std::uint32_t many_blocks = 0xFFFFFFFFu;
constexpr std::int16_t many_warps = -1;

/// One access to one array.
struct Touch {
    Access kind;
    Where at;
    void* pc;
    bool shared, always_initialised;
    std::size_t offset, size;
    const char* name;

    std::string object() const {
        return shared ? "shared " + std::string(name) + ", byte " + std::to_string(offset)
                      : "byte " + std::to_string(offset) + " of a global array of " + std::to_string(size);
    }
    const void* place() const { return pc ? pc : at.file + at.line; }
    std::string source() const { return source_of(at, pc); }
};

void report_race(const Touch& touch, const char* kind, const std::string& other) {
    if (first_at(touch.place(), "race"))
        report(cudaErrorLaunchFailure, "RACE (%s) on %s: %s against %s, nothing orders them, at %s", kind,
               touch.object().c_str(), who(*current).c_str(), other.c_str(), touch.source().c_str());
}

void report_stream(const Touch& touch, const char* kind) {
    if (first_at(touch.place(), "race"))
        report(
            cudaErrorLaunchFailure,
            "STREAM ORDER (%s) on %s: %s against earlier work on another stream that this one does not wait for, at %s",
            kind, touch.object().c_str(), who(*current).c_str(), touch.source().c_str());
}

/// Is the thread's lane-wise knowledge enough to order `lanes` at `clock` of its own warp before it?
bool knows(const Thread& t, std::uint32_t lanes, std::uint32_t clock) {
    for (lanes &= ~(1u << t.lane()); lanes; lanes &= lanes - 1)
        if (t.seen[__builtin_ctz(lanes)] < clock) return false;
    return true;
}

void against_write(const Cell& c, const Touch& touch) {
    const Thread& t = *current;
    const bool here = touch.shared ? c.write_run == block.run : c.write_operation == current_operation();
    const char* kind = touch.kind == Access::read ? "read after write" : "write after write";
    if (touch.kind == Access::atomic && c.write_atomic) return;
    if (!here) {
        if (!touch.shared && c.write_operation && !ordered_before_current(c.write_operation))
            report_stream(touch, kind);
    } else if (c.write_run != block.run) {
        report_race(touch, kind, "another block");
    } else if (c.write_epoch == block.epoch && c.write_thread != t.id &&
               !(c.write_thread / 32 == t.warp() && knows(t, 1u << (c.write_thread & 31), c.write_clock))) {
        report_race(touch, kind, "thread " + std::to_string(c.write_thread) + " of the block");
    }
}

void against_reads(const Cell& c, const Touch& touch) {
    const Thread& t = *current;
    const bool here = touch.shared ? c.read_run == block.run : c.read_operation == current_operation();
    for (std::uint32_t o : {c.read_operation, c.other_read_operation})
        if (!touch.shared && o && o != current_operation() && !ordered_before_current(o))
            report_stream(touch, "write after read");
    if (!here) return;
    if (c.read_run != block.run) {
        report_race(touch, "write after read", "another block");
    } else if (c.read_epoch == block.epoch && (c.read_warp != t.warp() || !knows(t, c.read_lanes, c.read_clock))) {
        report_race(touch, "write after read", "another thread of the block");
    }
}

void remember_write(Cell& c, Access kind) {
    const Thread& t = *current;
    c.write_operation = current_operation();
    c.write_run = block.run;
    c.write_epoch = block.epoch;
    c.write_clock = t.seen[t.lane()];
    c.write_thread = std::uint16_t(t.id);
    c.write_atomic = kind == Access::atomic;
    c.initialised = true;
    c.read_operation = c.other_read_operation = c.read_run = 0;
}

/// Keeps the readers of this epoch as the lanes of one warp, or as "many". Of two clocks the lower one stays: that may
/// miss a race between partial warps, never invent one.
void remember_read(Cell& c) {
    const Thread& t = *current;
    const std::uint32_t mine = 1u << t.lane();
    const bool same_operation = c.read_operation == current_operation();
    if (same_operation && c.read_run != block.run && c.read_run) {
        c.read_run = many_blocks;
    } else if (!same_operation || c.read_run != block.run || c.read_epoch != block.epoch ||
               (c.read_warp == t.warp() && knows(t, c.read_lanes, c.read_clock))) {
        if (!same_operation && c.read_operation && !ordered_before_current(c.read_operation))
            c.other_read_operation = c.read_operation;
        c.read_operation = current_operation();
        c.read_run = block.run;
        c.read_epoch = block.epoch;
        c.read_clock = t.seen[t.lane()];
        c.read_lanes = mine;
        c.read_warp = std::int16_t(t.warp());
    } else if (c.read_warp != t.warp()) {
        c.read_warp = many_warps;
    } else {
        c.read_lanes |= mine;
        c.read_clock = std::min(c.read_clock, t.seen[t.lane()]);
    }
}

void touch_cells(Shadow& shadow, const Touch& touch, std::size_t bytes) {
    const Shadow::Range cells = shadow.cells(touch.offset, bytes, touch.size);
    for (Cell* c = cells.begin; c != cells.end; ++c) {
        const bool there = touch.always_initialised || (c->initialised && (!touch.shared || c->write_run == block.run));
        if (touch.kind != Access::write && !there && first_at(touch.place(), "uninitialised"))
            report(cudaErrorLaunchFailure, "UNINITIALISED READ of %s by %s at %s", touch.object().c_str(),
                   who(*current).c_str(), touch.source().c_str());
        against_write(*c, touch);
        if (touch.kind == Access::read) {
            remember_read(*c);
        } else {
            against_reads(*c, touch);
            remember_write(*c, touch.kind);
        }
    }
}

// Loaded segments: kernels may read constants of the program (read-only), nothing else of the host.
struct Segment {
    std::uintptr_t begin, end;
    bool writable;
};
const Segment* find_segment(std::uintptr_t address) {
    static std::vector<Segment> segments;
    for (int attempt = 0; attempt < 2; ++attempt) {
        for (const Segment& s : segments)
            if (address >= s.begin && address < s.end) return &s;
        segments.clear();
        dl_iterate_phdr(
            [](dl_phdr_info* info, std::size_t, void*) {
                for (int k = 0; k < info->dlpi_phnum; ++k) {
                    const auto& p = info->dlpi_phdr[k];
                    const std::uintptr_t begin = info->dlpi_addr + p.p_vaddr;
                    if (p.p_type == PT_LOAD) segments.push_back({begin, begin + p.p_memsz, (p.p_flags & PF_W) != 0});
                }
                return 0;
            },
            nullptr);
    }
    return nullptr;
}

const char* verb(Access kind) { return kind == Access::read ? "read" : "write"; }

void check_shared(std::size_t offset, std::size_t bytes, Access kind, Where at, void* pc) {
    for (SharedArray& a : block.arrays)
        if (offset >= a.offset && offset + bytes <= a.offset + a.size) {
            if (!instrumented) return;
            touch_cells(a.shadow, {kind, at, pc, true, false, offset - a.offset, a.size, a.name}, bytes);
            return;
        }
    report(cudaErrorIllegalAddress,
           "OUT OF BOUNDS %s of %zu bytes in shared memory, between or behind the arrays, by %s at %s", verb(kind),
           bytes, who(*current).c_str(), source_of(at, pc).c_str());
    die();
}

void check_global(Allocation& a, std::uintptr_t address, std::size_t bytes, Access kind, Where at, void* pc) {
    const std::size_t offset = address - std::uintptr_t(a.base);
    if (a.freed || offset + bytes > a.size) {
        report(cudaErrorIllegalAddress, "%s %s of %zu bytes at offset %zu of a global array of %zu by %s at %s",
               offset < a.size ? "USE AFTER FREE," : "OUT OF BOUNDS", verb(kind), bytes, offset, a.size,
               who(*current).c_str(), source_of(at, pc).c_str());
        die();
    }
    if (instrumented) touch_cells(a.shadow, {kind, at, pc, false, a.pinned_host, offset, a.size, ""}, bytes);
}

} // namespace

bool checked() { return instrumented; }

void check(std::uintptr_t address, std::size_t bytes, Access kind, Where at, void* pc) {
    if (address - own_stack < stack_bytes || unchecked) return;
    if (!current) {
        if (is_device_address(address) && first_at(pc, "host"))
            report(cudaSuccess, "HOST CODE TOUCHES DEVICE MEMORY at %s", source_of(at, pc).c_str());
        return;
    }
    const Thread& t = *current;
    if (kind == Access::read && (address - std::uintptr_t(__start_cuemu_built_in) <
                                     std::size_t(__stop_cuemu_built_in - __start_cuemu_built_in) ||
                                 address - std::uintptr_t(block.arguments) < block.argument_bytes))
        return;
    ++counts.accesses;
    if (options().preempt && draw() % options().preempt == 0) yield_ready();
    if (address - std::uintptr_t(block.shared) < shared_window)
        return check_shared(address - std::uintptr_t(block.shared), bytes, kind, at, pc);
    if (Allocation* a = find_allocation(address)) return check_global(*a, address, bytes, kind, at, pc);
    const Segment* s = find_segment(address);
    if (kind == Access::read && s && !s->writable) return;
    report(cudaErrorIllegalAddress, "ILLEGAL ADDRESS: %s of %zu bytes at %p, %s, by %s at %s", verb(kind), bytes,
           reinterpret_cast<void*>(address),
           on_some_stack(address) ? "local memory of another thread"
           : s                    ? "a global variable of the host"
                                  : "memory of the host or none",
           who(t).c_str(), source_of(at, pc).c_str());
    die();
}

void access(const void* p, std::size_t bytes, Access kind, Where at, std::size_t align) {
    if (std::uintptr_t(p) % align) {
        report(cudaErrorMisalignedAddress, "MISALIGNED access of %zu bytes by %s at %s:%d", bytes,
               who(*current).c_str(), at.file, at.line);
        die();
    }
    check(std::uintptr_t(p), bytes, kind, at, nullptr);
}

void mark_poisoned(void* shared, std::size_t bytes) {
    const std::size_t offset = std::size_t(static_cast<char*>(shared) - block.shared);
    for (SharedArray& a : block.arrays)
        if (instrumented && offset >= a.offset && offset + bytes <= a.offset + a.size) {
            const Shadow::Range cells = a.shadow.cells(offset - a.offset, bytes, a.size);
            for (Cell* c = cells.begin; c != cells.end; ++c) c->initialised = false;
        }
}

} // namespace cuemu
