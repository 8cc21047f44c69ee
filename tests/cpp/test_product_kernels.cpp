// The product's tables and look-ups on every instruction set of this machine against float64 loops.
#include "aligned.hpp"
#include "check.hpp"
#include "reference.hpp"

#include "kernels/dispatch.hpp"

#include <cfloat>
#include <random>

using bqq::Index;
using reference::Mat;

namespace {

template <class F> void on_each_isa(F&& f) {
    for (const std::string& name : bqq::detail::isa_available()) f(bqq::detail::kernels_capped(name));
}

// Units of 16 x 32 bits, panel by panel within a block.
struct Bits {
    Index panels, blocks;
    bqq_unit_order order;
    std::vector<std::uint8_t> bytes;
    Bits(const bqq_kernels& table, Index panels, Index blocks, std::uint32_t seed)
        : panels(panels), blocks(blocks), order(table.unit_order), bytes(std::size_t(panels * blocks * kUnitBytes)) {
        std::mt19937 rng(seed);
        for (auto& b : bytes) b = std::uint8_t(rng() >> 7);
    }
    std::size_t stride() const { return std::size_t(panels * kUnitBytes); }
    double centred(Index row, Index k) const {
        const Index unit = k / kUnitColumns * panels + row / kPanelRows, bit = k % kUnitColumns;
        const Index byte = unit * kUnitBytes + unit_byte(order, int(row % kPanelRows), int(bit / 8));
        return (bytes[std::size_t(byte)] >> (bit % 8) & 1) - 0.5;
    }
};

struct Vectors {
    Index columns, size, ld;
    std::vector<float> v;
    Vectors(Index columns, Index size, double low, double high, std::uint32_t seed)
        : columns(columns), size(size), ld(size + 5), v(std::size_t(columns * ld), NAN) {
        const Mat x = reference::random(columns, size, seed, low, high);
        for (Index c = 0; c < columns; ++c)
            for (Index k = 0; k < size; ++k) v[std::size_t(c * ld + k)] = float(x(c, k));
    }
    const float* at(Index c) const { return v.data() + c * ld; }
    float* at(Index c) { return v.data() + c * ld; }
};

// Room for the tables, with a guard behind it.
struct Tables {
    std::size_t size;
    aligned_memory::Aligned memory;
    std::uint8_t* at;
    explicit Tables(Index blocks)
        : size(std::size_t(bqq::detail::ceil_div(blocks, kChunkBlocks) * kChunkBlocks * kMaxVectors * kTableBytes)),
          memory(size + 64, 0xA5), at(memory.at) {}
    bool guarded() const {
        for (int i = 0; i < 64; ++i)
            if (at[size + std::size_t(i)] != 0xA5) return false;
        return true;
    }
};

// out[c][row], the whole vector in calls of `step` blocks.
std::vector<float> multiply(const bqq_product& kernel, const Bits& bits, const Vectors& x, float start = 0,
                            Index step = 1 << 20) {
    const Index ldo = kPanelRows * bits.panels + 3;
    std::vector<float> out(std::size_t(x.columns * ldo), start);
    for (Index b = 0; b < bits.blocks; b += step) {
        const Index count = std::min(step, bits.blocks - b);
        Tables tables(count);
        kernel.tables(std::size_t(count), std::size_t(x.columns), x.at(0) + kUnitColumns * b, std::size_t(x.ld),
                      tables.at);
        kernel.lookup(std::size_t(bits.panels), std::size_t(count), bits.bytes.data() + std::size_t(b) * bits.stride(),
                      bits.stride(), std::size_t(x.columns), tables.at, out.data(), std::size_t(ldo),
                      b > 0 || start != 0);
        CHECK(tables.guarded());
    }
    for (Index c = 0; c < x.columns; ++c)
        for (Index i = kPanelRows * bits.panels; i < ldo; ++i) CHECK_EQ(out[std::size_t(c * ldo + i)], start);
    return out;
}

} // namespace

