// float16 and bfloat16 to float32 and back, in integer arithmetic: exact, the same on every machine.
// Narrowing rounds to nearest, ties to even; overflow gives infinity; NaN stays NaN (quieted, payload cut).
#pragma once

#include <cstdint>
#include <cstring>

namespace bqq::detail {

inline std::uint32_t bits_of(float x) noexcept {
    std::uint32_t u;
    std::memcpy(&u, &x, sizeof u);
    return u;
}
inline float float_of(std::uint32_t u) noexcept {
    float x;
    std::memcpy(&x, &u, sizeof x);
    return x;
}

inline float f16_to_f32(std::uint16_t h) noexcept {
    const std::uint32_t sign = std::uint32_t(h & 0x8000u) << 16;
    std::uint32_t exponent = (h >> 10) & 31u, mantissa = h & 0x3FFu;
    if (exponent == 31) return float_of(sign | 0x7F800000u | mantissa << 13 | (mantissa ? 0x400000u : 0u));
    if (exponent == 0) {
        if (!mantissa) return float_of(sign);
        for (exponent = 1; !(mantissa & 0x400u); mantissa <<= 1) --exponent; // may wrap below 0; the sum below is right
        mantissa &= 0x3FFu;
    }
    return float_of(sign | (exponent + 112u) << 23 | mantissa << 13);
}

inline std::uint16_t f32_to_f16(float x) noexcept {
    const std::uint32_t u = bits_of(x), sign = (u >> 16) & 0x8000u, a = u & 0x7FFFFFFFu;
    if (a > 0x7F800000u) return std::uint16_t(sign | 0x7E00u | ((a >> 13) & 0x3FFu));
    if (a >= 0x477FF000u) return std::uint16_t(sign | 0x7C00u); // 65520 is half way to 2^16: up
    if (a >= 0x38800000u) {                                     // 2^-14: normal
        const std::uint32_t b = a - 0x38000000u;
        return std::uint16_t(sign | (b + 0xFFFu + ((b >> 13) & 1u)) >> 13);
    }
    if (a < 0x33000000u) return std::uint16_t(sign); // below 2^-25, half the smallest subnormal
    const std::uint32_t mantissa = (a & 0x7FFFFFu) | 0x800000u, shift = 126u - (a >> 23);
    const std::uint32_t rest = mantissa & ((1u << shift) - 1u), tie = 1u << (shift - 1u);
    std::uint32_t h = mantissa >> shift;
    if (rest > tie || (rest == tie && (h & 1u))) ++h;
    return std::uint16_t(sign | h);
}

inline float bf16_to_f32(std::uint16_t h) noexcept { return float_of(std::uint32_t(h) << 16); }

inline std::uint16_t f32_to_bf16(float x) noexcept {
    const std::uint32_t u = bits_of(x);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return std::uint16_t(u >> 16 | 0x40u);
    return std::uint16_t((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
}

} // namespace bqq::detail
