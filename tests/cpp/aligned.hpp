// Aligned memory and prepared matrices for tests of the product.
#pragma once

#include "bqq/prepared.hpp"

#include <cstdint>
#include <memory>

namespace aligned_memory {

struct Aligned {
    std::unique_ptr<std::uint8_t[]> memory;
    void* at;
    explicit Aligned(std::size_t size) : memory(new std::uint8_t[size + 64]) {
        at = memory.get() + (64 - reinterpret_cast<std::uintptr_t>(memory.get()) % 64) % 64;
    }
};

inline Aligned prepared(const bqq::Matrix& q) {
    const std::size_t size = bqq::prepared_size(q.view());
    Aligned buffer(size);
    bqq::prepare(q.view(), buffer.at, size);
    return buffer;
}

} // namespace aligned_memory