TEST(both_classes_equal_the_oracle) {
    on_each_isa([](const bqq_kernels& table) {
        for (Index panels = 1; panels <= kMaxPanels; ++panels)
            for (const Index blocks : {1, 2, 7, 8, 9, 17})
                for (Index columns = 1; columns <= kMaxVectors; ++columns)
                    for (const float start : {0.0f, 0.5f}) {
                        const Bits bits(table, panels, blocks, std::uint32_t(blocks));
                        const Vectors x(columns, kUnitColumns * blocks, -1, 1, 7);
                        const auto f32 = multiply(table.product[0], bits, x, start);
                        const auto i8 = multiply(table.product[1], bits, x, start);
                        const Index rows = kPanelRows * panels, ldo = rows + 3;
                        // Of 21 bits where tables are bytes, else exact: entries are at most 2 in size.
                        const double width = double(x.size), step = table.unit_order == kBytes ? 2.0 / (1 << 20) : 0;
                        for (Index c = 0; c < columns; ++c)
                            for (Index i = 0; i < rows; ++i) {
                                double sum = double(start);
                                for (Index k = 0; k < x.size; ++k) sum += bits.centred(i, k) * double(x.at(c)[k]);
                                CHECK_NEAR(f32[std::size_t(c * ldo + i)], sum,
                                           2 * width * double(FLT_EPSILON) + step * std::sqrt(width));
                                // Sizes of table entries are at most 2: a step of 2/127, eight of them a block.
                                CHECK_NEAR(i8[std::size_t(c * ldo + i)], sum,
                                           5 * (2 / 127.0) * 0.29 * std::sqrt(width / 4) + 1e-6);
                            }
                    }
    });
}

TEST(results_do_not_depend_on_the_calls) {
    on_each_isa([](const bqq_kernels& table) {
        for (const bqq_product& kernel : table.product) {
            const Bits bits(table, 7, 40, 1);
            const Vectors x(8, 40 * kUnitColumns, -1, 1, 2);
            const auto whole = multiply(kernel, bits, x);
            CHECK(whole == multiply(kernel, bits, x, 0, kChunkBlocks));
            CHECK(whole == multiply(kernel, bits, x, 0, 3 * kChunkBlocks));
            const Index ldo = kPanelRows * bits.panels + 3;
            for (Index columns = 1; columns <= 8; ++columns)
                for (Index c = 0; c + columns <= 8; ++c) { // any columns together
                    Vectors some(columns, x.size, 0, 1, 3);
                    for (Index i = 0; i < columns; ++i) std::copy_n(x.at(c + i), x.size, some.at(i));
                    const auto part = multiply(kernel, bits, some);
                    CHECK(std::equal(part.begin(), part.end(), whole.begin() + c * ldo));
                }
        }
    });
}

TEST(wide_ranges_of_inputs) {
    on_each_isa([](const bqq_kernels& table) {
        for (const double size : {1e-30, 1e-20, 1e-5, 1e10, 1e30, 1e34})
            for (const double offset : {0.0, 1000.0}) {
                const Bits bits(table, 2, 9, 1);
                const Vectors x(3, 9 * kUnitColumns, size * (offset - 1), size * (offset + 1), 2);
                const auto y = multiply(table.product[0], bits, x);
                for (Index c = 0; c < x.columns; ++c)
                    for (Index i = 0; i < 32; ++i) {
                        double sum = 0, norm = 0;
                        for (Index k = 0; k < x.size; ++k) {
                            const double v = double(x.at(c)[k]);
                            sum += bits.centred(i, k) * v, norm += v * v;
                        }
                        CHECK_NEAR(y[std::size_t(c * 35 + i)], sum, 3e-6 * std::sqrt(norm));
                    }
            }
    });
}

TEST(zero_and_not_finite) {
    on_each_isa([](const bqq_kernels& table) {
        for (const bqq_product& kernel : table.product)
            for (const float bad : {INFINITY, -INFINITY, NAN}) {
                const Bits bits(table, 1, 3, 1);
                Vectors x(5, 3 * kUnitColumns, -1, 1, 2);
                std::fill_n(x.at(1), x.size, 0.0f);
                x.at(3)[50] = bad;
                const auto y = multiply(kernel, bits, x);
                for (Index i = 0; i < kPanelRows; ++i) {
                    CHECK_EQ(y[std::size_t(19 + i)], 0.0f);
                    CHECK(std::isfinite(y[std::size_t(i)]) && std::isfinite(y[std::size_t(4 * 19 + i)]));
                    CHECK(!std::isfinite(y[std::size_t(3 * 19 + i)]));
                }
            }
    });
}

// ---- columns in the lanes ----

