// decompose and extend of bqq/cuda.hpp with the limits of the device and the plan named.
#pragma once

#include "bqq/cuda.hpp"
#include "device.cuh"
#include "search/recipe.hpp"

namespace bqq::cuda {

/// old: NULL, or what there is already of the first stacks. Of the options, those that a plan does not have.
void decompose_within(const Limits& limits, const View* old, const Layout& layout, const detail::Plan& plan,
                      const float* W, Index ldw, const DecomposeOptions& options, const Result& out,
                      cudaStream_t stream);

} // namespace bqq::cuda
