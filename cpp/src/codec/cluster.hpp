// First codes of a stage: product k-means.
#pragma once

#include "progress.hpp"

#include <vector>

namespace bqq::detail {

/// Codes of R (rows x d, ld apart, used up) for `groups` groups: blocks of neighbouring coordinates, at least two
/// each, are clustered into 16; further groups cluster what that leaves. An entry a byte, [rows, groups]. progress is
/// polled.
std::vector<std::uint8_t> product_kmeans(std::vector<float> R, Index rows, Index d, Index ld, Index groups,
                                         std::uint64_t seed, int threads, Progress& progress);

} // namespace bqq::detail