namespace {

// out[row][width]: vectors of x side by side, the last repeated where the width is more.
std::vector<float> multiply_lanes(const bqq_lanes& kernel, const Bits& bits, const Vectors& x, Index width,
                                  Index step = 3, float start = 0) {
    const Index rows = kPanelRows * bits.panels, chunk = Index(kernel.chunk);
    std::vector<float> in(std::size_t(x.size * width)), out(std::size_t(rows * width + 1), start), scale(in.size());
    for (Index k = 0; k < x.size; ++k)
        for (Index c = 0; c < width; ++c) in[std::size_t(k * width + c)] = x.at(std::min(c, x.columns - 1))[k];
    scale.assign(std::size_t(2 * width), NAN);
    const std::size_t table = kernel.entries * std::size_t(width) * kernel.element * std::size_t(step);
    const aligned_memory::Aligned tables(table + 64, 0xA5), sums(std::size_t(rows * width) * kernel.element + 64, 0xA5);
    for (Index first = 0; first < bits.blocks; first += chunk) {
        const Index end = std::min(first + chunk, bits.blocks);
        const auto at = [&](Index b) { return in.data() + b * kUnitColumns * width; };
        kernel.begin(std::size_t(end - first), std::size_t(width), at(first), scale.data());
        for (Index b = first; b < end; b += step) {
            const auto count = std::size_t(std::min(step, end - b));
            kernel.tables(count, std::size_t(width), at(b), scale.data(), tables.at);
            for (Index q = 0; q < bits.panels; q += 2)
                kernel.lookup(std::size_t(std::min<Index>(2, bits.panels - q)), count,
                              bits.bytes.data() + std::size_t(b) * bits.stride() + q * kUnitBytes, bits.stride(),
                              std::size_t(width), tables.at,
                              sums.at + std::size_t(q * kPanelRows * width) * kernel.element, b == first);
        }
        kernel.end(std::size_t(rows), std::size_t(width), sums.at, scale.data(), out.data(), first > 0 || start != 0);
    }
    CHECK_EQ(out[std::size_t(rows * width)], start);
    for (int i = 0; i < 64; ++i) {
        CHECK_EQ(tables.at[table + std::size_t(i)], std::uint8_t(0xA5));
        CHECK_EQ(sums.at[std::size_t(rows * width) * kernel.element + std::size_t(i)], std::uint8_t(0xA5));
    }
    out.pop_back();
    return out;
}

// Of a chunk of 16-bit sums at the largest: inputs are rounded to steps of sum |x| / 32635, sums of them halved.
double allowed(int precision, const Vectors& x, Index c, double exact) {
    double size = 0;
    for (Index k = 0; k < x.size; ++k) size += std::fabs(double(x.at(c)[k]));
    if (precision == 0) return 1e-6 * size;
    return 1e-6 * std::fabs(exact) + size / 32635 * 14; // 256 roundings, halved: 2.3 steps, six times that
}

} // namespace

TEST(lanes_equal_the_oracle) {
    on_each_isa([](const bqq_kernels& table) {
        for (int precision = 0; precision < kPrecisions; ++precision) {
            const bqq_lanes& kernel = table.lanes[precision];
            for (Index width = Index(kernel.lanes); width <= Index(kernel.most); width *= 2)
                for (const Index panels : {1, 2, 3, 8})
                    for (const Index blocks : {1, 2, 7, 8, 9, 33})
                        for (const double offset : {0.0, 3.0}) {
                            const Bits bits(table, panels, blocks, std::uint32_t(blocks));
                            const Vectors x(width, kUnitColumns * blocks, offset - 1, offset + 1, 7);
                            const float start = blocks == 7 ? 0.5f : 0.0f;
                            const auto y = multiply_lanes(kernel, bits, x, width, 1 + blocks % 4, start);
                            for (Index c = 0; c < width; ++c)
                                for (Index i = 0; i < kPanelRows * panels; ++i) {
                                    double sum = double(start);
                                    for (Index k = 0; k < x.size; ++k) sum += bits.centred(i, k) * double(x.at(c)[k]);
                                    CHECK_NEAR(y[std::size_t(i * width + c)], sum, allowed(precision, x, c, sum));
                                }
                        }
        }
    });
}

TEST(lanes_do_not_depend_on_their_number) {
    on_each_isa([](const bqq_kernels& table) {
        for (const bqq_lanes& kernel : table.lanes) {
            const Bits bits(table, 5, 40, 1);
            const Vectors x(Index(kernel.most), 40 * kUnitColumns, -1, 1, 2);
            const auto whole = multiply_lanes(kernel, bits, x, Index(kernel.most), 1);
            CHECK(whole == multiply_lanes(kernel, bits, x, Index(kernel.most), 8));
            for (Index width = Index(kernel.lanes); width < Index(kernel.most); width *= 2) {
                const auto part = multiply_lanes(kernel, bits, x, width);
                for (Index i = 0; i < kPanelRows * bits.panels; ++i)
                    CHECK(std::equal(part.begin() + i * width, part.begin() + (i + 1) * width,
                                     whole.begin() + i * Index(kernel.most)));
            }
        }
    });
}

