// Aligned memory and prepared matrices for tests of the product and its kernels.
#pragma once

#include "bqq/prepared.hpp"
#include "memory.hpp"

#include <algorithm>

namespace aligned_memory {

/// `count` elements from a cache line on, each `value`.
template <class T> struct Elements {
    bqq::detail::AlignedMemory memory;
    T* at;
    explicit Elements(std::size_t count, T value = T())
        : memory(count * sizeof(T)), at(static_cast<T*>(memory.data())) {
        std::fill_n(at, count, value);
    }
};
using Aligned = Elements<std::uint8_t>;

/// What is multiplied: q or, transposed, q^T. The memory was not zero before.
inline Aligned prepared(const bqq::Matrix& q, bool transposed = false) {
    const std::size_t size = bqq::prepared_size(q.view(), transposed);
    Aligned buffer(size, 0xA5);
    bqq::prepare(q.view(), buffer.at, size, transposed);
    return buffer;
}

} // namespace aligned_memory
