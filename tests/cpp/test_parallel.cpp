#include "check.hpp"

#include "parallel.hpp"
#include "rng.hpp"

#include <set>
#include <stdexcept>

using namespace bqq::detail;

TEST(every_item_runs_once) {
    for (const int threads : {1, 2, 5}) {
        std::vector<std::atomic<int>> seen(101);
        parallel_for(101, threads, [&](std::int64_t i, int worker) {
            CHECK(worker >= 0 && worker < threads);
            ++seen[std::size_t(i)];
        });
        for (const auto& count : seen) CHECK_EQ(count.load(), 1);
    }
}

TEST(the_first_exception_comes_out_and_stops_the_rest) {
    for (const int threads : {1, 3}) {
        std::atomic<int> started{0};
        CHECK_THROWS(parallel_for(100000, threads,
                                  [&](std::int64_t i, int) {
                                      ++started;
                                      if (i == 3) throw std::runtime_error("item 3");
                                  }),
                     std::runtime_error, "item 3");
        CHECK(started < 100000);
    }
}

TEST(the_caller_is_asked_while_it_waits_and_may_stop) {
    std::atomic<bool> stop{false};
    const auto caller = std::this_thread::get_id();
    CHECK_THROWS(parallel_for(
                     2, 2,
                     [&](std::int64_t, int) { // the caller's own item ends at once, the other one waits to be stopped
                         if (std::this_thread::get_id() != caller)
                             while (!stop) std::this_thread::sleep_for(std::chrono::milliseconds(1));
                         else
                             std::this_thread::sleep_for(std::chrono::milliseconds(50));
                     },
                     [] { throw std::runtime_error("interrupted"); }, &stop),
                 std::runtime_error, "interrupted");
}

TEST(philox_known_answers) {
    // Random123's known-answer vectors for philox4x32-10.
    std::uint32_t out[4];
    Philox{{0, 0}, {0, 0, 0}}(0, out);
    CHECK(out[0] == 0x6627e8d5 && out[1] == 0xe169c58d && out[2] == 0xbc57ac4c && out[3] == 0x9b00dbd8);
    Philox{{0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff, 0xffffffff}}(0xffffffff, out);
    CHECK(out[0] == 0x408f276d && out[1] == 0x41c83b0e && out[2] == 0xa20bc7c6 && out[3] == 0x6d5451fd);
    Philox{{0xa4093822, 0x299f31d0}, {0x85a308d3, 0x13198a2e, 0x03707344}}(0x243f6a88, out);
    CHECK(out[0] == 0xd16cfe09 && out[1] == 0x94fdcceb && out[2] == 0x5001e420 && out[3] == 0x24126ea1);
}

TEST(uniform_covers_the_interval_and_streams_differ) {
    Uniform a(1, 0, 0, 0), b(1, 1, 0, 0), again(1, 0, 0, 0);
    double mean = 0;
    std::set<float> values;
    int differ = 0;
    for (int i = 0; i < 10000; ++i) {
        const float x = a();
        CHECK(x >= 0 && x < 1);
        CHECK_EQ(x, again());
        differ += x != b();
        mean += double(x) / 10000;
        values.insert(x);
    }
    CHECK_NEAR(mean, 0.5, 0.02);
    CHECK(values.size() > 9900 && differ > 9900);
}
