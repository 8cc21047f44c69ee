#include "pool.hpp"

#include <algorithm>
#include <atomic>
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
    int joined = 1, inside = 0; // helpers numbered so far (the caller is 0), helpers at work: under the lock

    void work(int worker) {
        for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) call(body, i, worker);
    }
    bool wants_help() const { return joined < threads && next.load(std::memory_order_relaxed) < count; }
};

// Never destroyed: helpers sleep in it until the process ends.
struct Helpers {
    std::mutex guard;
    std::condition_variable work, done;
    std::vector<Job*> jobs;
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
        std::unique_lock<std::mutex> lock(guard);
        for (;;) {
            const auto found = std::find_if(jobs.begin(), jobs.end(), [](const Job* job) { return job->wants_help(); });
            if (found == jobs.end()) {
                work.wait(lock);
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
        }
        for (int i = 1; i < job.threads; ++i) work.notify_one();
        job.work(0);
        std::unique_lock<std::mutex> lock(guard);
        jobs.erase(std::find(jobs.begin(), jobs.end(), &job));
        done.wait(lock, [&] { return job.inside == 0; });
    }
};

std::atomic<Helpers*>& current() {
    static std::atomic<Helpers*> helpers{new Helpers};
    return helpers;
}

#if defined(__unix__) || defined(__APPLE__)
// Threads do not survive fork(), and a lock may have been held: the child begins anew.
const int fork_handler = pthread_atfork(nullptr, nullptr, [] { current() = new Helpers; });
#endif

} // namespace

void Pool::share(std::int64_t count, int threads, Call call, const void* body) {
    Job job{count, threads, call, body};
    current().load()->run(job);
}

} // namespace bqq::detail
