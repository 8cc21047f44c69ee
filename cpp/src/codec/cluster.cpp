#include "codec/cluster.hpp"

#include "codec/codebook.hpp"
#include "codec/tuning.hpp"
#include "parallel.hpp"
#include "progress.hpp"
#include "rng.hpp"

#include <algorithm>
#include <cmath>
#include <functional>

namespace bqq::detail {

namespace {

/// Coordinates [begin, begin + width) of all rows, and their clusters.
struct Block {
    Index rows, ld, begin, width;
    float* R;
    std::vector<float> centers; // kEntries x width
    std::vector<std::uint8_t> nearest;

    const float* row(Index i) const { return R + i * ld + begin; }
    float* center(Index b) { return centers.data() + b * width; }

    void assign() {
        std::vector<float> transposed(z(width * kEntries));
        for (Index b = 0; b < kEntries; ++b)
            for (Index j = 0; j < width; ++j) transposed[z(j * kEntries + b)] = center(b)[j];
        for (Index i = 0; i < rows; ++i) {
            float distances[kEntries] = {};
            for (Index j = 0; j < width; ++j) {
                const float v = row(i)[j];
                const float* c = transposed.data() + j * kEntries;
                for (int b = 0; b < kEntries; ++b) distances[b] += (v - c[b]) * (v - c[b]);
            }
            int best = 0;
            for (int b = 1; b < kEntries; ++b) best = distances[b] < distances[best] ? b : best;
            nearest[z(i)] = std::uint8_t(best);
        }
    }

    /// Means of the clusters; an empty one takes half of the largest.
    void update() {
        std::vector<double> sums(centers.size());
        Index sizes[kEntries] = {};
        for (Index i = 0; i < rows; ++i) {
            ++sizes[nearest[z(i)]];
            for (Index j = 0; j < width; ++j) sums[z(nearest[z(i)] * width + j)] += double(row(i)[j]);
        }
        for (Index b = 0; b < kEntries; ++b)
            for (Index j = 0; sizes[b] && j < width; ++j)
                center(b)[j] = float(sums[z(b * width + j)] / double(sizes[b]));
        for (Index b = 0; b < kEntries; ++b) {
            if (sizes[b]) continue;
            const Index most = std::max_element(sizes, sizes + kEntries) - sizes;
            for (Index j = 0; j < width; ++j) {
                const float v = center(most)[j], step = (j % 2 ? -1.0f : 1.0f) * std::max(std::fabs(v), 1e-20f) / 1024;
                center(b)[j] = v + step, center(most)[j] = v - step;
            }
            sizes[b] = sizes[most] / 2, sizes[most] -= sizes[b];
        }
    }

    void cluster(std::uint64_t seed, std::uint32_t stream, const std::function<void()>& poll) {
        centers.resize(z(kEntries * width)), nearest.resize(z(rows));
        Uniform uniform(seed, 0xC1u, stream, 0);
        for (Index b = 0; b < kEntries; ++b)
            std::copy_n(row(std::min(rows - 1, Index(uniform() * float(rows)))), width, center(b));
        for (Index t = 0; t < kClusterRounds; ++t) poll(), assign(), update();
        assign();
        for (Index i = 0; i < rows; ++i)
            for (Index j = 0; j < width; ++j) R[i * ld + begin + j] -= center(nearest[z(i)])[j];
    }
};

} // namespace

std::vector<std::uint8_t> product_kmeans(std::vector<float> R, Index rows, Index d, Index ld, Index groups,
                                         std::uint64_t seed, int threads, Progress& progress) {
    std::vector<std::uint8_t> codes(z(rows * groups));
    for (Index done = 0; done < groups;) {
        const Index blocks = std::min(groups - done, std::max<Index>(1, d / 2));
        parallel_for(
            blocks, threads,
            [&](Index k, int worker) {
                const Index begin = k * d / blocks, end = (k + 1) * d / blocks;
                Block block{rows, ld, begin, end - begin, R.data(), {}, {}};
                block.cluster(seed, std::uint32_t(done + k), [&] { progress.advance(0, worker == 0); });
                for (Index i = 0; i < rows; ++i) codes[z(i * groups + done + k)] = block.nearest[z(i)];
            },
            [&] { progress.poll(); }, &progress.stop);
        done += blocks;
    }
    return codes;
}

} // namespace bqq::detail
