// Threads: the only place that knows OpenMP. One loop with dynamic chunks of one item, which the calling thread can
// finish alone.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#if defined(BQQ_WITH_OPENMP)
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

namespace bqq::detail {

/// Cores this process may use, capped by BQQ_NUM_THREADS or else OMP_NUM_THREADS.
inline int default_threads() {
    int cores = int(std::max(1u, std::thread::hardware_concurrency()));
#if defined(__linux__)
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set)) cores = std::max(1, CPU_COUNT(&set));
#endif
    for (const char* name : {"BQQ_NUM_THREADS", "OMP_NUM_THREADS"}) {
        const char* text = std::getenv(name);
        const long value = text ? std::strtol(text, nullptr, 10) : 0;
        if (value > 0) return int(std::min<long>(value, cores));
    }
    return cores;
}

inline int resolve_threads(int threads) { return threads > 0 ? std::min(threads, 1024) : default_threads(); }

/// libgomp's workers do not survive fork(): a child that forked after they started uses std::thread instead.
inline std::atomic<bool>& openmp_lost() {
    static std::atomic<bool> lost{false};
    return lost;
}

#if defined(BQQ_WITH_OPENMP) && (defined(__unix__) || defined(__APPLE__))
// At load time: another library may have started libgomp's workers before this one did.
inline const int fork_handler = pthread_atfork(nullptr, nullptr, [] { openmp_lost() = true; });
#endif

inline bool openmp_usable() {
#if defined(BQQ_WITH_OPENMP)
    return !openmp_lost();
#else
    return false;
#endif
}

/// body(item, worker) for every item in [0, count), worker in [0, threads). The first exception stops the loop and is
/// rethrown here. `idle`, if given, is called on the calling thread every few milliseconds while it waits for the
/// others; it may throw. `stop`, if given, is set when the loop is being abandoned so that long bodies can return
/// early.
template <class Body> void parallel_for(std::int64_t count, int threads, Body&& body,
                                        const std::function<void()>& idle = {}, std::atomic<bool>* stop = nullptr) {
    std::atomic<bool> own_stop{false};
    std::atomic<bool>& stopped = stop ? *stop : own_stop;
    threads = int(std::min<std::int64_t>(threads, count));
    if (threads <= 1) {
        for (std::int64_t i = 0; i < count && !stopped; ++i) body(i, 0);
        return;
    }
    std::atomic<std::int64_t> next{0};
    std::atomic<int> busy{0};
    std::exception_ptr error;
    std::mutex guard;
    const auto fail = [&] {
        std::lock_guard<std::mutex> lock(guard);
        if (!error) error = std::current_exception();
        stopped = true;
    };
    const auto work = [&](int worker) {
        busy.fetch_add(1);
        try {
            for (std::int64_t i; !stopped && (i = next.fetch_add(1)) < count;) body(i, worker);
        } catch (...) {
            fail();
        }
        busy.fetch_sub(1);
    };
    const auto wait = [&] {
        while (idle && busy > 0) {
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
            try {
                idle();
            } catch (...) {
                fail();
            }
        }
    };
    if (openmp_usable()) {
#if defined(BQQ_WITH_OPENMP)
#pragma omp parallel num_threads(threads)
        {
            const int worker = omp_get_thread_num();
            work(worker);
            if (worker == 0) wait();
        }
#endif
    } else {
        std::vector<std::thread> crew;
        try {
            for (int worker = 1; worker < threads; ++worker) crew.emplace_back(work, worker);
        } catch (...) { // no more threads to be had: those there are do the work
        }
        work(0);
        wait();
        for (auto& thread : crew) thread.join();
    }
    if (error) std::rethrow_exception(error);
}

} // namespace bqq::detail
