#include "cores.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace bqq::detail {
namespace {

constexpr int kMostThreads = 1024;

// A whole number above 0, or 0.
int number(const char* name) {
    const char* text = std::getenv(name);
    const long value = text ? std::strtol(text, nullptr, 10) : 0;
    return int(std::clamp<long>(value, 0, kMostThreads));
}

#if defined(__linux__)
struct Cores {
    cpu_set_t set;
    bool known;
    Cores() : known(!sched_getaffinity(0, sizeof set, &set)) {}
};

const Cores at_load;

bool bound_by_openmp() {
    const char* bind = std::getenv("OMP_PROC_BIND");
    return at_load.known && (std::getenv("GOMP_CPU_AFFINITY") || (bind && std::strcmp(bind, "false") != 0));
}
#endif

int cores() {
#if defined(__linux__)
    const Cores now;
    const Cores& usable = bound_by_openmp() ? at_load : now;
    if (usable.known) return std::max(1, CPU_COUNT(&usable.set));
#endif
    return int(std::max(1u, std::thread::hardware_concurrency()));
}

} // namespace

int default_threads() {
    if (const int wanted = number("BQQ_NUM_THREADS")) return wanted;
    const int most = number("OMP_NUM_THREADS");
    return most ? std::min(most, cores()) : cores();
}

int resolve_threads(int threads) { return threads > 0 ? std::min(threads, kMostThreads) : default_threads(); }

void leave_binding() {
#if defined(__linux__)
    if (bound_by_openmp()) sched_setaffinity(0, sizeof at_load.set, &at_load.set);
#endif
}

} // namespace bqq::detail
