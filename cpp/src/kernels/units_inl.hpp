// The rows of units whose bytes lie in the order kWords. A file that has the other order defines BQQ_UNITS and its own
// PanelWords.
#pragma once

#include "kernels/table.hpp"

namespace {

#ifndef BQQ_UNITS
inline uint32_t load_word(const uint8_t* p) {
    return uint32_t(p[0]) | uint32_t(p[1]) << 8 | uint32_t(p[2]) << 16 | uint32_t(p[3]) << 24;
}

// The rows of at most kChunkBlocks units of a panel.
struct PanelWords {
    const uint8_t* units;
    size_t stride;
    PanelWords(size_t, const uint8_t* units, size_t stride) : units(units), stride(stride) {}
    uint32_t at(size_t block, size_t row) const { return load_word(units + block * stride + 4 * row); }
};
#endif

} // namespace
