// CRC-32 as in zlib, PNG and gzip: reflected polynomial 0xEDB88320, start and final xor 0xFFFFFFFF.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace bqq::detail {

using CrcTables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr CrcTables make_crc_tables() {
    CrcTables t{};
    for (std::uint32_t i = 0; i < 256; ++i) {
        std::uint32_t c = i;
        for (int k = 0; k < 8; ++k) c = c & 1u ? c >> 1 ^ 0xEDB88320u : c >> 1;
        t[0][i] = c;
    }
    for (std::size_t s = 1; s < 8; ++s)
        for (std::size_t i = 0; i < 256; ++i) t[s][i] = t[s - 1][i] >> 8 ^ t[0][t[s - 1][i] & 255u];
    return t;
}
inline constexpr CrcTables kCrcTables = make_crc_tables();

/// Checksum of `size` bytes that continues `crc`, the checksum of what came before: crc32(b, crc32(a)) == crc32(ab).
inline std::uint32_t crc32(const std::uint8_t* data, std::size_t size, std::uint32_t crc = 0) noexcept {
    const CrcTables& t = kCrcTables;
    std::uint32_t c = ~crc;
    for (; size >= 8; size -= 8, data += 8)
        c = t[7][(c ^ data[0]) & 255u] ^ t[6][(c >> 8 ^ data[1]) & 255u] ^ t[5][(c >> 16 ^ data[2]) & 255u] ^
            t[4][c >> 24 ^ data[3]] ^ t[3][data[4]] ^ t[2][data[5]] ^ t[1][data[6]] ^ t[0][data[7]];
    for (; size; --size) c = c >> 8 ^ t[0][(c ^ *data++) & 255u];
    return ~c;
}

} // namespace bqq::detail
