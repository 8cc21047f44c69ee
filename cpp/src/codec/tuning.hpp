// Constants of vector codes. Measured with python -m bench.ann where nothing else is said.
#pragma once

#include "bqq/error.hpp"

namespace bqq::detail {

/// A stage has about one bit a dimension (half a bit: SIFT, 16 bytes, relative error .094 instead of .084), within
/// these limits: few groups leave little to search, many take memory and time with their square.
constexpr Index kLeastStageBytes = 8, kMostStageBytes = 32;

/// Training: temperatures of the first and the last round, sweeps of a round, ridge on the entries as a share of the
/// vectors an entry has; rounds at the end that descend, too; rounds of the clustering that gives the first codes.
constexpr float kTrainFrom = 2.0f, kTrainTo = 0.3f;
constexpr Index kTrainSweeps = 3, kDescents = 8, kLastRounds = 3, kClusterRounds = 12;
constexpr double kRidge = 1e-2;

/// Scores of the search have 16 bits: what they can hold beyond the largest cost seen in training. Others take the long
/// way.
constexpr float kReach = 1.3f;

/// Codes that are ranked again: kRescore k + kRescoreMore (stages + 1), after a coarse scan kCoarseRescore k +
/// kCoarseMore. SIFT at 16, 32, 64 bytes loses nothing (recall@10 of 400 ranked again), at 64 bytes scanned by one of
/// four stages .002; GloVe-50 at 64 bytes, eight stages, nothing.
constexpr Index kRescore = 2, kRescoreMore = 4, kCoarseRescore = 3, kCoarseMore = 35;

/// Where that may not be enough, so many times as many of a second scan at most; the standard deviations between scan
/// and whole code that it allows for. GloVe-50, 64 bytes, effort "fast", by one of eight stages: 2 find .85, 2.5 .94, 3
/// .97 of .989, at 1.8, 1.3 and .95 times the queries a second of a whole scan.
constexpr Index kMostAgain = 16;
constexpr double kSpreads = 3, kCoarseSpreads = 2;

/// Blocks of codes that are worth a thread. Chosen, not measured.
constexpr Index kThreadBlocks = 256;

/// Norms are cut off at these quantiles of the training vectors.
constexpr double kNormTail = 0.0005;

} // namespace bqq::detail
