// Temperatures and phases of a search, as state machines that host and device share.
#pragma once

#include "host_device.hpp"
#include "search/tuning.hpp"

#include <cmath>

namespace bqq::detail {

/// What a residual tells.
struct Spread {
    double mean, deviation, range;
};

struct AmfdOptions {
    double T_begin = tuning::kDescentFirst, T_end = tuning::kDescentLast; ///< of the second-order entropy, linear
    double eta = tuning::kStepSize;
    double zeta = tuning::kLookAhead; ///< look-ahead of the gradient point
    Index steps = tuning::kPaperSteps;
    bool stop_when_settled = false; ///< end early once every variable is 0 or 1 and none moves
    bool robust = false;            ///< divide the residual by standard deviations instead of its range

    double divisor(const Spread& spread) const {
        return robust ? tuning::kDeviations * spread.deviation : spread.range;
    }
};

/// The steps of a descent.
struct DescentSchedule {
    double T_begin, slope;
    float eta, zeta;
    int stop_when_settled;

    explicit DescentSchedule(const AmfdOptions& o)
        : T_begin(o.T_begin), slope(o.steps > 1 ? (o.T_begin - o.T_end) / double(o.steps - 1) : 0), eta(float(o.eta)),
          zeta(float(o.zeta)), stop_when_settled(o.stop_when_settled) {}

    BQQ_HOST_DEVICE double temperature(std::int64_t step) const { return T_begin - slope * double(step); }

    /// Whether the descent is over after a step whose largest change was `moved`. still: steps in a row without one.
    BQQ_HOST_DEVICE bool settled(float moved, double softness, int& still) const {
        still = moved < tuning::kStillMove && softness < tuning::kStillSoftness ? still + 1 : 0;
        return stop_when_settled && still >= tuning::kStillSteps;
    }
};

struct RefineOptions {
    tuning::AnnealTuning anneal = tuning::kAnneal;
    Index sweeps = 4000; ///< passes over all rows, all columns and the scales
};

/// Errors of the residual, in units of its deviation, with the best scales of this stack alone.
struct AnnealErrors {
    double first, last; ///< of the bits that were there, and after the last pass
};

enum class AnnealPhase : int { quench, anneal, cool, done };

/// A sweep heats until enough bits flip or the highest temperature is reached, then cools geometrically: noise is
/// glassy and has to be nearly molten, structure found by the descent must not be.
struct AnnealSchedule {
    double T_first, hotter, cooling, melting;
    std::int64_t sweeps, heating;

    explicit AnnealSchedule(const RefineOptions& o)
        : T_first(o.anneal.T_first),
          hotter(std::pow(o.anneal.T_most / o.anneal.T_first, 1 / double(tuning::kHeatingSweeps))),
          cooling(o.anneal.cooling), melting(o.anneal.melting), sweeps(o.sweeps),
          heating(o.sweeps / 4 < tuning::kHeatingSweeps ? o.sweeps / 4 : tuning::kHeatingSweeps) {}

    /// Passes until AnnealState is done, at most.
    std::int64_t most_passes() const { return (sweeps ? tuning::kQuenchFirst + sweeps : 0) + tuning::kQuenchLast; }
};

/// Where a block is in its annealing. A pass goes over all rows and all columns: greedy ones first (an unfinished
/// descent flips much before it melts: what temperatures are measured by comes after a quench), then the sweeps, then
/// greedy ones until no single flip helps.
struct AnnealState {
    double unit;      ///< lowest mean squared error so far
    double T, colder; ///< in units of it; factor of a sweep once cooling
    std::int64_t sweep;
    AnnealPhase phase;
    int passes;           ///< of this phase
    std::int64_t cooling; ///< 0 or 1; this wide so that copies on a device leave no gap

    BQQ_HOST_DEVICE void begin(const AnnealSchedule& o, double mse) {
        unit = mse, T = o.T_first, colder = 1, sweep = 0, passes = 0, cooling = 0;
        phase = o.sweeps ? AnnealPhase::quench : AnnealPhase::cool;
    }
    /// Whether sums that move with the flips are to be made anew before the next pass.
    BQQ_HOST_DEVICE bool recount_due() const {
        return (phase == AnnealPhase::anneal && sweep % tuning::kRecountEvery == tuning::kRecountEvery - 1) ||
               (phase == AnnealPhase::cool && passes == 0);
    }
    /// Of the next pass, against gains in squared error. 0: greedy.
    BQQ_HOST_DEVICE double temperature() const { return phase == AnnealPhase::anneal ? unit * T : 0; }

    /// After a pass in which `flips` of `bits` bits flipped.
    BQQ_HOST_DEVICE void advance(const AnnealSchedule& o, double flips, double bits, double mse) {
        if (mse < unit) unit = mse;
        ++passes;
        if (phase == AnnealPhase::quench && (flips == 0 || passes >= tuning::kQuenchFirst)) {
            phase = AnnealPhase::anneal, passes = 0;
        } else if (phase == AnnealPhase::anneal) {
            cooling = cooling || sweep + 1 >= o.heating || flips > o.melting * bits;
            if (cooling && colder == 1) colder = pow(o.cooling, 1 / double(o.sweeps - sweep));
            T *= cooling ? colder : o.hotter;
            if (++sweep >= o.sweeps) phase = AnnealPhase::cool, passes = 0;
        } else if (phase == AnnealPhase::cool && (flips == 0 || passes >= tuning::kQuenchLast)) {
            phase = AnnealPhase::done;
        }
    }
};

} // namespace bqq::detail
