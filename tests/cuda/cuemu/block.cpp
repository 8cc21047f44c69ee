// Runs one block at a time: every thread is a fiber that goes on until it waits at a barrier or for its warp.
#include "machine.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>

// The same objects are const for the kernels: see cuemu.h.
#define BUILT_IN(name) asm(name) __attribute__((section("cuemu_built_in")))
extern "C" {
uint3 thread_index BUILT_IN("threadIdx"), block_index BUILT_IN("blockIdx");
dim3 block_shape BUILT_IN("blockDim"), grid_shape BUILT_IN("gridDim");
}

namespace cuemu {

Block block;
Counters counts{};
thread_local Thread* current = nullptr;
thread_local std::uintptr_t own_stack = 0;
thread_local int unchecked = 0;

namespace {

Context scheduler;
std::vector<int> ready;
std::size_t ready_head = 0;
const Call* running = nullptr;
std::uint64_t random_state = 0;

void push_ready(Thread& t) {
    t.state = State::ready;
    ready.push_back(t.id);
}

void to_scheduler(Thread& t) {
    ++counts.switches;
    swap(t.context, scheduler);
}

/// Index k of n things in the order of the options; a random order is drawn elsewhere.
int in_order(int k, int n) { return options().order == Order::descending ? n - 1 - k : k; }

void open_barrier() {
    int count = 0, waiting = 0;
    for (int i = 0; i < block.size; ++i) {
        const Thread& t = block.threads[i];
        if (t.state == State::at_barrier) count += t.predicate != 0, ++waiting;
    }
    block.waiting = 0;
    ++block.epoch;
    for (int k = 0; k < block.size; ++k) {
        Thread& t = block.threads[in_order(k, block.size)];
        if (t.state != State::at_barrier) continue;
        t.result = t.barrier == Barrier::any ? count > 0 : t.barrier == Barrier::all ? count == waiting : count;
        push_ready(t);
    }
}

/// Completes what `t` waits for if every live lane of its mask has come.
void try_meet(Thread& t) {
    const int base = t.id & ~31, top = std::min(base + 32, block.size);
    unsigned present = 0;
    void* requests[32] = {};
    for (int i = base; i < top; ++i) {
        const Thread& o = block.threads[i];
        if (!(t.mask >> o.lane() & 1) || o.state == State::done) continue;
        if (o.state != State::at_warp || o.mask != t.mask || o.meet != t.meet ||
            (o.what != t.what && std::strcmp(o.what, t.what)))
            return;
        present |= 1u << o.lane();
        requests[o.lane()] = o.request;
    }
    if (t.meet) {
        Unchecked off;
        t.meet(requests, present);
    } else { // __syncwarp: each lane knows what any of them knew
        ++block.warp_syncs;
        std::uint32_t joined[32] = {};
        for (int i = base; i < top; ++i)
            if (present >> (i & 31) & 1)
                for (int k = 0; k < 32; ++k) joined[k] = std::max(joined[k], block.threads[i].seen[k]);
        for (int i = base; i < top; ++i)
            if (present >> (i & 31) & 1) {
                std::memcpy(block.threads[i].seen, joined, sizeof joined);
                block.threads[i].seen[i & 31] = block.warp_syncs + 1;
            }
    }
    for (int k = 0; k < top - base; ++k) {
        const int i = base + in_order(k, top - base);
        if (present >> (i & 31) & 1) push_ready(block.threads[i]);
    }
}

void thread_main() {
    Thread& t = *current;
    running->run(running->arguments.get());
    t.state = State::done;
    --block.live;
    if (block.waiting && block.waiting == block.live) open_barrier(); // sm_70: a barrier counts those not exited
    const int base = t.id & ~31;
    for (int i = base; i < std::min(base + 32, block.size); ++i)
        if (block.threads[i].state == State::at_warp) try_meet(block.threads[i]);
    to_scheduler(t);
    std::abort();
}

void report_deadlock() {
    std::map<std::string, std::vector<int>> places;
    int exited = 0;
    for (int i = 0; i < block.size; ++i) {
        const Thread& t = block.threads[i];
        char text[256];
        if (t.state == State::done) {
            ++exited;
            continue;
        }
        if (t.state == State::at_barrier)
            std::snprintf(text, sizeof text, "__syncthreads at %s:%d", t.at.file, t.at.line);
        else
            std::snprintf(text, sizeof text, "%s (mask %08x) at %s:%d", t.what, t.mask, t.at.file, t.at.line);
        places[text].push_back(i);
    }
    std::string all;
    for (const auto& [place, threads] : places)
        all += ", " + std::to_string(threads.size()) + " thread(s) " + std::to_string(threads.front()) + ".." +
               std::to_string(threads.back()) + " in " + place;
    report(cudaErrorLaunchTimeout, "DEADLOCK in block (%u,%u,%u): %d thread(s) exited%s", block.index.x, block.index.y,
           block.index.z, exited, all.c_str());
    block.dead = true;
}

void start_threads() {
    ready.clear();
    ready_head = 0;
    for (int i = 0; i < block.size; ++i) {
        Thread& t = block.threads[i];
        t.id = i;
        t.index = {i % block.shape.x, i / block.shape.x % block.shape.y, i / (block.shape.x * block.shape.y)};
        std::memset(t.seen, 0, sizeof t.seen);
        t.seen[t.lane()] = 1;
        t.copies.clear();
        prepare(t.context, i, thread_main);
    }
    for (int k = 0; k < block.size; ++k) push_ready(block.threads[in_order(k, block.size)]);
}

void run_block() {
    ++counts.blocks;
    ++block.run;
    block.live = block.size;
    block.waiting = 0;
    block.epoch = 0;
    block.warp_syncs = 0;
    std::memset(block.shared, 0xFF, std::max(block.shared_used, block.dynamic_bytes)); // NaN, -1
    start_threads();
    while (block.live > 0 && !block.dead) {
        if (ready_head == ready.size()) {
            report_deadlock();
            return;
        }
        if (options().order == Order::random)
            std::swap(ready[ready_head], ready[ready_head + draw() % (ready.size() - ready_head)]);
        Thread& t = block.threads[ready[ready_head++]];
        if (ready_head == ready.size()) {
            ready.clear();
            ready_head = 0;
        }
        current = &t;
        own_stack = std::uintptr_t(stack_of(t.id));
        thread_index = t.index;
        swap(scheduler, t.context);
        current = nullptr;
        own_stack = 0;
    }
}

constexpr std::size_t red_zone = 64; // between shared arrays

std::size_t round_up(std::size_t x, std::size_t to) { return (x + to - 1) / to * to; }

} // namespace

void seed_draws(std::uint64_t stream) { random_state = options().seed * 0x9E3779B97F4A7C15u + stream; }

std::uint32_t draw() { // splitmix64
    std::uint64_t z = random_state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return std::uint32_t(z >> 32);
}

std::string who(const Thread& t) {
    char text[96];
    std::snprintf(text, sizeof text, "block (%u,%u,%u) thread (%u,%u,%u)", block.index.x, block.index.y, block.index.z,
                  t.index.x, t.index.y, t.index.z);
    return text;
}

void die() {
    block.dead = true;
    current->state = State::done;
    to_scheduler(*current);
    std::abort();
}

void yield_ready() {
    Thread& t = *current;
    push_ready(t);
    to_scheduler(t);
}

std::size_t run_grid(dim3 grid, dim3 shape, std::size_t dynamic_bytes, bool opted_in, const Call& call) {
    new_launch_for_reports();
    block.grid = grid_shape = grid;
    block.shape = block_shape = shape;
    block.size = int(shape.x * shape.y * shape.z);
    block.dead = false;
    block.dynamic_bytes = dynamic_bytes;
    block.static_bytes = 0;
    block.opted_in = opted_in;
    block.arguments = static_cast<const char*>(call.arguments.get());
    block.argument_bytes = call.bytes;
    block.threads.resize(max_stacks);
    if (!block.shared) block.shared = static_cast<char*>(std::aligned_alloc(1024, shared_window));
    block.arrays.clear();
    if (dynamic_bytes) block.arrays.push_back({nullptr, 0, dynamic_bytes, "dynamic shared memory", {}});
    block.shared_used = round_up(dynamic_bytes, red_zone) + red_zone;
    running = &call;
    seed_draws(current_operation());
    std::vector<std::uint32_t> order(std::size_t(grid.x) * grid.y * grid.z);
    for (std::size_t i = 0; i < order.size(); ++i)
        order[i] = std::uint32_t(options().order == Order::descending ? order.size() - 1 - i : i);
    if (options().order == Order::random)
        for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[draw() % i]);
    for (std::uint32_t b : order) {
        block_index = block.index = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
        run_block();
        if (block.dead) break;
    }
    running = nullptr;
    block.arguments = nullptr;
    return block.static_bytes;
}

