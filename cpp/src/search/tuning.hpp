// Every number of the search that came from trials: what it decides, and what gave it. Trials ran on AMD EPYC, one
// thread; errors do not depend on the machine beyond the last digits. "DESIGN" is cpp/DESIGN.md, which has the figures.
#pragma once

#include "bqq/error.hpp"

namespace bqq::detail::tuning {

// ---- efforts (bqq::Effort by number): python -m bench.decompose, DESIGN "Descent steps", "Temperature" ----

struct EffortTuning {
    Index steps, sweeps, restarts, retry_steps;
};
constexpr EffortTuning kEfforts[] = {{2000, 20000, 1, 10000}, {1000, 1500, 1, 0}, {2000, 64000, 4, 20000}};
/// Sweeps are for l up to the first number and fall as 1 / l up to the second: bits of larger blocks see more of the
/// others in each.
constexpr Index kSweepsInner = 64, kSweepsInnerMost = 256;
constexpr Index kProbeSweeps = 2000;     ///< after each of several descents, to choose among them
constexpr Index kMaxRefinedInner = 4096; ///< l: refinement keeps l x l arrays

// ---- descent: the paper's section 4 (arXiv 2510.18650); six deviations: DESIGN "Six standard deviations" ----

constexpr double kDescentFirst = 0.2, kDescentLast = 0.005; ///< temperatures
constexpr double kStepSize = 0.06, kLookAhead = 4;          ///< eta, zeta
constexpr Index kPaperSteps = 50000;
constexpr double kDeviations = 6; ///< of the residual: what the adaptive schedule divides by
/// A stack has settled when nothing moved by more, its softness was below the second number, for so many steps in a
/// row. Chosen, not measured: what is left to move then is far below what rounds to another bit.
constexpr float kStillMove = 1e-6f;
constexpr double kStillSoftness = 1e-6;
constexpr int kStillSteps = 8;

// ---- a longer descent where annealing gained little: DESIGN "A longer descent", python -m bench.paper lscale ----

constexpr double kMinGain = 0.06;  ///< of the error
constexpr double kWideInner = 1.2; ///< times the default l: from here on a long descent is worth more than annealing,
constexpr double kWideMinGain = 0.3;
constexpr Index kWideRetry = 3; ///< and may be so many times as long
/// Of the residual's variance: below, a stack is exact and needs no other try.
constexpr double kExact = 1e-9;

// ---- annealing: DESIGN "Temperature"; in units of the lowest mean squared error so far ----

struct AnnealTuning {
    double T_first, T_most; ///< where heating starts and ends at the latest
    double melting;         ///< share of the bits that flip in a sweep when heating ends
    double cooling;         ///< last temperature over the highest one reached
};
constexpr AnnealTuning kAnneal{1.2, 3.5, 0.045, 0.6};
constexpr AnnealTuning kRetryAnneal{0.6, 3.5, 0.01, 0.5}; ///< keeps what a long descent found
constexpr int kHeatingSweeps = 100;                       ///< from the first to the highest temperature
constexpr int kQuenchFirst = 30, kQuenchLast = 200;       ///< most greedy passes before and after. Chosen, not measured
constexpr int kRecountEvery = 64;  ///< sweeps; sums that move with the flips gather rounding. Chosen, not measured
constexpr int kPoolNumbers = 8192; ///< exponential numbers, of which every row of every visit reads a window

// ---- encode: python -m bench.encode ----

constexpr Index kEncodeSteps[] = {400, 100, 2000}; ///< bqq::Effort by number: flips of each of p + 2 searches of a row
constexpr Index kTabuTenure = 5;       ///< steps that a bit rests after its flip, and up to as many more at random
constexpr double kTabuGain = 1e-9;     ///< of the target's squared norm: what counts as a new lowest error
constexpr Index kEncodeStarts = 16384; ///< rows of q, evenly spaced, among which the nearest is looked for; chosen

// ---- weighted objective: python -m bench.weight, bench.weight_defaults (Xeon, AMX) ----

constexpr Index kCoupledPatch = 128; ///< making up for the error of the patches before is worth more than large blocks
constexpr Index kCoupledLeast = 96, kCoupledMost = 192; ///< sides of which one is taken,
constexpr double kCoupledWaste = 1.01;                  ///< the nearest to that with so many times the fewest bits
constexpr double kDamping =
    0.1; ///< share of the mean of the diagonal; of 0.01, 0.03 and 0.1 the best on held-out inputs
/// As kEfforts, with a whole weight: annealing moves the bits to where H wants them, a long descent before is lost. 100
/// steps end where 1,000 do (bench.weight_defaults), and so there is no longer descent behind either.
constexpr EffortTuning kCoupledEfforts[] = {{100, 5000, 1, 0}, {100, 1000, 1, 0}, {100, 64000, 1, 0}};
/// What rounding of float32 products X^T X may leave of symmetry: of the mean of the diagonal, of the entry.
/// Chosen, not measured.
constexpr double kAsymmetry = 1e-4, kRelativeAsymmetry = 1e-3;

} // namespace bqq::detail::tuning
