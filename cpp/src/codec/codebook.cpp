#include "codec/codebook.hpp"

#include "arguments.hpp"
#include "codec/tuning.hpp"
#include "kernels/dispatch.hpp"
#include "rng.hpp"

#include <algorithm>
#include <cmath>

namespace bqq::detail {

StageTables::StageTables(const bqq_kernels& kernels, const float* from, Index M, Index dimension, float reach)
    : groups(M), d(dimension), ld(ceil_div(dimension, kPad) * kPad), entries(z(K() * ld)), minus_twice(z(d * K())),
      squares(z(K())), products(z(K() * K())) {
    const Index k = K();
    for (Index a = 0; a < k; ++a) {
        double square = 0;
        for (Index j = 0; j < d; ++j) {
            const float v = from[a * d + j];
            entries.at[a * ld + j] = v;
            minus_twice.at[j * k + a] = -2 * v;
            square += double(v) * double(v);
        }
        squares.at[a] = float(square);
    }
    AlignedArray<float> dots(z(k * k)); // -2 <C_a, C_b>
    kernels.gemm(z(k), z(k), z(d), entries.at, z(ld), 1, minus_twice.at, z(k), nullptr, 0, nullptr, dots.at, z(k));
    float most = reach;
    for (Index i = 0; i < k * k; ++i) most = std::max(most, std::fabs(dots.at[i]));
    scale = most > 1e-33f ? 32000 / most : 1;
    for (Index a = 0; a < k; ++a)
        for (Index b = 0; b < k; ++b)
            products.at[a * k + b] =
                a / kEntries == b / kEntries ? std::int16_t(0) : std::int16_t(std::lrint(-dots.at[a * k + b] * scale));
}

const CodeSchedule& code_schedule(Effort effort) {
    static constexpr CodeSchedule kFast{10, kDescents, 4, 2}, kStandard{30, kDescents, 4, 1},
        kBest{100, kDescents, 5, 1};
    return effort == Effort::fast ? kFast : effort == Effort::best ? kBest : kStandard;
}

std::vector<std::uint16_t> code_noise(const StageTables& stage, const CodeSchedule& schedule, float unit,
                                      std::uint64_t seed, std::uint32_t stream) {
    std::vector<std::uint16_t> noise(z(schedule.sweeps * stage.K()));
    Uniform uniform(seed, 0xC0DEu, stream, 0);
    for (Index t = 0; t < schedule.sweeps; ++t) {
        const float share = schedule.sweeps > 1 ? float(t) / float(schedule.sweeps - 1) : 0.0f;
        const float T =
            std::min(schedule.from * std::pow(schedule.to / schedule.from, share) * unit * stage.scale, 1e30f);
        for (Index k = 0; k < stage.K(); ++k) {
            const double u = double(uniform()) + 0.5 / 16777216;
            const float gumbel =
                float(std::log(-std::log(u))); // of the smallest of many; 10: below is as good as never
            noise[z(t * stage.K() + k)] = std::uint16_t(std::clamp(T * (gumbel + 10), 0.0f, 65535.0f));
        }
    }
    return noise;
}

RowCoder::RowCoder(const bqq_kernels& kernels, const StageTables& stage, const CodeSchedule& schedule,
                   const std::uint16_t* noise)
    : kernels_(kernels), stage_(stage), costs_(z(kRowBlock * stage.K())), scores_(z(stage.K())), wide_(z(stage.K())) {
    search_.groups = z(stage.groups), search_.products = stage.products.at, search_.scale = stage.scale;
    search_.noise = noise, search_.sweeps = z(schedule.sweeps), search_.descents = z(schedule.descents);
    search_.given = 0;
}

namespace {

/// The same search for costs that do not fit 16 bits: vectors far outside of what the codec was trained on.
void search_wide(const bqq_code_search& s, const float* cost, std::size_t turn, std::int64_t* scores,
                 std::uint8_t* code) {
    const std::size_t M = s.groups, K = kEntries * M;
    const auto least = [&](std::size_t m, const std::uint16_t* noise) {
        const std::int64_t* at = scores + kEntries * m;
        int best = 0;
        for (int b = 1; b < kEntries; ++b)
            if (at[b] + (noise ? noise[b] : 0) < at[best] + (noise ? noise[best] : 0)) best = b;
        return best;
    };
    const auto add = [&](std::size_t m, int entry, int sign) {
        const std::int16_t* row = s.products + (kEntries * m + std::size_t(entry)) * K;
        for (std::size_t k = 0; k < K; ++k) scores[k] += sign * row[k];
    };
    for (std::size_t k = 0; k < K; ++k)
        scores[k] = std::int64_t(std::clamp(double(cost[k]) * double(s.scale), -1e18, 1e18));
    for (std::size_t m = 0; m < M; ++m) {
        if (!s.given) code[m] = std::uint8_t(least(m, nullptr));
        add(m, code[m], 1);
    }
    bool changed = true;
    for (std::size_t t = 0; t < s.sweeps + s.descents && changed; ++t) {
        changed = t < s.sweeps;
        for (std::size_t m = 0; m < M; ++m) {
            const int entry = least(m, t < s.sweeps ? s.noise + t * K + kEntries * ((m + turn) % M) : nullptr);
            if (entry == code[m] ||
                (t >= s.sweeps && scores[kEntries * m + std::size_t(entry)] >= scores[kEntries * m + code[m]]))
                continue;
            add(m, code[m], -1), add(m, entry, 1);
            code[m] = std::uint8_t(entry), changed = true;
        }
    }
}

} // namespace

void RowCoder::code(const float* R, Index ld, Index rows, std::uint8_t* codes, bool given, const std::uint32_t* turns) {
    const Index K = stage_.K();
    kernels_.gemm(z(rows), z(K), z(stage_.d), R, z(ld), 1, stage_.minus_twice.at, z(K), stage_.squares.at, 0, nullptr,
                  costs_.at, z(K));
    search_.given = given;
    for (Index i = 0; i < rows; ++i) {
        const float* cost = costs_.at + i * K;
        std::uint8_t* code = codes + i * stage_.groups;
        const std::size_t turn = turns ? turns[i] : 0;
        if (!kernels_.search_code(&search_, cost, turn, scores_.at, code))
            search_wide(search_, cost, turn, wide_.data(), code);
    }
}

void RowCoder::subtract(float* R, Index ld, Index rows, const std::uint8_t* codes) const {
    for (Index i = 0; i < rows; ++i)
        for (Index m = 0; m < stage_.groups; ++m)
            kernels_.axpy(z(stage_.ld), -1,
                          stage_.entries.at + (kEntries * m + codes[i * stage_.groups + m]) * stage_.ld, R + i * ld);
}

} // namespace bqq::detail

