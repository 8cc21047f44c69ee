// Codes in the order of the scan (kernels/table.hpp), each stage on its own: cpp/FORMAT.md has it byte by byte.
#pragma once

#include "codec/codebook.hpp"

#include <atomic>
#include <functional>

namespace bqq::detail {

/// Room for whole blocks; what lies behind the last code is zero. Its bytes are its own or somebody else's, until they
/// change.
class PackedBytes {
  public:
    void share(const std::uint8_t* data, Index size, std::shared_ptr<const void> owner) {
        data_ = data, size_ = size, owner_ = std::move(owner);
    }
    const std::uint8_t* data() const { return data_; }
    std::uint8_t* own(Index size);
    std::uint8_t* own() noexcept { return bytes_.data(); } ///< after the above

  private:
    std::vector<std::uint8_t> bytes_;
    const std::uint8_t* data_ = nullptr;
    Index size_ = 0;
    std::shared_ptr<const void> owner_;
};

class Packed {
  public:
    explicit Packed(Codec codec);
    ~Packed();
    Packed(const Packed&) = delete;
    Packed& operator=(const Packed&) = delete;
    const Codec::Impl& codec() const { return codec_.impl(); }
    Index count() const { return count_; }
    Index blocks() const { return ceil_div(count_, kScanBlock); }
    const std::uint8_t* part(Index stage) const { return parts_[z(stage)].data(); }
    const std::uint8_t* norms() const { return norms_.data(); } ///< of whole codes; null for ip
    std::uint8_t norm(Index at) const { return norms_.data()[place(at)]; }

    /// Codes take the places from count() on. Like remove, throws std::bad_alloc with all codes as they were.
    void append(const std::uint8_t* codes, Index count);
    /// The last code takes the place `at`.
    void remove(Index at);
    void unpack(Index at, std::uint8_t* code) const;
    /// Of a file. parts: blocks x bytes x kScanBlock of each stage; norms as many blocks.
    void share(Index count, const std::vector<const std::uint8_t*>& parts, const std::uint8_t* norms,
               const std::shared_ptr<const void>& owner);

    /// Norm bytes of the first `stages` stages, by their own low and step: made on first use, by one thread or several
    /// at once, kept in step after. No lock: a forked child could inherit it held.
    const std::uint8_t* coarse_norms(Index stages, const std::function<void()>& poll = {}) const;

    static std::size_t place(Index at) { return z(at / kScanBlock * kScanBlock + scan_place(int(at % kScanBlock))); }
    /// Byte j of the code at `at` within a stage of `bytes`.
    static std::size_t place(Index at, Index bytes, Index j) {
        return z((at / kScanBlock * bytes + j) * kScanBlock + scan_place(int(at % kScanBlock)));
    }

  private:
    void reserve(Index blocks);
    void put(Index at, const std::uint8_t* code);
    /// Zeros if code is null. The parts are its own.
    void write(Index at, const std::uint8_t* code, const std::uint8_t* norms) noexcept;
    std::uint8_t coarse_norm(const std::uint8_t* code, Index stages) const;

    Codec codec_;
    Index count_ = 0;
    std::vector<PackedBytes> parts_;
    PackedBytes norms_;
    using Norms = std::vector<std::uint8_t>;
    mutable std::vector<std::atomic<Norms*>> coarse_; ///< by stages - 1; null until asked for
};

} // namespace bqq::detail
