// A compressed matrix on the device in the working format of the solver.
#pragma once

#include "device.hpp"
#include "reference.hpp"
#include "scales.cuh"
#include "search/scales.hpp"

#include <algorithm>
#include <cmath>

namespace device {

/// Patches (block row by block row), words and targets of a matrix W and its approximation q.
class Words {
  public:
    Words(const bqq::Matrix& q, const std::vector<float>& w, double mean = 0, double divisor = 1)
        : layout(q.layout), W(w), patches(std::size_t(q.layout.blocks())),
          Y(std::size_t(q.layout.blocks() * q.layout.p * q.layout.rows * bqq::cuda::words_of(int(q.layout.l)))),
          Z(std::size_t(q.layout.blocks() * q.layout.p * q.layout.cols * bqq::cuda::words_of(int(q.layout.l)))) {
        std::vector<bqq::cuda::Patch> list;
        for (bqq::Index j = 0; j < layout.J; ++j)
            for (bqq::Index k = 0; k < layout.K; ++k)
                list.push_back({W.at() + j * layout.rows * layout.n + k * layout.cols, layout.n, mean, divisor,
                                j * layout.K + k, 0, int(layout.rows_of(j)), int(layout.cols_of(k)), 1});
        patches.set(list);
        const Array<std::uint8_t> y(q.Y), z(q.Z);
        must(bqq::cuda::words_of_planes(batch(), int(layout.p), y.at(), z.at(), nullptr));
    }
    bqq::cuda::WordBatch batch() const {
        return {int(layout.blocks()), int(layout.rows), int(layout.cols), int(layout.l),
                int(layout.p),        patches.at(),     Y.at(),           Z.at()};
    }
    /// The planes as they are now.
    bqq::Matrix get() const {
        bqq::Matrix q(layout);
        const Array<std::uint8_t> y(q.Y.size()), z(q.Z.size());
        must(bqq::cuda::planes_of_words(batch(), int(layout.p), y.at(), z.at(), nullptr));
        q.Y = y.get(), q.Z = z.get();
        return q;
    }

    bqq::Layout layout;
    Array<float> W;
    Array<bqq::cuda::Patch> patches;
    Array<std::uint32_t> Y, Z;
};

} // namespace device
