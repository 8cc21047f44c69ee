// decompose and extend of bqq/cuda.hpp with the limits of the device named.
#pragma once

#include "bqq/cuda.hpp"
#include "device.cuh"

namespace bqq::cuda {

/// old: NULL, or what there is already of the first stacks.
void decompose_within(const Limits& limits, const View* old, const Layout& layout, const float* W, Index ldw,
                      const DecomposeOptions& options, const Result& out, cudaStream_t stream);

} // namespace bqq::cuda
