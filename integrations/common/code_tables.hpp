// Distances of queries and codes one at a time, for graphs and lists that visit codes in an order of their own: a table
// of sums for a query, then 2 look-ups a byte. Over the installed headers of bqq alone.
#pragma once

#include <bqq/codec.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace bqq_plugin {

/// Of a codec, d numbers a vector. Distances are smallest first: squared ones for l2, minus inner products for ip,
/// 1 - cosine for cosine. Never changes: any number of threads may use one. Nothing but the constructor throws.
class CodeTables {
  public:
    explicit CodeTables(const bqq::Codec& codec)
        : metric_(codec.metric()), d_(codec.d()), code_size_(codec.code_size()), parts_(codec.parts()),
          K_(32 * (code_size_ - has_norm())), columns_(parts_.entries.size()) {
        for (std::int64_t e = 0; e < K_; ++e)
            for (std::int64_t j = 0; j < d_; ++j) columns_[at(j * K_ + e)] = parts_.entries[at(e * d_ + j)];
    }
    std::int64_t d() const { return d_; }
    std::int64_t code_size() const { return code_size_; }
    /// Floats of the table of a query.
    std::size_t size() const { return at(K_ + 1); }

    /// The table of x, d numbers. O(32 d code_size).
    void query(const float* x, float* table) const {
        const double gain = metric_ == bqq::MetricType::cosine ? inverse_norm(x) : 1;
        double base = 0;
        std::fill_n(table, size(), 0.0f);
        float* const sums = table + 1;
        for (std::int64_t j = 0; j < d_; ++j) {
            const double c = double(parts_.center[at(j)]);
            double v = gain * double(x[j]);
            if (has_norm()) {
                const double o = double(parts_.origin[at(j)]);
                v -= o;
                base += v * v - 2 * v * (c - o);
            } else {
                base -= v * c;
            }
            const float factor = float(has_norm() ? -2 * v : -v);
            const float* column = &columns_[at(j * K_)];
            for (std::int64_t e = 0; e < K_; ++e) sums[e] += factor * column[e];
        }
        table[0] = float(base) + (has_norm() ? parts_.norm_low : 0.0f);
    }

    /// Of the query of `table` and what `code` stands for. O(code_size).
    float distance(const float* table, const std::uint8_t* code) const {
        const std::uint8_t* const one[] = {code};
        float out;
        distances(table, one, &out);
        return out;
    }
    /// Of N codes at once.
    template <int N> void distances(const float* table, const std::uint8_t* const (&codes)[N], float* out) const {
        float low[N] = {}, high[N] = {};
        const std::int64_t bytes = K_ / 32;
        const float* sums = table + 1;
        for (std::int64_t b = 0; b < bytes; ++b, sums += 32)
            for (int i = 0; i < N; ++i) {
                low[i] += sums[codes[i][b] & 15];
                high[i] += sums[16 + (codes[i][b] >> 4)];
            }
        for (int i = 0; i < N; ++i) {
            const float norm = has_norm() ? parts_.norm_step * float(codes[i][bytes]) : 0.0f;
            out[i] = finish(table[0] + norm + (low[i] + high[i]));
        }
    }

    /// What `code` stands for, d numbers. O(2 d code_size).
    void decode(const std::uint8_t* code, float* out) const {
        std::copy_n(parts_.center.data(), d_, out);
        for (std::int64_t g = 0; g < K_ / 16; ++g) {
            const float* entry = &parts_.entries[at((16 * g + (code[g / 2] >> 4 * (g % 2) & 15)) * d_)];
            for (std::int64_t j = 0; j < d_; ++j) out[j] += entry[j];
        }
    }
    /// Of two decoded vectors; of equal ones, but for ip, 0.
    float between(const float* v, const float* w) const {
        double sum = 0;
        for (std::int64_t j = 0; j < d_; ++j) {
            const double difference = double(v[j]) - double(w[j]);
            sum += has_norm() ? difference * difference : -double(v[j]) * double(w[j]);
        }
        return finish(float(sum));
    }

    /// Whether codes of `other` mean the same.
    bool same(const CodeTables& other) const {
        const auto &a = parts_, &b = other.parts_;
        return metric_ == other.metric_ && d_ == other.d_ && code_size_ == other.code_size_ && a.entries == b.entries &&
               a.center == b.center && a.origin == b.origin && a.norm_low == b.norm_low && a.norm_step == b.norm_step;
    }

  private:
    static std::size_t at(std::int64_t i) { return std::size_t(i); }
    bool has_norm() const { return metric_ != bqq::MetricType::ip; }
    double inverse_norm(const float* x) const {
        double square = 0;
        for (std::int64_t j = 0; j < d_; ++j) square += double(x[j]) * double(x[j]);
        return square > 0 ? 1 / std::sqrt(square) : 0;
    }
    /// Squares that rounding of the norm has brought below zero are zero; not numbers stay so.
    float finish(float value) const {
        if (metric_ == bqq::MetricType::cosine) value /= 2;
        return has_norm() && value < 0 ? 0.0f : value;
    }

    bqq::MetricType metric_;
    std::int64_t d_, code_size_;
    bqq::Codec::Parts parts_;
    std::int64_t K_;             // entries
    std::vector<float> columns_; // d x K: entries transposed
};

} // namespace bqq_plugin
