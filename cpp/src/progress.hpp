// Counts steps over all threads; talks to the caller on the calling thread only.
#pragma once

#include "bqq/error.hpp"

#include <atomic>
#include <chrono>
#include <functional>

namespace bqq::detail {

class Progress {
  public:
    /// report may be empty; it outlives this.
    Progress(const std::function<bool(Index, Index)>& report, Index total) : report_(report), total_(total) {}
    std::atomic<bool> stop{false}; ///< set by parallel_for once somebody has failed

    void advance(Index steps, bool calling_thread) {
        done_.fetch_add(steps, std::memory_order_relaxed);
        if (stop) throw Error(ErrorCode::cancelled, "stopped");
        if (calling_thread) poll();
    }
    void poll() {
        if (!report_ || stop) return; // who has said no is not asked again
        const auto now = std::chrono::steady_clock::now();
        if (now - last_ < std::chrono::milliseconds(50)) return;
        last_ = now;
        call(done_);
    }
    /// All is done. Nothing is said where there was nothing to do.
    void finish() {
        if (report_ && total_) call(total_);
    }

  private:
    void call(Index done) {
        if (report_(done, total_)) return;
        throw Error(ErrorCode::cancelled, "stopped by the progress callback after " + std::to_string(done) + " of " +
                                              std::to_string(total_) + " steps");
    }
    const std::function<bool(Index, Index)>& report_;
    const Index total_;
    std::atomic<Index> done_{0};
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

} // namespace bqq::detail
