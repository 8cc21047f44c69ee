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

// Four sums in tiles 0 to 3, of one or two tiles of rows (4, 5) times one or two of columns (6, 7): tile 2 row +
// column.
template <bool two_rows, bool two_cols> void zero_sums() {
    _tile_zero(0);
    if (two_cols) _tile_zero(1);
    if (two_rows) _tile_zero(2);
    if (two_rows && two_cols) _tile_zero(3);
}
template <bool two_rows, bool two_cols> void multiply_bf16() {
    _tile_dpbf16ps(0, 4, 6);
    if (two_cols) _tile_dpbf16ps(1, 4, 7);
    if (two_rows) _tile_dpbf16ps(2, 5, 6);
    if (two_rows && two_cols) _tile_dpbf16ps(3, 5, 7);
}
template <bool two_rows, bool two_cols> void store_sums(float* sums) {
    _tile_stored(0, sums, 64);
    if (two_cols) _tile_stored(1, sums + 256, 64);
    if (two_rows) _tile_stored(2, sums + 512, 64);
    if (two_rows && two_cols) _tile_stored(3, sums + 768, 64);
}

} // namespace
