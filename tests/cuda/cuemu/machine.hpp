// State of the emulated device, shared by the .cpp files beside it.
#pragma once

#include "cuemu.h"
#include "fiber.hpp"

#include <functional>
#include <mutex>
#include <string>
#include <vector>

namespace cuemu {

constexpr std::size_t static_shared_limit = 48 << 10, shared_limit = 227 << 10;
constexpr std::size_t shared_window = 256 << 10; ///< the limit and red zones

// ---- what the checker remembers of memory: shadow.cpp

/// One cell per grain of memory. A run is one execution of one block, an epoch what lies between two of its barriers,
/// a clock counts the __syncwarp of a lane, an operation is a launch or copy on a stream.
struct Cell {
    std::uint32_t write_run = 0, write_epoch = 0, write_clock = 0, write_operation = 0;
    std::uint32_t read_run = 0, read_epoch = 0, read_clock = 0, read_operation = 0;
    std::uint32_t read_lanes = 0, other_read_operation = 0; ///< the other: one that the last one does not wait for
    std::int16_t read_warp = 0;
    std::uint16_t write_thread = 0;
    bool write_atomic = false, initialised = false;
};

/// Cells of one array. The grain starts at 4 bytes and shrinks to the smallest access seen.
class Shadow {
  public:
    /// The cells of bytes [offset, offset + bytes) of an array of `size` bytes.
    struct Range {
        Cell *begin, *end;
    };
    Range cells(std::size_t offset, std::size_t bytes, std::size_t size);
    bool empty() const { return cells_.empty(); }
    void clear() { cells_ = {}; }

  private:
    unsigned grain_ = 4;
    std::vector<Cell> cells_;
};

// ---- threads and the block that runs: block.cpp

enum class State { ready, at_barrier, at_warp, done };

struct AsyncCopy {
    void* shared;
    const void* global;
    Where at;
};

struct Thread {
    Context context;
    uint3 index{};
    int id = 0;
    State state = State::ready;
    Where at{"", 0}; ///< where it waits
    Barrier barrier = Barrier::sync;
    int predicate = 0, result = 0;
    unsigned mask = 0;
    const char* what = "";
    void* request = nullptr;
    Meet meet = nullptr;
    std::uint32_t seen[32];                     ///< vector clock: what it knows of each lane of its warp
    std::vector<std::vector<AsyncCopy>> copies; ///< committed groups, the last one still open

    int lane() const { return id & 31; }
    int warp() const { return id / 32; }
};

struct SharedArray {
    const void* key; ///< null: the dynamic shared memory
    std::size_t offset, size;
    const char* name;
    Shadow shadow;
};

struct Block {
    dim3 grid, shape;
    uint3 index{};
    std::uint32_t run = 0, epoch = 0;
    std::vector<Thread> threads;
    int size = 0, live = 0, waiting = 0, first_waiting = 0;
    bool dead = false;
    std::uint32_t warp_syncs = 0;
    char* shared = nullptr;
    std::size_t shared_used = 0, dynamic_bytes = 0, static_bytes = 0;
    bool opted_in = false; ///< to more than 48 KB
    std::vector<SharedArray> arrays;
    const char* arguments = nullptr;
    std::size_t argument_bytes = 0;
};
extern Block block;
extern Counters counts;
extern thread_local Thread* current;          ///< the device thread that runs on this host thread
extern thread_local std::uintptr_t own_stack; ///< where its stack begins
extern thread_local int unchecked;            ///< > 0: the emulation itself is at work

/// What a kernel has been allowed, and its static shared memory as far as it has run.
struct Kernel {
    std::size_t dynamic_limit = static_shared_limit, static_bytes = 0;
    bool opted_in = false;
};
/// Runs all blocks of a launch; returns the static shared memory of a block.
std::size_t run_grid(dim3 grid, dim3 shape, std::size_t dynamic_bytes, bool opted_in, const Call& call);
/// Another thread may go on here.
void yield_ready();
[[noreturn]] void die();
std::string who(const Thread& t);
std::uint32_t draw(); ///< from the stream of random numbers of the run order
void seed_draws(std::uint64_t stream);

// ---- findings: report.cpp

extern cudaError_t sticky_error;
[[gnu::format(printf, 2, 3)]] void report(cudaError_t error, const char* format, ...);
/// True the first time it is called with `place` and `kind` in a launch.
bool first_at(const void* place, const char* kind);
void new_launch_for_reports();
/// Source line of an instruction, as far as the program tells.
std::string source_of(Where at, void* pc);

// ---- the checker: checker.cpp

extern bool instrumented; ///< some object was compiled with -fsanitize=thread
void check(std::uintptr_t address, std::size_t bytes, Access kind, Where at, void* pc);
void mark_poisoned(void* shared, std::size_t bytes);

// ---- device memory: memory.cpp

struct Allocation {
    char* base;
    std::size_t size;
    bool pinned_host = false, freed = false;
    Shadow shadow;
};
bool is_device_address(std::uintptr_t address);
/// The allocation whose bytes, or the gap behind whose bytes, `address` lies in.
Allocation* find_allocation(std::uintptr_t address);
/// Opens device memory to the emulation while it lives (CUEMU_PROTECT).
struct OpenMemory {
    OpenMemory();
    ~OpenMemory();
};

// ---- streams: streams.cpp

extern std::recursive_mutex machine_mutex; ///< every entry of the runtime API holds it
/// The operation that runs now, and whether an earlier one is ordered before it by streams, events and waits.
std::uint32_t current_operation();
bool ordered_before_current(std::uint32_t operation);
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);
/// Waits for everything in the stream, as cudaStreamSynchronize.
void drain(cudaStream_t stream);
void drain_all();
cudaError_t failed(cudaError_t error); ///< sets the last error and returns it

} // namespace cuemu
