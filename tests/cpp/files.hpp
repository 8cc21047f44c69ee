// What the file tests share: a directory of their own, whole files as strings, random valid matrices.
#pragma once

#include "bqq/file.hpp"

#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

namespace files {

using bqq::Index;

/// A directory that goes away with the object.
struct TemporaryDirectory {
    std::filesystem::path path;
    TemporaryDirectory() {
        static std::atomic<int> counter{0};
        const auto seed = std::random_device{}();
        path = std::filesystem::temp_directory_path() /
               ("bqq-test-" + std::to_string(seed) + "-" + std::to_string(counter++));
        std::filesystem::create_directories(path);
    }
    ~TemporaryDirectory() {
        std::error_code ignored;
        std::filesystem::remove_all(path, ignored);
    }
    std::string file(const std::string& name) const { return (path / name).string(); }
    std::size_t entries() const {
        std::size_t count = 0;
        for (const auto& e : std::filesystem::directory_iterator(path)) count += e.exists();
        return count;
    }
};

inline std::string read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

inline void write(const std::string& path, const std::string& bytes) {
    std::filesystem::remove(path); // some file systems flush a file that was truncated and rewritten
    std::ofstream(path, std::ios::binary) << bytes;
}

inline void set_bit(std::uint8_t* row, Index at) { row[at / 8] = std::uint8_t(row[at / 8] | 1u << at % 8); }

inline bqq::Layout layout(Index m, Index n, Index J, Index K, Index p, Index l) {
    bqq::Layout a;
    a.m = m, a.n = n, a.J = J, a.K = K, a.p = p, a.l = l;
    a.rows = (m + J - 1) / J, a.cols = (n + K - 1) / K;
    return a;
}

/// Fills a matrix bit by bit, in the order block, stack, row, bit: all Y, all Z, then the scales. Pad bits stay zero.
template <class Bit, class Scale> bqq::Matrix fill(const bqq::Layout& a, Bit bit, Scale scale) {
    bqq::Matrix q(a);
    for (Index block = 0; block < a.blocks(); ++block)
        for (Index i = 0; i < a.p; ++i)
            for (Index r = 0; r < a.rows_of(block / a.K); ++r)
                for (Index c = 0; c < a.l; ++c)
                    if (bit()) set_bit(q.Y.data() + (block * a.p + i) * a.y_plane_bytes() + r * a.y_row_bytes(), c);
    for (Index block = 0; block < a.blocks(); ++block)
        for (Index i = 0; i < a.p; ++i)
            for (Index c = 0; c < a.l; ++c)
                for (Index b = 0; b < a.cols_of(block % a.K); ++b)
                    if (bit()) set_bit(q.Z.data() + (block * a.p + i) * a.z_plane_bytes() + c * a.z_row_bytes(), b);
    for (float& s : q.scales) s = scale();
    return q;
}

inline bqq::Matrix random_matrix(const bqq::Layout& a, unsigned seed) {
    std::mt19937 draw(seed);
    return fill(a, [&] { return (draw() >> 13 & 1) != 0; }, [&] { return float(int(draw() % 4001) - 2000) / 512.0f; });
}

/// All matrices of a file, checked.
inline std::vector<bqq::NamedMatrix> matrices(const bqq::File& file) {
    std::vector<bqq::NamedMatrix> all;
    for (const auto& q : file.matrices()) all.push_back({q.name, file.matrix(q.name)});
    return all;
}

/// What, without orders and entries, straight from the formula.
inline std::vector<double> reconstruct(const bqq::View& q) {
    const bqq::Layout& a = q.layout;
    const auto get = [](const std::uint8_t* row, Index at) { return double(row[at / 8] >> at % 8 & 1); };
    std::vector<double> w(std::size_t(a.m * a.n));
    for (Index row = 0; row < a.m; ++row)
        for (Index col = 0; col < a.n; ++col) {
            const Index j = row / a.rows, k = col / a.cols;
            const float* s = q.block_scales(j, k);
            double sum = double(s[3 * a.p]);
            for (Index i = 0; i < a.p; ++i) {
                const std::uint8_t* y = q.y_plane(j, k, i) + row % a.rows * a.y_row_bytes();
                double product = 0, rho = 0, zeta = 0;
                for (Index c = 0; c < a.l; ++c) {
                    const double yc = get(y, c), zc = get(q.z_plane(j, k, i) + c * a.z_row_bytes(), col % a.cols);
                    product += yc * zc, rho += yc, zeta += zc;
                }
                sum += double(s[3 * i]) * product + double(s[3 * i + 1]) * rho + double(s[3 * i + 2]) * zeta;
            }
            w[std::size_t(row * a.n + col)] = sum;
        }
    return w;
}

inline bool same(const bqq::View& a, const bqq::View& b) {
    const bqq::Layout& x = a.layout;
    const auto same_order = [](const std::uint32_t* p, const std::uint32_t* q, Index side) {
        return p && q ? std::equal(p, p + side, q) : p == q;
    };
    const auto same_entry = [](const bqq::Entry& p, const bqq::Entry& q) {
        return p.row == q.row && p.col == q.col && p.value == q.value;
    };
    return x == b.layout && std::equal(a.Y, a.Y + x.y_bytes(), b.Y) && std::equal(a.Z, a.Z + x.z_bytes(), b.Z) &&
           std::equal(a.scales, a.scales + x.scales_count(), b.scales) && same_order(a.row_order, b.row_order, x.m) &&
           same_order(a.col_order, b.col_order, x.n) && a.entry_count == b.entry_count &&
           std::equal(a.entries, a.entries + a.entry_count, b.entries, same_entry);
}

} // namespace files
