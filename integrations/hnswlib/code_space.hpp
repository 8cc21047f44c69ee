// Vector codes of bqq as a space of hnswlib: graphs over codes of a few bytes.
#pragma once

#include "code_tables.hpp"

#include <bqq/codec.hpp>
#include <hnswlib/hnswlib.h>

#include <cstring>

namespace bqq_hnswlib {

/// Distances are hnswlib's: squared ones for l2, 1 - inner product for ip, 1 - cosine for cosine. hnswlib has one
/// function for two kinds of them, so an element begins with a byte that tells a code from a query:
/// - addPoint takes elements of encode(); codes are compared with codes as the vectors they stand for;
/// - searchKnn takes Query::data(), a table of sums for one query, and looks codes up in it.
/// Must outlive the indexes over it. Any number of threads may use one.
class CodeSpace : public hnswlib::SpaceInterface<float> {
  public:
    explicit CodeSpace(const bqq::Codec& codec)
        : codec_(codec), tables_(codec), shift_(codec.metric() == bqq::MetricType::ip ? 1.0f : 0.0f) {}

    const bqq::Codec& codec() const { return codec_; }
    std::size_t get_data_size() override { return 1 + std::size_t(codec_.code_size()); }
    hnswlib::DISTFUNC<float> get_dist_func() override { return distance; }
    void* get_dist_func_param() override { return this; }

    /// count vectors of d numbers, back to back, as elements of get_data_size() bytes, back to back. Throws as
    /// bqq::Codec::encode.
    std::vector<std::uint8_t> encode(const float* X, std::int64_t count, const bqq::CodeOptions& options = {}) const {
        const std::size_t size = std::size_t(codec_.code_size());
        std::vector<std::uint8_t> codes(std::size_t(count > 0 ? count : 0) * size);
        codec_.encode(X, count, codec_.d(), codes.data(), options);
        std::vector<std::uint8_t> elements;
        elements.reserve(codes.size() + codes.size() / size);
        for (std::size_t i = 0; i < codes.size(); i += size) {
            elements.push_back(kCode);
            elements.insert(elements.end(), &codes[i], &codes[i] + size);
        }
        return elements;
    }

    /// One query, d numbers, ready for searches. One that is not finite is Error(invalid_argument).
    class Query {
      public:
        Query(const CodeSpace& space, const float* x) : block_(1 + space.tables_.size()) {
            for (std::int64_t j = 0; j < space.codec_.d(); ++j)
                if (!std::isfinite(x[j]))
                    throw bqq::Error(bqq::ErrorCode::invalid_argument,
                                     "x[" + std::to_string(j) + "] is not finite: a query has finite numbers alone");
            std::memcpy(block_.data(), &kQuery, 1);
            space.tables_.query(x, block_.data() + 1);
        }
        const void* data() const { return block_.data(); }

      private:
        std::vector<float> block_; // the byte, padding, the table
    };

  private:
    static constexpr std::uint8_t kCode = 0, kQuery = 1;

    static float distance(const void* first, const void* second, const void* param) {
        const CodeSpace& space = *static_cast<const CodeSpace*>(param);
        const std::uint8_t *a = static_cast<const std::uint8_t*>(first), *b = static_cast<const std::uint8_t*>(second);
        if (*a == kQuery) return space.shift_ + space.tables_.distance(static_cast<const float*>(first) + 1, b + 1);
        static thread_local std::vector<float> decoded;
        const std::size_t d = std::size_t(space.codec_.d());
        if (decoded.size() < 2 * d) decoded.resize(2 * d);
        space.tables_.decode(a + 1, decoded.data());
        space.tables_.decode(b + 1, decoded.data() + d);
        return space.shift_ + space.tables_.between(decoded.data(), decoded.data() + d);
    }

    bqq::Codec codec_;
    bqq_plugin::CodeTables tables_;
    float shift_;
};

} // namespace bqq_hnswlib
