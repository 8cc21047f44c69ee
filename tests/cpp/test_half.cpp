#include "half.hpp"

#include "check.hpp"

#include <cstdint>
#include <limits>
#include <random>

using namespace bqq::detail;

namespace {

/// float16 from its definition.
double f16_value(unsigned h) {
    const int exponent = int(h >> 10 & 31);
    const double mantissa = h & 1023, sign = h & 0x8000 ? -1 : 1;
    return sign * (exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24));
}

/// Rounding by search: the neighbour pair around |x|, the nearer one, the even one in a tie.
std::uint16_t nearest_f16(float x) {
    const unsigned sign = std::signbit(x) ? 0x8000 : 0;
    const double a = std::fabs(double(x));
    unsigned low = 0, high = 0x7C00; // value(0x7C00) reads as 65536 = where rounding puts infinity
    while (high - low > 1) (f16_value((low + high) / 2) <= a ? low : high) = (low + high) / 2;
    if (a >= 65536.0) return std::uint16_t(sign | 0x7C00);
    const double below = a - f16_value(low), above = f16_value(high) - a;
    return std::uint16_t(sign | (below < above || (below == above && low % 2 == 0) ? low : high));
}

std::uint16_t nearest_bf16(float x) {
    const std::uint32_t u = bits_of(x), low = u >> 16;
    if (std::isinf(x)) return std::uint16_t(low);
    const double below = std::fabs(double(x) - double(float_of(low << 16)));
    const bool top = (low & 0x7FFF) == 0x7F7F; // the next one up is infinity, standing for 2^128
    const double next = top ? std::copysign(std::ldexp(1.0, 128), x) : double(float_of((low + 1) << 16));
    const double above = std::fabs(next - double(x));
    return std::uint16_t(below < above || (below == above && low % 2 == 0) ? low : low + 1);
}

float random_float(std::mt19937& draw) { return float_of(std::uint32_t(draw())); }

} // namespace

TEST(f16_all) {
    for (unsigned h = 0; h < 65536; ++h) {
        const float x = f16_to_f32(std::uint16_t(h));
        if ((h & 0x7C00) == 0x7C00) {
            CHECK((h & 0x3FF) ? std::isnan(x) : std::isinf(x));
            CHECK_EQ(std::signbit(x), (h & 0x8000) != 0);
            CHECK_EQ(f32_to_f16(x), std::uint16_t(h & 0x3FF ? h | 0x200 : h));
        } else {
            CHECK(double(x) == f16_value(h));
            CHECK_EQ(std::signbit(x), (h & 0x8000) != 0);
            CHECK_EQ(f32_to_f16(x), std::uint16_t(h));
        }
    }
}

TEST(f16_ties_and_neighbours) {
    for (unsigned h = 0; h < 0x7C00; ++h)
        for (const unsigned sign : {0u, 0x8000u}) {
            const float tie = float((f16_value(h) + f16_value(h + 1)) / 2);
            const float signed_tie = sign ? -tie : tie;
            CHECK_EQ(f32_to_f16(signed_tie), std::uint16_t(sign | (h + (h & 1))));
            CHECK_EQ(f32_to_f16(std::nextafter(signed_tie, 0.0f)), std::uint16_t(sign | h));
            CHECK_EQ(f32_to_f16(std::nextafter(signed_tie, signed_tie * 4)), std::uint16_t(sign | (h + 1)));
        }
}

TEST(f16_random) {
    std::mt19937 draw(1);
    for (int i = 0; i < 1000000; ++i) {
        float x = random_float(draw);
        if (i % 2) x = std::ldexp(float(int(draw() % 33554432) - 16777216), int(draw() % 48) - 52); // in range
        if (std::isnan(x))
            CHECK(std::isnan(f16_to_f32(f32_to_f16(x))));
        else
            CHECK_EQ(f32_to_f16(x), nearest_f16(x));
    }
}

TEST(bf16_all_and_random) {
    for (unsigned h = 0; h < 65536; ++h) {
        const float x = bf16_to_f32(std::uint16_t(h));
        CHECK_EQ(bits_of(x), std::uint32_t(h) << 16);
        CHECK_EQ(f32_to_bf16(x), std::uint16_t(std::isnan(x) ? h | 0x40 : h));
    }
    CHECK(std::isnan(bf16_to_f32(f32_to_bf16(float_of(0x7F800001u))))); // the payload is all below the cut
    CHECK_EQ(f32_to_bf16(std::numeric_limits<float>::max()), std::uint16_t(0x7F80));
    std::mt19937 draw(2);
    for (int i = 0; i < 1000000; ++i) {
        float x = random_float(draw);
        if (i % 2) x = float_of((bits_of(x) & 0xFFFF0000u) | 0x8000u); // ties
        if (std::isnan(x))
            CHECK(std::isnan(bf16_to_f32(f32_to_bf16(x))));
        else
            CHECK_EQ(f32_to_bf16(x), nearest_bf16(x));
    }
}
