// The tile registers: eight tiles of 16 rows of 64 bytes. Compiled with BQQ_AMX_EMULATED their instructions are
// functions (tests/cpp/amx_emulation.hpp).
#pragma once

#include "kernels/x86.hpp"

#include <stddef.h>
#include <stdint.h>
#if defined(BQQ_AMX_EMULATED)
#include "amx_emulation.hpp"
#endif

namespace {

constexpr size_t kSide = 16; // rows of a tile

// Static: gcc 12 does not see that loading the configuration reads it.
alignas(64) const struct {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
} kConfiguration;

// The tile registers of this thread, ours for the time of a product.
struct Tiles {
    Tiles() { _tile_loadconfig(&kConfiguration); }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

} // namespace
