// Helpers for work of less than a millisecond. A team that starts and ends together (parallel_for) waits for its
// slowest thread, which on a loaded machine may not even run for several milliseconds. Here sleeping helpers join in
// when they wake; the caller never waits for one that has not started an item, so that at worst it does all the work
// alone.
#pragma once

#include <cstdint>

namespace bqq::detail {

/// How many forks lie between the first process and this one: locks made before the last may be held for ever.
int forks() noexcept;

/// body(item, worker) for every item in [0, count), worker in [0, threads); worker 0 is the caller. The body must not
/// throw. May be nested and called from any thread; a child of fork() starts helpers of its own.
class Pool {
  public:
    template <class Body> static void run(std::int64_t count, int threads, const Body& body) {
        if (threads > count) threads = int(count);
        if (threads <= 1) {
            for (std::int64_t i = 0; i < count; ++i) body(i, 0);
            return;
        }
        share(
            count, threads, [](const void* b, std::int64_t i, int w) { (*static_cast<const Body*>(b))(i, w); }, &body);
    }

  private:
    using Call = void (*)(const void* body, std::int64_t item, int worker);
    static void share(std::int64_t count, int threads, Call call, const void* body);
};

} // namespace bqq::detail