// ---- what kernels call

Unchecked::Unchecked() { ++unchecked; }
Unchecked::~Unchecked() { --unchecked; }

Counters counters() { return counts; }

unsigned active_lanes() {
    unsigned lanes = 0;
    const int base = current->id & ~31;
    for (int i = base; i < std::min(base + 32, block.size); ++i)
        if (block.threads[i].state != State::done) lanes |= 1u << (i & 31);
    return lanes;
}

int barrier(Barrier kind, int predicate, Where at) {
    Thread& t = *current;
    t.barrier = kind;
    t.predicate = predicate;
    t.at = at;
    t.state = State::at_barrier;
    if (!block.waiting) {
        block.first_waiting = t.id;
    } else {
        const Thread& first = block.threads[block.first_waiting];
        if (first.at.line != at.line || first.barrier != kind || std::strcmp(first.at.file, at.file)) {
            report(cudaErrorLaunchFailure, "DIVERGENT BARRIER: %s waits at %s:%d, thread %d of the block at %s:%d",
                   who(t).c_str(), at.file, at.line, first.id, first.at.file, first.at.line);
            die();
        }
    }
    if (++block.waiting == block.live) open_barrier();
    to_scheduler(t);
    return t.result;
}

void collective(unsigned mask, const char* what, void* request, Meet meet, Where at) {
    Thread& t = *current;
    if (!(mask >> t.lane() & 1)) {
        report(cudaErrorLaunchFailure, "LANE NOT IN MASK: %s calls %s with mask %08x at %s:%d", who(t).c_str(), what,
               mask, at.file, at.line);
        die();
    }
    t.mask = mask;
    t.what = what;
    t.request = request;
    t.meet = meet;
    t.at = at;
    t.state = State::at_warp;
    try_meet(t);
    to_scheduler(t);
}

