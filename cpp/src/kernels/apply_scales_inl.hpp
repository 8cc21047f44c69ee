// What lies between the two stages of a product, in terms of a vector of floats.
#pragma once

#include "kernels/vector_inl.hpp"

namespace {

void apply_scales(size_t stacks, size_t l, const bqq_stack* scales, float sigma, const float* v, float* w,
                  float* sums) {
    constexpr size_t lanes = kPanelRows / kWidth;
    vf sum[lanes];
    for (size_t q = 0; q < lanes; ++q) sum[q] = vload(sums + q * kWidth);
    for (size_t i = 0; i < stacks; ++i, v += l, w += l) {
        const vf r = vset(scales[i].r), shift = vset(scales[i].shift * sigma), total = vset(scales[i].total);
        size_t e = 0;
        for (; e + kPanelRows <= l; e += kPanelRows)
            for (size_t q = 0; q < lanes; ++q) {
                const vf x = vload(v + e + q * kWidth);
                sum[q] = vfma(total, x, sum[q]);
                vstore(w + e + q * kWidth, vfma(r, x, shift));
            }
        if (e == l) continue;
        float in[kPanelRows] = {}, out[kPanelRows];
        for (size_t k = 0; k < l - e; ++k) in[k] = v[e + k];
        for (size_t q = 0; q < lanes; ++q) {
            const vf x = vload(in + q * kWidth);
            sum[q] = vfma(total, x, sum[q]);
            vstore(out + q * kWidth, vfma(r, x, shift));
        }
        for (size_t k = 0; k < l - e; ++k) w[e + k] = out[k];
    }
    for (size_t q = 0; q < lanes; ++q) vstore(sums + q * kWidth, sum[q]);
}

} // namespace
