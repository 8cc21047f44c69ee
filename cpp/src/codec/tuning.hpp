// Constants of vector codes. Measured with bench/bench_ann.py where nothing else is said.
#pragma once

#include "bqq/error.hpp"

namespace bqq::detail {

/// A stage has about one bit a dimension (half a bit: SIFT, 16 bytes, relative error .094 instead of .084), within these
/// limits: few groups leave little to search, many take memory and time with their square.
constexpr Index kLeastStageBytes = 8, kMostStageBytes = 32;

/// Training: temperatures of the first and the last round, sweeps of a round, ridge on the entries as a share of the
/// vectors an entry has; rounds at the end that descend, too; rounds of the clustering that gives the first codes.
constexpr float kTrainFrom = 2.0f, kTrainTo = 0.3f;
constexpr Index kTrainSweeps = 3, kDescents = 8, kLastRounds = 3, kClusterRounds = 12;
constexpr double kRidge = 1e-2;

/// Scores of the search have 16 bits: what they can hold beyond the largest cost seen in training. Others take the long
/// way.
constexpr float kReach = 1.3f;

/// Norms are cut off at these quantiles of the training vectors.
constexpr double kNormTail = 0.0005;

} // namespace bqq::detail
