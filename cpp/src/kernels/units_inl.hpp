// A row of a unit.
#pragma once

#include <stdint.h>

namespace {

inline uint32_t load_word(const uint8_t* p) {
    return uint32_t(p[0]) | uint32_t(p[1]) << 8 | uint32_t(p[2]) << 16 | uint32_t(p[3]) << 24;
}

} // namespace
