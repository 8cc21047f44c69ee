// Streams, events, launches and device queries of the CUDA runtime.
// Work runs at once, or (deferred) when something waits for it. Either way vector clocks follow what the program orders
// by streams, events and waits, so that the checker knows which work may run at the same time.
#include "machine.hpp"

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <map>
#include <set>

namespace cuemu {

std::recursive_mutex machine_mutex;

namespace {

using Clock = std::vector<std::uint32_t>; // per stream, how many of its operations are known to be done

void join(Clock& into, const Clock& from) {
    if (into.size() < from.size()) into.resize(from.size());
    for (std::size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
}

struct Task {
    Clock after; // what the host knew when it was queued
    std::function<void()> work;
};
struct Stream {
    std::size_t id;
    bool blocking; // ordered against the default stream
    std::deque<Task> queue;
    Clock clock;
};
struct Event {
    Stream* stream = nullptr;
    std::shared_ptr<bool> done;
    std::shared_ptr<Clock> clock;
};

Stream default_stream{0, true, {}, {}}, per_thread_stream{1, true, {}, {}};
std::set<Stream*> streams{&default_stream, &per_thread_stream};
std::size_t next_stream = 2;
std::map<cudaEvent_t, Event> events;
Clock host;

struct Operation {
    std::size_t stream;
    std::uint32_t tick;
};
std::vector<Operation> operations(1); // number 0 is none
Stream* running = nullptr;
cudaError_t last_error = cudaSuccess;
std::map<const void*, Kernel> kernels;

Stream& stream_of(cudaStream_t stream) {
    if (!stream || stream == cudaStreamLegacy) return default_stream;
    if (stream == cudaStreamPerThread) return per_thread_stream;
    return *reinterpret_cast<Stream*>(stream);
}

void run(Stream& s, const Task& task) {
    Stream* outer = running;
    join(s.clock, task.after);
    if (s.clock.size() <= s.id) s.clock.resize(s.id + 1);
    operations.push_back({s.id, ++s.clock[s.id]});
    running = &s;
    task.work();
    running = outer;
}

void run_queue(Stream& s) {
    while (!s.queue.empty()) {
        const Task task = std::move(s.queue.front());
        s.queue.pop_front();
        run(s, task);
    }
}

void wait_for(Stream& s) {
    run_queue(s);
    join(host, s.clock);
}

/// What the default stream waits for, and what waits for it.
void order_default(Stream& s) {
    if (!s.blocking) return;
    for (Stream* o : streams)
        if (o != &s && o->blocking && (&s == &default_stream || o == &default_stream)) {
            run_queue(*o);
            join(s.clock, o->clock);
        }
}

/// Runs the event's stream until the event is done.
void reach(const Event& e) {
    while (e.done && !*e.done && !e.stream->queue.empty()) {
        const Task task = std::move(e.stream->queue.front());
        e.stream->queue.pop_front();
        run(*e.stream, task);
    }
}

int device_count() {
    const char* text = std::getenv("CUEMU_DEVICES");
    return text ? std::atoi(text) : 1;
}

} // namespace

std::uint32_t current_operation() { return std::uint32_t(operations.size() - 1); }

bool ordered_before_current(std::uint32_t operation) {
    const Operation& o = operations[operation];
    return running && running->clock.size() > o.stream && running->clock[o.stream] >= o.tick;
}

cudaError_t failed(cudaError_t error) { return last_error = error; }

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
    if (sticky_error) return sticky_error;
    Stream& s = stream_of(stream);
    order_default(s);
    s.queue.push_back({host, std::move(work)});
    if (!options().defer) run_queue(s);
    return cudaSuccess;
}

void drain(cudaStream_t stream) {
    Stream& s = stream_of(stream);
    order_default(s);
    wait_for(s);
}

void drain_all() {
    std::vector<Stream*> all(streams.begin(), streams.end());
    std::sort(all.begin(), all.end(), [](const Stream* a, const Stream* b) { return a->id < b->id; });
    if (options().order == Order::descending) std::reverse(all.begin(), all.end());
    if (options().order == Order::random) {
        seed_draws(current_operation());
        for (std::size_t i = all.size(); i > 1; --i) std::swap(all[i - 1], all[draw() % i]);
    }
    for (Stream* s : all) wait_for(*s);
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, Call call) {
    const std::lock_guard<std::recursive_mutex> lock(machine_mutex);
    const dim3 grid = config.gridDim, shape = config.blockDim;
    const std::size_t threads = std::size_t(shape.x) * shape.y * shape.z, dynamic = config.dynamicSmemBytes;
    if (!threads || threads > 1024 || shape.z > 64 || !grid.x || !grid.y || !grid.z || grid.x > 0x7FFFFFFFu ||
        grid.y > 65535 || grid.z > 65535)
        return failed(cudaErrorInvalidConfiguration);
    if (config.numAttrs) return failed(cudaErrorNotSupported);
    Kernel& known = kernels[kernel];
    if (dynamic > known.dynamic_limit) return failed(cudaErrorInvalidValue);
    const bool opted_in = known.opted_in;
    const cudaError_t e = enqueue(config.stream, [=, &known] { // a map keeps its elements in place
        if (sticky_error) return;
        const OpenMemory open;
        known.static_bytes = std::max(known.static_bytes, run_grid(grid, shape, dynamic, opted_in, call));
    });
    return e;
}

} // namespace cuemu

using namespace cuemu;
using Lock = std::lock_guard<std::recursive_mutex>;
#define API extern "C" cudaError_t CUDARTAPI

