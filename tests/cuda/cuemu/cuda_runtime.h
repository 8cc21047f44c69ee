// Found before the toolkit's <cuda_runtime.h> when the host compiler builds a .cu file: takes the toolkit's own types
// and prototypes (float4, dim3, cudaError_t, cudaLaunchConfig_t, ...) and adds the emulated device side.
#pragma once
#include_next <cuda_runtime.h>

#include "cuemu.h"
#include "intrinsics.h"
#include "mma.h"
#include "warp.h"