TEST(lanes_of_any_size_zero_and_not_finite) {
    on_each_isa([](const bqq_kernels& table) {
        for (int precision = 0; precision < kPrecisions; ++precision) {
            const bqq_lanes& kernel = table.lanes[precision];
            const Index width = Index(kernel.lanes);
            const Bits bits(table, 2, 9, 1);
            for (const double size : {1e-28, 1e-5, 1e10, 1e36}) {
                const Vectors x(width, bits.blocks * kUnitColumns, -size, size, 2);
                const auto y = multiply_lanes(kernel, bits, x, width);
                for (Index c = 0; c < width; ++c)
                    for (Index i = 0; i < 32; ++i) {
                        double sum = 0;
                        for (Index k = 0; k < x.size; ++k) sum += bits.centred(i, k) * double(x.at(c)[k]);
                        CHECK_NEAR(y[std::size_t(i * width + c)], sum, allowed(precision, x, c, sum));
                    }
            }
            for (const float bad : {INFINITY, -INFINITY, NAN}) {
                Vectors x(width, bits.blocks * kUnitColumns, -1, 1, 2);
                std::fill_n(x.at(1), x.size, 0.0f);
                x.at(3)[50] = bad;
                const auto y = multiply_lanes(kernel, bits, x, width);
                for (Index i = 0; i < 32; ++i)
                    for (Index c = 0; c < width; ++c) {
                        const float v = y[std::size_t(i * width + c)];
                        CHECK(c == 1 ? v == 0 : std::isfinite(v) == (c != 3));
                    }
            }
            Vectors all(width, kUnitColumns * Index(kernel.chunk), 1, 1, 2); // the largest sums there can be
            const Bits ones(table, 1, Index(kernel.chunk), 1);
            Bits full = ones;
            std::fill(full.bytes.begin(), full.bytes.end(), std::uint8_t(0xFF));
            for (const float y : multiply_lanes(kernel, full, all, width))
                CHECK_NEAR(y, double(all.size) / 2, 2e-3 * double(all.size)); // 127 steps each
        }
    });
}

TEST(scales_in_the_lanes) {
    on_each_isa([](const bqq_kernels& table) {
        for (Index width = Index(table.lanes[0].lanes); width <= 64; width *= 2) {
            const Index stacks = 3, l = 17;
            const Mat v = reference::random(stacks * l, width, 1, -1, 1),
                      scales = reference::random(stacks, 3, 2, -1, 1);
            std::vector<bqq_stack> q;
            for (Index i = 0; i < stacks; ++i)
                q.push_back({float(scales(i, 0)), float(scales(i, 1)), float(scales(i, 2))});
            std::vector<float> in(v.v.begin(), v.v.end()), out(in.size()), sigma;
            for (Index c = 0; c < width; ++c) sigma.push_back(float(c));
            std::vector<double> total(std::size_t(width), 0.25);
            table.lanes_scales(std::size_t(stacks), std::size_t(l), q.data(), std::size_t(width), sigma.data(),
                               in.data(), out.data(), total.data());
            for (Index c = 0; c < width; ++c) {
                double expected = 0.25;
                for (Index i = 0; i < stacks; ++i)
                    for (Index e = 0; e < l; ++e) {
                        expected += scales(i, 2) * v(i * l + e, c);
                        CHECK_NEAR(out[std::size_t((i * l + e) * width + c)],
                                   scales(i, 0) * v(i * l + e, c) + double(c) * scales(i, 1), 1e-6 * (1 + double(c)));
                    }
                CHECK_NEAR(total[std::size_t(c)], expected, 1e-5);
            }
        }
    });
}

TEST(apply_scales) {
    on_each_isa([](const bqq_kernels& table) {
        for (const Index l : {1, 3, 8, 16, 17, 50})
            for (const Index stacks : {1, 2, 5}) {
                const Mat v = reference::random(stacks, l, 1, -1, 1), scales = reference::random(stacks, 3, 2, -1, 1);
                std::vector<bqq_stack> q;
                for (Index i = 0; i < stacks; ++i)
                    q.push_back({float(scales(i, 0)), float(scales(i, 1)), float(scales(i, 2))});
                std::vector<float> in(v.v.begin(), v.v.end()), out(in.size() + 1, 9.0f), sums(kPanelRows, 0.25f);
                table.apply_scales(std::size_t(stacks), std::size_t(l), q.data(), -3.0f, in.data(), out.data(),
                                   sums.data());
                double expected = 0.25 * kPanelRows, sum = 0;
                for (Index i = 0; i < stacks; ++i)
                    for (Index e = 0; e < l; ++e) {
                        expected += scales(i, 2) * v(i, e);
                        CHECK_NEAR(out[std::size_t(i * l + e)], scales(i, 0) * v(i, e) - 3 * scales(i, 1), 1e-6);
                    }
                for (const float s : sums) sum += double(s);
                CHECK_NEAR(sum, expected, 1e-5);
                CHECK_EQ(out[in.size()], 9.0f);
            }
    });
}