void* shared_array(const void* key, std::size_t bytes, std::size_t align, const char* name) {
    std::size_t total = bytes;
    for (const SharedArray& a : block.arrays) {
        if (a.key == key) return block.shared + a.offset;
        if (a.key) total += a.size;
    }
    // The dynamic array and the static ones share the limit of the block; red zones are ours and do not count.
    block.static_bytes = std::max(block.static_bytes, total);
    const std::size_t limit = block.opted_in ? shared_limit : static_shared_limit;
    if (total > static_shared_limit || total + block.dynamic_bytes > limit) {
        report(cudaErrorInvalidValue,
               "SHARED MEMORY LIMIT: %zu static and %zu dynamic bytes with array '%s', %zu are allowed", total,
               block.dynamic_bytes, name, limit);
        die();
    }
    const std::size_t offset = round_up(block.shared_used, std::max<std::size_t>(align, 16));
    block.arrays.push_back({key, offset, bytes, name, {}});
    block.shared_used = offset + bytes + red_zone;
    std::memset(block.shared + offset, 0xFF, bytes);
    return block.shared + offset;
}

unsigned char* shared_dynamic() { return reinterpret_cast<unsigned char*>(block.shared); }

void copy_async(void* shared, const void* global, Where at) {
    access(shared, 16, Access::write, at, 16);
    Unchecked off;
    std::memset(shared, 0xFF, 16);
    mark_poisoned(shared, 16);
    auto& groups = current->copies;
    if (groups.empty()) groups.emplace_back();
    groups.back().push_back({shared, global, at});
}

void copy_async_commit() {
    auto& groups = current->copies;
    if (groups.empty()) groups.emplace_back();
    groups.emplace_back();
}

void copy_async_wait(int pending) {
    auto& groups = current->copies;
    while (int(groups.size()) > pending + 1) { // the last one is open
        const std::vector<AsyncCopy> done = std::move(groups.front());
        groups.erase(groups.begin());
        for (const AsyncCopy& c : done) {
            access(c.global, 16, Access::read, c.at, 16);
            access(c.shared, 16, Access::write, c.at, 16);
            Unchecked off;
            std::memcpy(c.shared, c.global, 16);
        }
    }
}

} // namespace cuemu
