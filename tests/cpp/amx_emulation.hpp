// The tile instructions of AMX as functions, for machines without them. Stricter than the hardware: use without a
// configuration, or of a tile it does not have, ends the test.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_dpbssd
#define _tile_loadconfig amx_emulation::loadconfig
#define _tile_release amx_emulation::release
#define _tile_zero amx_emulation::zero
#define _tile_loadd amx_emulation::loadd
#define _tile_stored amx_emulation::stored
#define _tile_dpbf16ps amx_emulation::dpbf16ps
#define _tile_dpbssd amx_emulation::dpbssd

namespace amx_emulation {

struct State {
    bool configured = false;
    int rows[8] = {}, bytes[8] = {};
    alignas(64) std::uint8_t tile[8][16][64];
};
inline State& state() {
    static thread_local State s;
    return s;
}

inline void require(bool condition, const char* what) {
    if (condition) return;
    std::fprintf(stderr, "AMX emulation: %s\n", what);
    std::abort();
}
inline State& configured(int t) {
    State& s = state();
    require(s.configured, "no tile configuration is loaded");
    require(t >= 0 && t < 8 && s.rows[t] > 0, "the tile is not configured");
    return s;
}

// Layout: palette at byte 0, start row at 1, bytes a row of tile t at 16 + 2 t, rows at 48 + t.
inline void loadconfig(const void* from) {
    std::uint8_t raw[64];
    std::memcpy(raw, from, 64);
    State& s = state();
    require(raw[0] == 1 && raw[1] == 0, "palette 1 from row 0 is all there is");
    for (int t = 0; t < 8; ++t) {
        std::uint16_t bytes;
        std::memcpy(&bytes, raw + 16 + 2 * t, 2);
        require(bytes <= 64 && bytes % 4 == 0 && raw[48 + t] <= 16, "a tile has at most 16 rows of 64 bytes");
        s.bytes[t] = bytes, s.rows[t] = raw[48 + t];
    }
    std::memset(s.tile, 0, sizeof s.tile);
    s.configured = true;
}
inline void release() { state() = State(); }
inline bool released() { return !state().configured; }

inline void zero(int t) { std::memset(configured(t).tile[t], 0, sizeof state().tile[t]); }
inline void loadd(int t, const void* base, std::size_t stride) {
    State& s = configured(t);
    zero(t);
    for (int r = 0; r < s.rows[t]; ++r)
        std::memcpy(s.tile[t][r], static_cast<const std::uint8_t*>(base) + std::size_t(r) * stride,
                    std::size_t(s.bytes[t]));
}
inline void stored(int t, void* base, std::size_t stride) {
    State& s = configured(t);
    for (int r = 0; r < s.rows[t]; ++r)
        std::memcpy(static_cast<std::uint8_t*>(base) + std::size_t(r) * stride, s.tile[t][r], std::size_t(s.bytes[t]));
}

inline float bf16(const std::uint8_t* at) {
    std::uint16_t half;
    std::memcpy(&half, at, 2);
    const std::uint32_t bits = std::uint32_t(half) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
// C[i][j] += the sum over k of what term adds for word k of row i of A and word j of row k of B.
template <class Sum, class Term> inline void accumulate(int c, int a, int b, Term&& term) {
    State& s = configured(c);
    configured(a), configured(b);
    require(s.rows[a] == s.rows[c] && s.bytes[b] == s.bytes[c] && s.bytes[a] == 4 * s.rows[b], "tiles do not fit");
    for (int i = 0; i < s.rows[c]; ++i)
        for (int j = 0; j < s.bytes[c] / 4; ++j) {
            Sum sum;
            std::memcpy(&sum, s.tile[c][i] + 4 * j, 4);
            for (int k = 0; k < s.rows[b]; ++k) term(sum, s.tile[a][i] + 4 * k, s.tile[b][k] + 4 * j);
            std::memcpy(s.tile[c][i] + 4 * j, &sum, 4);
        }
}
// In 32-bit integers, C[i][j] += A[i][4k] B[k][4j] + ... + A[i][4k+3] B[k][4j+3], signed bytes.
inline void dpbssd(int c, int a, int b) {
    accumulate<std::int32_t>(c, a, b, [](std::int32_t& sum, const std::uint8_t* x, const std::uint8_t* y) {
        for (int h = 0; h < 4; ++h) sum += std::int8_t(x[h]) * std::int8_t(y[h]);
    });
}
// C[i][j] += A[i][2k] B[k][2j] + A[i][2k+1] B[k][2j+1]
inline void dpbf16ps(int c, int a, int b) {
    accumulate<float>(c, a, b, [](float& sum, const std::uint8_t* x, const std::uint8_t* y) {
        for (int h = 0; h < 2; ++h) sum += bf16(x + 2 * h) * bf16(y + 2 * h);
    });
}

} // namespace amx_emulation
