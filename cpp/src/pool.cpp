#include "pool.hpp"

#include "cores.hpp"
#include "tuning.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace bqq::detail {
namespace {

struct Job {
    std::int64_t count;
    int threads;
    void (*call)(const void* body, std::int64_t item, int worker);
    const void* body;
    std::atomic<std::int64_t> next{0};
    int joined = 1;             // helpers numbered so far (the caller is 0): under the lock
    std::atomic<int> inside{0}; // helpers at work, changed under the lock

    void work(int worker) {
        for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) call(body, i, worker);
    }
    bool wants_help() const { return joined < threads && next.load(std::memory_order_relaxed) < count; }
};

// Products come in rows, a layer after the other, and waking a thread takes as long as a small one. So both sides look
// for a moment before they sleep.
template <class Done> void look_for(Done&& done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(kPoolSpin);
    while (!done() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
}

// Never destroyed: helpers sleep in it until the process ends.
struct Helpers {
    std::mutex guard;
    std::condition_variable work, done;
    std::vector<Job*> jobs;
    std::atomic<unsigned> posted{0}; // jobs so far, changed under the lock
    int count = 0;

    void start(int wanted) {
        constexpr int most = 255;
        for (; count < std::min(wanted, most); ++count) try {
                std::thread([this] { help(); }).detach();
            } catch (...) { // no more threads to be had: those there are do the work
                return;
            }
    }

    void help() {
        leave_binding();
        std::unique_lock<std::mutex> lock(guard);
        for (;;) {
            const auto found = std::find_if(jobs.begin(), jobs.end(), [](const Job* job) { return job->wants_help(); });
            if (found == jobs.end()) {
                const unsigned seen = posted;
                lock.unlock();
                look_for([&] { return posted != seen; });
                lock.lock();
                work.wait(lock, [&] { return posted != seen; });
                continue;
            }
            Job* job = *found;
            const int worker = job->joined++;
            ++job->inside;
            lock.unlock();
            job->work(worker);
            lock.lock();
            if (--job->inside == 0) done.notify_all();
        }
    }

    void run(Job& job) {
        {
            std::lock_guard<std::mutex> lock(guard);
            start(job.threads - 1);
            jobs.push_back(&job);
            ++posted;
        }
        for (int i = 1; i < job.threads; ++i) work.notify_one();
        job.work(0);
        std::unique_lock<std::mutex> lock(guard);
        jobs.erase(std::find(jobs.begin(), jobs.end(), &job));
        lock.unlock();
        look_for([&] { return job.inside == 0; });
        lock.lock();
        done.wait(lock, [&] { return job.inside == 0; });
    }
};

std::atomic<Helpers*> current{new Helpers};
std::atomic<int> forks_so_far{0};

#if defined(__unix__) || defined(__APPLE__)
// Threads do not survive fork(), and a lock may have been held: the child begins anew.
const int fork_handler = pthread_atfork(nullptr, nullptr, [] {
    current = new Helpers;
    ++forks_so_far;
});
#endif

} // namespace

int forks() noexcept { return forks_so_far; }

void Pool::share(std::int64_t count, int threads, Call call, const void* body) {
    Job job{count, threads, call, body};
    current.load()->run(job);
}

} // namespace bqq::detail
