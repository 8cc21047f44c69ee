// An ordinary tensor of a container: its bytes pass through untouched.
#pragma once

#include "bqq/error.hpp"

#include <vector>

namespace bqq {

struct Tensor {
    std::string name;
    std::string dtype; ///< safetensors name: F64 F32 F16 BF16 I64 ... BOOL
    std::vector<Index> shape;
    const std::uint8_t* data = nullptr;
    std::size_t nbytes = 0;
};

} // namespace bqq
