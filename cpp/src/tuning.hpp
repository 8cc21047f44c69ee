// Constants of the lowest rooms that came from a measurement. "Zen 4 class": an AMD EPYC with two cores, gcc 12.
#pragma once

#include "bqq/error.hpp"

namespace bqq::detail {

/// Default patch: a matrix of at most kWholeSide on a side is one block, others have blocks of at most kDefaultPatch.
/// Zen 4 class: less error and fewer bits on real layers than with 128 (bench.decompose), and a faster product, since
/// it makes fewer tables (bench.matmul).
constexpr Index kWholeSide = 512, kDefaultPatch = 256;

/// Elements times stacks of a matrix below which a pass over it stays on one thread. Chosen, not measured.
constexpr double kSmallPass = 1e5;

/// Microseconds that a helper of Pool, and its caller, look for work or an end before they sleep. Zen 4 class,
/// bench.matmul with two threads: from batch 1 on they pay then.
constexpr int kPoolSpin = 50;

} // namespace bqq::detail
