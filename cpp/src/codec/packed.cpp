#include "codec/packed.hpp"

#include <algorithm>
#include <cmath>

namespace bqq::detail {

std::uint8_t* PackedBytes::own(Index size) {
    if (owner_) {
        bytes_.assign(data_, data_ + size_);
        data_ = bytes_.data();
        owner_.reset();
    }
    bytes_.resize(z(size));
    data_ = bytes_.data(), size_ = size;
    return bytes_.data();
}

Packed::Packed(Codec codec)
    : codec_(std::move(codec)), parts_(codec_.impl().stages.size()), coarse_(codec_.impl().stages.size()) {}

Packed::~Packed() {
    for (const auto& norms : coarse_) delete norms.load();
}

void Packed::reserve(Index blocks) {
    for (std::size_t s = 0; s < parts_.size(); ++s) parts_[s].own(blocks * kScanBlock * codec().stages[s].bytes);
    if (codec().has_norm()) norms_.own(blocks * kScanBlock);
    for (const auto& norms : coarse_)
        if (norms) norms.load()->resize(z(blocks * kScanBlock));
}

void Packed::append(const std::uint8_t* codes, Index count) {
    const Index size = codec().code_size();
    reserve(ceil_div(count_ + count, kScanBlock));
    for (Index i = 0; i < count; ++i) put(count_ + i, codes + i * size);
    count_ += count;
}

void Packed::put(Index at, const std::uint8_t* code) {
    std::vector<std::uint8_t> norms(coarse_.size()); // what can fail comes first
    for (std::size_t s = 0; s < coarse_.size(); ++s)
        if (coarse_[s]) norms[s] = coarse_norm(code, Index(s) + 1);
    write(at, code, norms.data());
}

void Packed::write(Index at, const std::uint8_t* code, const std::uint8_t* norms) noexcept {
    const auto next = [&] { return code ? *code++ : std::uint8_t(0); };
    for (std::size_t s = 0; s < parts_.size(); ++s) {
        const Index bytes = codec().stages[s].bytes;
        std::uint8_t* part = parts_[s].own();
        for (Index j = 0; j < bytes; ++j) part[place(at, bytes, j)] = next();
    }
    if (codec().has_norm()) norms_.own()[place(at)] = next();
    for (std::size_t s = 0; s < coarse_.size(); ++s)
        if (coarse_[s]) (*coarse_[s].load())[place(at)] = norms ? norms[s] : std::uint8_t(0);
}

void Packed::remove(Index at) {
    reserve(blocks());
    if (at != count_ - 1) {
        std::vector<std::uint8_t> code(z(codec().code_size()));
        unpack(count_ - 1, code.data());
        put(at, code.data());
    }
    write(count_ - 1, nullptr, nullptr);
    --count_;
}

void Packed::unpack(Index at, std::uint8_t* code) const {
    for (std::size_t s = 0; s < parts_.size(); ++s) {
        const Index bytes = codec().stages[s].bytes;
        for (Index j = 0; j < bytes; ++j) *code++ = parts_[s].data()[place(at, bytes, j)];
    }
    if (codec().has_norm()) *code = norm(at);
}

void Packed::share(Index count, const std::vector<const std::uint8_t*>& parts, const std::uint8_t* norms,
                   const std::shared_ptr<const void>& owner) {
    count_ = count;
    for (std::size_t s = 0; s < parts_.size(); ++s)
        parts_[s].share(parts[s], blocks() * kScanBlock * codec().stages[s].bytes, owner);
    if (codec().has_norm()) norms_.share(norms, blocks() * kScanBlock, owner);
}

std::uint8_t Packed::coarse_norm(const std::uint8_t* code, Index stages) const {
    const Codec::Impl& a = codec();
    std::vector<double> w(z(a.d));
    if (!a.centered) std::copy(a.center.begin(), a.center.end(), w.begin());
    for (Index s = 0; s < stages; code += a.stages[z(s++)].bytes) {
        const StageTables& tables = *a.tables[z(s)];
        for (Index g = 0; g < tables.groups; ++g) {
            const float* entry = tables.entries.at + (kEntries * g + entry_of(code, g)) * tables.ld;
            for (Index j = 0; j < a.d; ++j) w[z(j)] += double(entry[j]);
        }
    }
    double square = 0;
    for (const double v : w) square += v * v;
    const Stage& s = a.stages[z(stages - 1)];
    const double byte = s.norm_step > 0 ? (square - double(s.norm_low)) / double(s.norm_step) : 0;
    return std::uint8_t(std::lrint(std::clamp(byte, 0.0, 255.0)));
}

const std::uint8_t* Packed::coarse_norms(Index stages, const std::function<void()>& poll) const {
    if (!codec().has_norm()) return nullptr;
    if (stages == Index(codec().stages.size())) return norms();
    std::atomic<Norms*>& norms = coarse_[z(stages - 1)];
    if (const Norms* known = norms.load(std::memory_order_acquire)) return known->data();
    auto made = std::make_unique<Norms>(z(blocks() * kScanBlock));
    std::vector<std::uint8_t> code(z(codec().code_size()));
    for (Index at = 0; at < count_; ++at) {
        if (poll && at % 4096 == 0) poll();
        unpack(at, code.data());
        (*made)[place(at)] = coarse_norm(code.data(), stages);
    }
    Norms* first = nullptr;
    return (norms.compare_exchange_strong(first, made.get()) ? made.release() : first)->data();
}

} // namespace bqq::detail
