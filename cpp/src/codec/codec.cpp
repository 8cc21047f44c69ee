// Encoding and decoding; what a codec says of itself.
#include "bqq/codec.hpp"

#include "arguments.hpp"
#include "codec/codebook.hpp"
#include "kernels/dispatch.hpp"
#include "parallel.hpp"
#include "progress.hpp"

#include <cmath>

namespace bqq {

using namespace detail;

Index Codec::d() const { return impl_->d; }
Index Codec::code_size() const { return impl_->code_size(); }
Index Codec::stages() const { return Index(impl_->stages.size()); }
MetricType Codec::metric() const { return impl_->metric; }

std::vector<Index> Codec::stage_bytes() const {
    std::vector<Index> bytes;
    for (const Stage& s : impl_->stages) bytes.push_back(s.bytes);
    return bytes;
}

Codec Codec::prefix(Index k) const {
    if (k < 1 || k > stages()) bad_value("k", k, "1 to " + std::to_string(stages()));
    auto out = std::make_shared<Impl>();
    out->metric = impl_->metric, out->d = impl_->d, out->centered = impl_->centered, out->center = impl_->center;
    out->stages.assign(impl_->stages.begin(), impl_->stages.begin() + k);
    const Index entries = kEntries * out->groups();
    out->entries.assign(impl_->entries.begin(), impl_->entries.begin() + entries * d());
    out->scales.assign(impl_->scales.begin(), impl_->scales.begin() + entries);
    out->make_tables();
    return Codec(std::move(out));
}

Codec::Parts Codec::parts() const {
    const Impl& a = *impl_;
    std::vector<float> origin = a.center;
    if (!a.centered) std::fill(origin.begin(), origin.end(), 0.0f);
    return {a.float_entries(), a.center, std::move(origin), a.stages.back().norm_low, a.stages.back().norm_step};
}

namespace {

void check_array(const void* data, const char* name, Index count, Index d, Index ld) {
    if (count < 0 || count > kMaxCodes)
        bad_value("the number of rows of " + std::string(name), count, "0 to " + std::to_string(kMaxCodes));
    if (ld < d) bad_value("the leading dimension of " + std::string(name), ld, std::to_string(d) + " or more");
    if (!data && count) bad_argument(std::string(name) + " is null");
}

/// One thread's way through all stages for kRowBlock vectors.
class Encoder {
  public:
    Encoder(const Codec::Impl& codec, const std::vector<std::vector<std::uint16_t>>& noise,
            const CodeSchedule& schedule)
        : codec_(codec), ld_(codec.tables[0]->ld), x_(z(kRowBlock * ld_)), codes_(z(kRowBlock * codec.groups())) {
        for (std::size_t s = 0; s < noise.size(); ++s)
            coders_.push_back(std::make_unique<RowCoder>(kernels(), *codec.tables[s], schedule, noise[s].data()));
    }
    void encode(const float* X, Index first, Index rows, Index ldx, std::uint8_t* out) {
        for (Index i = 0; i < rows; ++i) codec_.center_row(X + i * ldx, "X", first + i, x_.at + i * ld_, ld_);
        std::uint8_t* codes = out;
        for (std::size_t s = 0; s < coders_.size(); ++s) {
            const Index bytes = codec_.stages[s].bytes;
            coders_[s]->code(x_.at, ld_, rows, codes_.data(), false, nullptr);
            coders_[s]->subtract(x_.at, ld_, rows, codes_.data());
            for (Index i = 0; i < rows; ++i)
                for (Index j = 0; j < bytes; ++j) {
                    const std::uint8_t* pair = codes_.data() + 2 * (i * bytes + j);
                    codes[i * codec_.code_size() + j] = std::uint8_t(pair[0] | pair[1] << 4);
                }
            codes += bytes;
        }
        if (!codec_.has_norm()) return;
        for (Index i = 0; i < rows; ++i) codes[i * codec_.code_size()] = norm_byte(X + i * ldx, x_.at + i * ld_);
    }

  private:
    /// Of w_hat, from x and x - w_hat.
    std::uint8_t norm_byte(const float* x, const float* rest) const {
        double given = 0, square = 0;
        for (Index j = 0; j < codec_.d; ++j) given += double(x[j]) * double(x[j]);
        const double gain = codec_.metric == MetricType::cosine && given > 0 ? 1 / std::sqrt(given) : 1;
        for (Index j = 0; j < codec_.d; ++j) {
            const double w =
                gain * double(x[j]) - double(rest[j]) - (codec_.centered ? double(codec_.center[z(j)]) : 0);
            square += w * w;
        }
        const Stage& s = codec_.stages.back();
        const double byte = s.norm_step > 0 ? (square - double(s.norm_low)) / double(s.norm_step) : 0;
        return std::uint8_t(std::lrint(std::clamp(byte, 0.0, 255.0)));
    }

    const Codec::Impl& codec_;
    const Index ld_;
    AlignedArray<float> x_;
    std::vector<std::uint8_t> codes_;
    std::vector<std::unique_ptr<RowCoder>> coders_;
};

constexpr std::uint64_t kEncodeSeed = 0x5EED;

} // namespace

void Codec::encode(const float* X, Index count, Index ldx, std::uint8_t* codes, const CodeOptions& options) const {
    check_array(X, "X", count, d(), ldx);
    check_array(codes, "codes", count, 0, 0);
    if (int(options.effort) < 0 || int(options.effort) > 2) bad_value("effort", Index(options.effort), "0, 1 or 2");
    const CodeSchedule& schedule = code_schedule(options.effort);
    std::vector<std::vector<std::uint16_t>> noise;
    for (std::size_t s = 0; s < impl_->stages.size(); ++s)
        noise.push_back(code_noise(*impl_->tables[s], schedule, impl_->stages[s].unit, kEncodeSeed, std::uint32_t(s)));
    const Index blocks = ceil_div(count, kRowBlock);
    const int threads = int(std::min<Index>(resolve_threads(options.threads), std::max<Index>(blocks, 1)));
    std::vector<std::unique_ptr<Encoder>> encoders(z(threads));
    Progress progress(options.progress, count);
    parallel_for(
        blocks, threads,
        [&](Index block, int worker) {
            auto& encoder = encoders[z(worker)];
            if (!encoder) encoder = std::make_unique<Encoder>(*impl_, noise, schedule);
            const Index first = block * kRowBlock, rows = std::min(kRowBlock, count - first);
            encoder->encode(X + first * ldx, first, rows, ldx, codes + first * code_size());
            progress.advance(rows, worker == 0);
        },
        [&] { progress.poll(); }, &progress.stop);
    progress.finish();
}

void Codec::decode(const std::uint8_t* codes, Index count, float* out, Index ldo, int threads,
                   const std::function<void()>& poll) const {
    check_array(out, "out", count, d(), ldo);
    check_array(codes, "codes", count, 0, 0);
    const Impl& a = *impl_;
    const Index ld = a.tables[0]->ld;
    const bqq_kernels& kernel = kernels();
    const auto one_block = [&](Index block, int worker) {
        AlignedArray<float> w(z(ld));
        if (poll && worker == 0) poll();
        for (Index i = block * kRowBlock; i < std::min(count, (block + 1) * kRowBlock); ++i) {
            std::copy(a.center.begin(), a.center.end(), w.at);
            const std::uint8_t* code = codes + i * code_size();
            for (std::size_t s = 0; s < a.stages.size(); code += a.stages[s++].bytes)
                for (Index g = 0; g < 2 * a.stages[s].bytes; ++g)
                    kernel.axpy(z(ld), 1, a.tables[s]->entries.at + (kEntries * g + entry_of(code, g)) * ld, w.at);
            std::copy_n(w.at, d(), out + i * ldo);
        }
    };
    parallel_for(ceil_div(count, kRowBlock), resolve_threads(threads), one_block, poll);
}

} // namespace bqq
