// Aligned memory and prepared matrices for tests of the product and its kernels.
#pragma once

#include "bqq/prepared.hpp"
#include "memory.hpp"

namespace aligned_memory {

template <class T> using Elements = bqq::detail::AlignedArray<T>;
using Aligned = Elements<std::uint8_t>;

/// What is multiplied: q or, transposed, q^T. The memory was not zero before.
inline Aligned prepared(const bqq::Matrix& q, bool transposed = false) {
    const std::size_t size = bqq::prepared_size(q.view(), transposed);
    Aligned buffer(size, 0xA5);
    bqq::prepare(q.view(), buffer.at, size, transposed);
    return buffer;
}

} // namespace aligned_memory