namespace bqq {

using namespace detail;

Index Codec::Impl::bytes() const {
    Index sum = 0;
    for (const Stage& s : stages) sum += s.bytes;
    return sum;
}

std::vector<float> Codec::Impl::float_entries() const {
    std::vector<float> out(entries.size());
    for (Index k = 0; k < kEntries * groups(); ++k)
        for (Index j = 0; j < d; ++j) out[z(k * d + j)] = scales[z(k)] * float(entries[z(k * d + j)]);
    return out;
}

void Codec::Impl::make_tables() {
    const std::vector<float> all = float_entries();
    tables.clear();
    const float* at = all.data();
    for (const Stage& s : stages) {
        tables.push_back(std::make_unique<const StageTables>(kernels(), at, 2 * s.bytes, d, s.reach));
        at += 2 * s.bytes * kEntries * d;
    }
}

bool Codec::Impl::bounded() const {
    constexpr double kMost = 1e37;
    double squares = 0;
    std::vector<double> reach(center.begin(), center.end());
    for (double& v : reach) v = std::fabs(v) + 1e15;
    std::vector<float> most(z(d));
    for (Index g = 0; g < groups(); ++g) {
        std::fill(most.begin(), most.end(), 0.0f);
        for (Index k = kEntries * g; k < kEntries * (g + 1); ++k)
            for (Index j = 0; j < d; ++j)
                most[z(j)] = std::max(most[z(j)], std::fabs(scales[z(k)] * float(entries[z(k * d + j)])));
        for (Index j = 0; j < d; ++j) reach[z(j)] += double(most[z(j)]);
    }
    for (const double v : reach) squares += v * v;
    return squares <= kMost && std::all_of(stages.begin(), stages.end(), [](const Stage& s) {
               return std::max({s.unit, s.reach, std::fabs(s.norm_low), 255 * s.norm_step}) <= float(kMost);
           });
}

void Codec::Impl::center_row(const float* x, const char* name, Index at, float* out, Index ld) const {
    double square = 0;
    for (Index j = 0; j < d; ++j) {
        if (!(std::fabs(x[j]) <= 1e15f))
            bad_argument(std::string(name) + "[" + std::to_string(at) + ", " + std::to_string(j) + "] is " +
                         std::to_string(x[j]) + ", expected finite numbers of at most 1e15 in size");
        square += double(x[j]) * double(x[j]);
    }
    const bool whole = metric != MetricType::cosine || square == 0;
    const float lift = whole || square > 1e-60 ? 1.0f : 1e30f; // one over the norm may leave float32
    const float gain = whole ? 1.0f : float(1 / (std::sqrt(square) * double(lift)));
    for (Index j = 0; j < d; ++j) out[j] = gain * (lift * x[j]) - center[z(j)];
    std::fill(out + d, out + ld, 0.0f);
}

} // namespace bqq