API cudaStreamCreateWithFlags(cudaStream_t* out, unsigned flags) {
    const Lock lock(machine_mutex);
    auto* s = new Stream{next_stream++, flags != cudaStreamNonBlocking, {}, {}};
    streams.insert(s);
    *out = reinterpret_cast<cudaStream_t>(s);
    return cudaSuccess;
}
API cudaStreamCreate(cudaStream_t* out) { return cudaStreamCreateWithFlags(out, cudaStreamDefault); }
API cudaStreamDestroy(cudaStream_t stream) {
    const Lock lock(machine_mutex);
    Stream* s = &stream_of(stream);
    if (s == &default_stream || s == &per_thread_stream) return failed(cudaErrorInvalidResourceHandle);
    run_queue(*s);
    for (auto& [name, e] : events)
        if (e.stream == s) e.stream = &default_stream;
    streams.erase(s);
    delete s;
    return cudaSuccess;
}
API cudaStreamSynchronize(cudaStream_t stream) {
    const Lock lock(machine_mutex);
    drain(stream);
    return sticky_error;
}
API cudaStreamQuery(cudaStream_t stream) {
    const Lock lock(machine_mutex);
    return sticky_error ? sticky_error : stream_of(stream).queue.empty() ? cudaSuccess : cudaErrorNotReady;
}
API cudaDeviceSynchronize() {
    const Lock lock(machine_mutex);
    drain_all();
    return sticky_error;
}

API cudaEventCreateWithFlags(cudaEvent_t* out, unsigned) {
    const Lock lock(machine_mutex);
    static std::uintptr_t name = 0;
    *out = reinterpret_cast<cudaEvent_t>(++name * 64);
    events[*out] = {};
    return cudaSuccess;
}
API cudaEventCreate(cudaEvent_t* out) { return cudaEventCreateWithFlags(out, cudaEventDefault); }
API cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    const Lock lock(machine_mutex);
    const Event e{&stream_of(stream), std::make_shared<bool>(false), std::make_shared<Clock>()};
    events[event] = e;
    return enqueue(stream, [e] {
        *e.clock = e.stream->clock;
        *e.done = true;
    });
}
API cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    const Lock lock(machine_mutex);
    const Event e = events[event];
    Stream* s = &stream_of(stream);
    return enqueue(stream, [e, s] {
        reach(e);
        if (e.clock) join(s->clock, *e.clock);
    });
}
API cudaEventSynchronize(cudaEvent_t event) {
    const Lock lock(machine_mutex);
    const Event e = events[event];
    reach(e);
    if (e.clock) join(host, *e.clock);
    return sticky_error;
}
API cudaEventQuery(cudaEvent_t event) {
    const Lock lock(machine_mutex);
    const Event& e = events[event];
    return sticky_error ? sticky_error : !e.done || *e.done ? cudaSuccess : cudaErrorNotReady;
}
API cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
    *milliseconds = 0;
    return cudaSuccess;
}
API cudaEventDestroy(cudaEvent_t event) {
    const Lock lock(machine_mutex);
    events.erase(event);
    return cudaSuccess;
}

API cudaGetLastError() {
    const Lock lock(machine_mutex);
    const cudaError_t e = sticky_error ? sticky_error : last_error;
    last_error = cudaSuccess;
    return e;
}
API cudaPeekAtLastError() { return sticky_error ? sticky_error : last_error; }
/// Clears the sticky error; allocations survive, unlike on a device.
API cudaDeviceReset() {
    const Lock lock(machine_mutex);
    drain_all();
    sticky_error = last_error = cudaSuccess;
    return cudaSuccess;
}
API cudaGetDeviceCount(int* count) {
    if (device_count() == 0) return failed(cudaErrorNoDevice); // leaves *count alone
    *count = device_count();
    return cudaSuccess;
}
API cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
API cudaSetDevice(int device) { return device == 0 ? cudaSuccess : failed(cudaErrorInvalidDevice); }
API cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    if (device < 0 || device >= device_count()) return failed(cudaErrorInvalidDevice);
    static const std::map<cudaDeviceAttr, int> values = {
        {cudaDevAttrMultiProcessorCount, 4},
        {cudaDevAttrMaxSharedMemoryPerBlock, int(static_shared_limit)},
        {cudaDevAttrMaxSharedMemoryPerBlockOptin, int(shared_limit)},
        {cudaDevAttrMaxThreadsPerBlock, 1024},
        {cudaDevAttrWarpSize, 32},
        {cudaDevAttrComputeCapabilityMajor, 9},
        {cudaDevAttrComputeCapabilityMinor, 0},
    };
    const auto found = values.find(attribute);
    if (found == values.end()) return failed(cudaErrorInvalidValue);
    *value = found->second;
    return cudaSuccess;
}
API cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
    const Lock lock(machine_mutex);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    Kernel& known = kernels[kernel];
    if (value < 0 || std::size_t(value) + known.static_bytes > shared_limit) return failed(cudaErrorInvalidValue);
    known.dynamic_limit = std::size_t(value);
    known.opted_in = true;
    return cudaSuccess;
}
/// Of static shared memory it knows what earlier launches have used.
API cudaFuncGetAttributes(cudaFuncAttributes* out, const void* kernel) {
    const Lock lock(machine_mutex);
    const Kernel& known = kernels[kernel];
    *out = {};
    out->sharedSizeBytes = known.static_bytes;
    out->maxDynamicSharedSizeBytes =
        int(known.opted_in ? known.dynamic_limit : static_shared_limit - known.static_bytes);
    out->maxThreadsPerBlock = 1024;
    return cudaSuccess;
}
extern "C" const char* CUDARTAPI cudaGetErrorString(cudaError_t error) {
    static thread_local std::string text;
    text = error == cudaSuccess ? "no error" : "emulated CUDA error " + std::to_string(int(error));
    return text.c_str();
}
extern "C" const char* CUDARTAPI cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }
