#include "codec/scan.hpp"

#include "kernels/dispatch.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace bqq::detail {

namespace {

constexpr Index kCallBlocks = 16;     // of one call of the kernel
constexpr Index kTileBytes = 1 << 18; // of codes, which stay in a cache for all queries
constexpr double kMostSum = 65000;    // below the limit that nothing has reached yet
constexpr int kBuckets = 1024;        // of sums

Index groups_of(const Codec::Impl& codec, Index stages) {
    Index sum = 0;
    for (Index s = 0; s < stages; ++s) sum += 2 * codec.stages[z(s)].bytes;
    return sum;
}

std::pair<float, float> least_and_most(const float* entries) {
    float low[4], high[4];
    for (int i = 0; i < 4; ++i) low[i] = high[i] = entries[i];
    for (int b = 4; b < kEntries; b += 4)
        for (int i = 0; i < 4; ++i) {
            low[i] = entries[b + i] < low[i] ? entries[b + i] : low[i];
            high[i] = entries[b + i] > high[i] ? entries[b + i] : high[i];
        }
    return {std::min(std::min(low[0], low[1]), std::min(low[2], low[3])),
            std::max(std::max(high[0], high[1]), std::max(high[2], high[3]))};
}

} // namespace

/// What a query has found so far. most: keys that are kept, 0: all.
struct QueryTables::Collector {
    std::vector<std::uint64_t> keys;
    std::uint16_t limit = 65535;
    std::size_t most = 0;
    int shift = 6;

    void add(std::uint64_t bits, const std::uint16_t* sums, Index block) {
        for (; bits; bits &= bits - 1) {
            int v = 0;
#if defined(__GNUC__)
            v = __builtin_ctzll(bits);
#else
            while (!(bits >> v & 1)) ++v;
#endif
            keys.push_back(std::uint64_t(sums[v]) << kPlaceBits | std::uint64_t(block * kScanBlock + v));
        }
        if (most && keys.size() >= 2 * most + 256) shrink();
    }

    /// Counts of sums by their upper bits; the rest of `most` in the bucket where it is used up.
    struct Histogram {
        std::uint32_t counts[kBuckets] = {};
        unsigned used_up(std::size_t& rest) const {
            unsigned at = 0;
            for (; counts[at] < rest; ++at) rest -= counts[at];
            return at;
        }
    };

    /// Keeps the least, of equal ones the first, by counting upper and then lower bits of the sums.
    void shrink() {
        if (!most || keys.size() <= most) return;
        std::size_t rest = most;
        Histogram upper, lower;
        for (const std::uint64_t key : keys) ++upper.counts[key >> (kPlaceBits + shift)];
        const unsigned bucket = upper.used_up(rest), mask = (1u << shift) - 1;
        for (const std::uint64_t key : keys)
            if (key >> (kPlaceBits + shift) == bucket) ++lower.counts[unsigned(key >> kPlaceBits) & mask];
        const unsigned last = bucket << shift | lower.used_up(rest);
        std::size_t kept = 0;
        for (const std::uint64_t key : keys) {
            const unsigned sum = unsigned(key >> kPlaceBits);
            if (sum < last || (sum == last && rest > 0)) keys[kept++] = key;
            if (sum == last && rest > 0) --rest;
        }
        keys.resize(kept);
        limit = std::uint16_t(last);
    }
};

QueryTables::QueryTables(const Packed& packed, const float* Q, Index first, Index queries, Index ldq, Index coarse)
    : packed_(packed), codec_(packed.codec()), queries_(queries), coarse_(coarse), K_(kEntries * codec_.groups()),
      table_bytes_(kEntries * groups_of(codec_, coarse)), sign_(codec_.metric == MetricType::l2 ? 1.0f : -1.0f),
      floats_(z(queries * K_)), base_(z(queries)), bytes_(z(queries * table_bytes_)), scale_(z(queries)),
      offset_(z(queries)), weights_(z(queries)), shifts_(z(queries)), norms_(packed.coarse_norms(coarse)) {
    make_floats(Q, first, ldq);
    for (Index q = 0; q < queries; ++q) make_bytes(q);
}

void QueryTables::make_floats(const float* Q, Index first, Index ldq) {
    const Index d = codec_.d, ld = codec_.tables[0]->ld;
    AlignedArray<float> x(z(queries_ * ld));
    for (Index q = 0; q < queries_; ++q) {
        float* row = x.at + q * ld;
        codec_.center_row(Q + q * ldq, "Q", first + q, row, ld);
        double base = 0;
        const bool centered = codec_.centered && codec_.has_norm();
        for (Index j = 0; j < d; ++j) {
            const double c = double(codec_.center[z(j)]), v = double(row[j]) + (centered ? 0 : c);
            if (codec_.has_norm()) base += v * v;
            if (!centered) base -= 2 * v * c;
            row[j] = float(v);
        }
        base_[z(q)] = float(base);
    }
    Index done = 0;
    for (const auto& tables : codec_.tables) {
        kernels().gemm(z(queries_), z(tables->K()), z(d), x.at, z(ld), 1, tables->minus_twice.at, z(tables->K()),
                       nullptr, 0, nullptr, floats_.at + done, z(K_));
        done += tables->K();
    }
}

void QueryTables::make_bytes(Index query) {
    const Index groups = groups_of(codec_, coarse_);
    const float* all = floats_.at + query * K_;
    double widest = 0, sum = 0, least = 0;
    std::vector<float> lows(z(groups));
    for (Index g = 0; g < groups; ++g) {
        const auto [low, high] = least_and_most(all + kEntries * g);
        lows[z(g)] = low, least += double(low);
        widest = std::max(widest, double(high - low)), sum += double(high - low);
    }
    const Stage& last = codec_.stages[z(coarse_ - 1)];
    const double norms = norms_ ? 255 * double(last.norm_step) : 0;
    double scale = std::min(kMostScanned / widest, (kMostSum - double(groups)) / (sum + norms));
    if (!(scale < 1e30)) scale = 1; // nothing differs
    scale_[z(query)] = scale;
    weights_[z(query)] = std::uint16_t(std::min(65535.0, std::nearbyint(256 * norms / 255 * scale)));
    while (int((sum + norms) * scale) + groups + 1 >= Index(kBuckets) << shifts_[z(query)]) ++shifts_[z(query)];
    offset_[z(query)] = double(base_[z(query)]) + least + (norms_ ? double(last.norm_low) : 0);

    std::uint8_t* out = bytes_.at + query * table_bytes_;
    for (Index g = 0; g < groups; ++g, all += kEntries, out += kEntries) {
        const float low = lows[z(g)], factor = float(scale);
        for (Index b = 0; b < kEntries; ++b)
            out[b] = std::uint8_t(std::min(int((all[b] - low) * factor + 0.5f), kMostScanned));
    }
}

float QueryTables::distance(float value) const {
    if (codec_.metric == MetricType::l2) return std::max(value, 0.0f);
    return codec_.metric == MetricType::ip ? -value / 2 : 1 - value / 2;
}
float QueryTables::value_of(float distance) const {
    if (codec_.metric == MetricType::l2) return distance;
    return codec_.metric == MetricType::ip ? -2 * distance : 2 - 2 * distance;
}

void QueryTables::prefetch(Index at) const {
#if defined(__GNUC__)
    for (std::size_t s = 0; s < codec_.stages.size(); ++s) {
        const Index bytes = codec_.stages[s].bytes;
        const std::uint8_t* code = packed_.part(Index(s)) + Packed::place(at, bytes, 0);
        for (Index j = 0; j < bytes; ++j, code += kScanBlock) __builtin_prefetch(code);
    }
#else
    (void)at;
#endif
}

float QueryTables::value(Index query, Index at) const {
    const float* tables = floats_.at + query * K_;
    float sums[8] = {}; // a chain of additions each
    for (std::size_t s = 0; s < codec_.stages.size(); ++s) {
        const Index bytes = codec_.stages[s].bytes;
        const std::uint8_t* code = packed_.part(Index(s)) + Packed::place(at, bytes, 0);
        Index j = 0;
        for (; j + 4 <= bytes; j += 4, tables += 8 * kEntries)
            for (int i = 0; i < 4; ++i, code += kScanBlock) {
                sums[2 * i] += tables[2 * i * kEntries + (*code & 15)];
                sums[2 * i + 1] += tables[(2 * i + 1) * kEntries + (*code >> 4)];
            }
        for (; j < bytes; ++j, code += kScanBlock, tables += 2 * kEntries)
            sums[0] += tables[*code & 15], sums[1] += tables[kEntries + (*code >> 4)];
    }
    const float sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    return base_[z(query)] + (codec_.has_norm() ? codec_.norm(packed_.norm(at)) : 0.0f) + sum;
}

/// The first codes give those queries a limit that have none yet.
void QueryTables::start(const bqq_scan& call, Collector* const* out) const {
    for (Index q = 0; q < Index(call.queries); ++q) {
        Collector& c = *out[q];
        if (!c.most || c.limit != 65535 || call.blocks * kScanBlock < 2 * c.most) continue;
        Collector::Histogram histogram;
        for (std::size_t b = 0; b < call.blocks; ++b)
            for (int v = 0; v < kScanBlock; ++v)
                ++histogram.counts[call.sums[(b * call.queries + z(q)) * kScanBlock + z(v)] >> c.shift];
        std::size_t rest = c.most;
        c.limit = std::uint16_t(std::min(65535u, (histogram.used_up(rest) + 1) << c.shift));
        for (std::size_t b = 0; b < call.blocks; ++b) {
            const std::uint16_t* sums = call.sums + (b * call.queries + z(q)) * kScanBlock;
            std::uint64_t bits = 0;
            for (int v = 0; v < kScanBlock; ++v) bits |= std::uint64_t(sums[v] < c.limit) << v;
            call.below[b * call.queries + z(q)] = bits;
        }
    }
}

void QueryTables::scan(const Part& part, const std::vector<Index>& which, std::vector<Collector>& out) const {
    AlignedArray<std::uint16_t> sums(z(kCallBlocks * kScanQueries * kScanBlock));
    std::uint64_t below[kCallBlocks * kScanQueries];
    std::vector<const std::uint8_t*> codes(z(coarse_));
    std::vector<std::size_t> bytes(z(coarse_));
    Index size = 0;
    for (Index s = 0; s < coarse_; ++s) bytes[z(s)] = z(codec_.stages[z(s)].bytes), size += Index(bytes[z(s)]);
    const bqq_kernels& kernel = kernels();

    const auto scan_blocks = [&](Index block, Index count, Index first, Index queries) {
        const std::uint8_t* tables[kScanQueries];
        std::uint16_t limits[kScanQueries], weights[kScanQueries];
        Collector* found[kScanQueries];
        for (Index i = 0; i < queries; ++i) {
            const Index q = which[z(first + i)];
            tables[i] = bytes_.at + q * table_bytes_, weights[i] = weights_[z(q)];
            found[i] = &out[z(q)], limits[i] = found[i]->limit;
        }
        for (Index s = 0; s < coarse_; ++s) codes[z(s)] = packed_.part(s) + block * kScanBlock * Index(bytes[z(s)]);
        const std::uint8_t* norms = norms_ ? norms_ + block * kScanBlock : nullptr;
        const bqq_scan call{z(count), z(coarse_), z(queries), codes.data(), bytes.data(), tables,
                            norms,    weights,    limits,     sums.at,      below};
        kernel.scan(&call);
        const bool full = (block + count) * kScanBlock <= packed_.count();
        if (block == part.begin && full && !part.allowed) start(call, found);
        for (Index b = 0; b < count; ++b) {
            const Index rest = packed_.count() - (block + b) * kScanBlock;
            std::uint64_t mask = ~std::uint64_t(0) >> (rest >= kScanBlock ? 0 : kScanBlock - rest);
            if (part.allowed) mask &= part.allowed[block + b];
            for (Index q = 0; q < queries; ++q)
                if (const std::uint64_t bits = below[b * queries + q] & mask)
                    found[q]->add(bits, sums.at + (b * queries + q) * kScanBlock, block + b);
        }
    };

    const Index tile = std::max<Index>(1, kTileBytes / (kScanBlock * size * kCallBlocks)) * kCallBlocks;
    for (Index top = part.begin; top < part.end; top += tile)
        for (Index first = 0, asked = Index(which.size()); first < asked; first += kScanQueries) {
            const Index queries = std::min<Index>(kScanQueries, asked - first), end = std::min(part.end, top + tile);
            if (part.poll && *part.poll) (*part.poll)();
            for (Index block = top; block < end; block += kCallBlocks)
                scan_blocks(block, std::min(kCallBlocks, end - block), first, queries);
        }
}

// An entry is off by half a unit at most, a norm by one and a half.
double QueryTables::rounding(Index query) const {
    return std::sqrt(double(groups_of(codec_, coarse_)) / 12 + 0.5) / scale_[z(query)];
}
double QueryTables::most_off() const { return double(groups_of(codec_, coarse_)) / 2 + 4; }

std::uint16_t QueryTables::limit(Index query, double value, double off) const {
    return std::uint16_t(std::clamp((value - offset_[z(query)]) * scale_[z(query)] + off, 0.0, 65535.0));
}

QueryTables::Keys QueryTables::scan(const Part& part, Index most, const std::vector<std::uint16_t>& limits) const {
    std::vector<Collector> found(z(queries_));
    std::vector<Index> which;
    for (Index q = 0; q < queries_; ++q) {
        found[z(q)].most = z(most), found[z(q)].shift = shifts_[z(q)];
        if (!limits.empty()) found[z(q)].limit = limits[z(q)];
        if (found[z(q)].limit) which.push_back(q);
    }
    scan(part, which, found);
    Keys keys;
    for (Collector& c : found) {
        c.shrink();
        keys.push_back(std::move(c.keys));
    }
    return keys;
}

} // namespace bqq::detail
