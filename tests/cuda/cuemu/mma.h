// The twins of the inline PTX in cuda/portable.cuh, written from the PTX ISA manual.
#pragma once

#include "cuemu.h"
#include "half.hpp"

namespace cuemu {

inline float half_to_float(std::uint16_t h) { return bqq::detail::f16_to_f32(h); }
inline std::uint16_t float_to_half(float x) { return bqq::detail::f32_to_f16(x); }
inline std::uint16_t float_to_bf16(float x) { return bqq::detail::f32_to_bf16(x); }

struct Fragments {
    float c[4];
    std::uint32_t a[4], b[2];
    float (*to_float)(std::uint16_t);

    /// Element (row, k) of A: the lane that holds it, its register and half.
    static float a_of(void** warp, int row, int k) {
        const auto* f = static_cast<const Fragments*>(warp[row % 8 * 4 + k % 8 / 2]);
        return f->to_float(std::uint16_t(f->a[row / 8 + k / 8 * 2] >> k % 2 * 16));
    }
    static float b_of(void** warp, int k, int column) {
        const auto* f = static_cast<const Fragments*>(warp[column * 4 + k % 8 / 2]);
        return f->to_float(std::uint16_t(f->b[k / 8] >> k % 2 * 16));
    }
    static float& c_of(void** warp, int row, int column) {
        return static_cast<Fragments*>(warp[row % 8 * 4 + column / 2])->c[row / 8 * 2 + column % 2];
    }
};

/// mma.sync.aligned.m16n8k16.row.col with 16-bit floating point A and B: products exact, sums in float32 along k
/// ("accumulation with at least single precision", order unspecified).
inline void mma_m16n8k16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                         float (*to_float)(std::uint16_t), const char* what, Where at = Where::here()) {
    Fragments mine;
    std::memcpy(mine.c, c, sizeof c);
    std::memcpy(mine.a, a, sizeof a);
    std::memcpy(mine.b, b, sizeof b);
    mine.to_float = to_float;
    collective(
        0xFFFFFFFFu, what, &mine,
        [](void** warp, unsigned present) {
            if (present != 0xFFFFFFFFu) { // an incomplete warp: undefined
                for (int i = 0; i < 32; ++i)
                    if (warp[i]) std::memset(static_cast<Fragments*>(warp[i])->c, 0xFF, sizeof(float) * 4);
                return;
            }
            for (int row = 0; row < 16; ++row)
                for (int column = 0; column < 8; ++column) {
                    float& sum = Fragments::c_of(warp, row, column);
                    for (int k = 0; k < 16; ++k)
                        sum += Fragments::a_of(warp, row, k) * Fragments::b_of(warp, k, column);
                }
        },
        at);
    std::memcpy(c, mine.c, sizeof c);
}

/// mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.and.popc
inline void mma_m16n8k128(int (&c)[4], const std::uint32_t (&a)[2], std::uint32_t b, Where at = Where::here()) {
    struct Bits {
        int c[4];
        std::uint32_t a[2], b;
    } mine;
    std::memcpy(mine.c, c, sizeof c);
    std::memcpy(mine.a, a, sizeof a);
    mine.b = b;
    collective(
        0xFFFFFFFFu, "mma.m16n8k128.b1", &mine,
        [](void** warp, unsigned present) {
            const auto of = [warp](int lane) { return static_cast<Bits*>(warp[lane]); };
            for (int row = 0; row < 16; ++row)
                for (int column = 0; column < 8 && present == 0xFFFFFFFFu; ++column)
                    for (int t = 0; t < 4; ++t)
                        of(row % 8 * 4 + column / 2)->c[row / 8 * 2 + column % 2] +=
                            __builtin_popcount(of(row % 8 * 4 + t)->a[row / 8] & of(column * 4 + t)->b);
            for (int i = 0; i < 32 && present != 0xFFFFFFFFu; ++i) // an incomplete warp: undefined
                if (warp[i]) std::memset(of(i)->c, 0xFF, sizeof(int) * 4);
        },
        at);
    std::memcpy(c, mine.c, sizeof c);
}

/// ldmatrix.sync.aligned.m8n8.x4[.trans].shared.b16
inline void ldmatrix_x4(std::uint32_t (&r)[4], const void* row, bool transposed, Where at = Where::here()) {
    struct Request {
        std::uint16_t row[8]; // what this lane's address holds
        std::uint32_t r[4];
        bool transposed;
    } mine{{}, {}, transposed};
    access(row, 16, Access::read, at, 16);
    {
        Unchecked off;
        std::memcpy(mine.row, row, 16);
    }
    collective(
        0xFFFFFFFFu, "ldmatrix", &mine,
        [](void** warp, unsigned present) {
            const auto element = [&](int tile, int i, int j) -> std::uint32_t {
                const int lane = tile * 8 + i;
                return present >> lane & 1 ? static_cast<Request*>(warp[lane])->row[j] : 0xFFFFu;
            };
            for (int lane = 0; lane < 32; ++lane) {
                if (!warp[lane]) continue;
                auto* q = static_cast<Request*>(warp[lane]);
                const int g = lane / 4, t = lane % 4;
                for (int tile = 0; tile < 4; ++tile)
                    q->r[tile] = q->transposed ? element(tile, 2 * t, g) | element(tile, 2 * t + 1, g) << 16
                                               : element(tile, g, 2 * t) | element(tile, g, 2 * t + 1) << 16;
            }
        },
        at);
    std::memcpy(r, mine.r, sizeof r);
}

// cp.async: the target is poison from the issue until the wait, when the copy is made.
void copy_async(void* shared, const void* global, Where at = Where::here());
void copy_async_commit();
void copy_async_wait(int pending);

} // namespace cuemu
