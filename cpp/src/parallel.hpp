// One loop over threads with dynamic chunks of one item, which the calling thread can finish alone. Threads of the
// standard library: a team of OpenMP ends the process where no more threads are to be had, is lost after fork(),
// inherits bindings, and meets the teams of other libraries.
#pragma once

#include "cores.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace bqq::detail {

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
    std::condition_variable ended;
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
        std::lock_guard<std::mutex> lock(guard);
        if (busy.fetch_sub(1) == 1) ended.notify_all();
    };
    const auto wait = [&] {
        std::unique_lock<std::mutex> lock(guard);
        while (idle && !ended.wait_for(lock, std::chrono::milliseconds(5), [&] { return busy == 0; })) {
            lock.unlock();
            try {
                idle();
            } catch (...) {
                fail();
            }
            lock.lock();
        }
    };
    std::vector<std::thread> crew;
    try {
        for (int worker = 1; worker < threads; ++worker)
            crew.emplace_back([&work, worker] {
                leave_binding();
                work(worker);
            });
    } catch (...) { // no more threads to be had: those there are do the work
    }
    work(0);
    wait();
    for (auto& thread : crew) thread.join();
    if (error) std::rethrow_exception(error);
}

} // namespace bqq::detail
