// Every item once, by any number of callers at a time, nested, and after fork.
#include "check.hpp"

#include "pool.hpp"

#include <atomic>
#include <thread>

#if defined(__unix__)
#include <sys/wait.h>
#include <unistd.h>
#endif

using bqq::detail::Pool;

TEST(every_item_once) {
    for (const int threads : {0, 1, 2, 3, 8, 1000})
        for (const int count : {0, 1, 2, 7, 1000}) {
            std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
            std::atomic<int> strangers{0};
            Pool::run(count, threads, [&](std::int64_t i, int worker) {
                ++seen[std::size_t(i)];
                if (worker < 0 || worker >= std::max(1, threads)) ++strangers;
            });
            for (const auto& s : seen) CHECK_EQ(s.load(), 1);
            CHECK_EQ(strangers.load(), 0);
        }
}

TEST(workers_do_not_share_a_number) {
    std::vector<int> sums(8); // not atomic: a number stands for one thread at a time
    for (int round = 0; round < 200; ++round)
        Pool::run(50, 8, [&](std::int64_t i, int worker) { sums[std::size_t(worker)] += int(i); });
    int total = 0;
    for (const int s : sums) total += s;
    CHECK_EQ(total, 200 * 50 * 49 / 2);
}

TEST(many_callers_and_nesting) {
    std::atomic<int> total{0};
    std::vector<std::thread> callers;
    for (int t = 0; t < 4; ++t)
        callers.emplace_back([&] {
            for (int round = 0; round < 50; ++round)
                Pool::run(5, 3, [&](std::int64_t, int) { Pool::run(7, 2, [&](std::int64_t, int) { ++total; }); });
        });
    for (auto& caller : callers) caller.join();
    CHECK_EQ(total.load(), 4 * 50 * 5 * 7);
}

#if defined(__unix__) && !defined(__SANITIZE_THREAD__) // which refuses threads after fork
TEST(a_forked_child_has_helpers_of_its_own) {
    std::atomic<int> total{0};
    Pool::run(100, 4, [&](std::int64_t, int) { ++total; });
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        std::atomic<int> mine{0};
        for (int round = 0; round < 20; ++round) Pool::run(100, 4, [&](std::int64_t, int) { ++mine; });
        _exit(mine == 2000 ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_EQ(status, 0);
    CHECK_EQ(total.load(), 100);
}
#endif
