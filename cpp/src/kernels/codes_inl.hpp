// Codes of vectors: the search for one, and sums of table entries over many. Over any 16-bit integers; an instruction
// set with instructions of its own for it has another type than PlainScores or another scan.
#pragma once

#include "kernels/table.hpp"

#include <math.h>
#include <string.h>

namespace {

constexpr uint16_t kScoreZero = 0x8000, kNoNoise[kEntries] = {};
constexpr float kMostScore = 32000; // of the start

struct PlainScores {
    static bool from(size_t count, const float* cost, float scale, uint16_t* scores) {
        bool fits = true;
        for (size_t k = 0; k < count; ++k) fits &= fabsf(cost[k] * scale) <= kMostScore;
        if (!fits) return false;
        for (size_t k = 0; k < count; ++k) {
            const float c = cost[k] * scale;
            scores[k] = uint16_t(int(c + (c < 0 ? -0.5f : 0.5f)) + kScoreZero);
        }
        return true;
    }
    // The place of the least score + noise.
    static int least(const uint16_t* scores, const uint16_t* noise) {
        unsigned best = ~0u;
        for (unsigned b = 0; b < kEntries; ++b) {
            const unsigned sum = unsigned(scores[b]) + noise[b], key = (sum < 0xFFFF ? sum : 0xFFFF) << 4 | b;
            best = key < best ? key : best;
        }
        return int(best & 15);
    }
    static void add(size_t count, const int16_t* row, uint16_t* scores) {
        for (size_t k = 0; k < count; ++k) scores[k] = uint16_t(scores[k] + row[k]);
    }
    static void move(size_t count, const int16_t* from, const int16_t* to, uint16_t* scores) {
        for (size_t k = 0; k < count; ++k) scores[k] = uint16_t(scores[k] + to[k] - from[k]);
    }
};

template <class Scores>
int search_code(const bqq_code_search* s, const float* cost, size_t turn, uint16_t* scores, uint8_t* code) {
    const size_t M = s->groups, K = kEntries * M;
    const auto row = [&](size_t m, int entry) { return s->products + (kEntries * m + size_t(entry)) * K; };
    if (!Scores::from(K, cost, s->scale, scores)) return 0;
    for (size_t m = 0; m < M; ++m) {
        if (!s->given) code[m] = uint8_t(Scores::least(scores + kEntries * m, kNoNoise));
        Scores::add(K, row(m, code[m]), scores);
    }
    const auto take = [&](size_t m, int entry) {
        Scores::move(K, row(m, code[m]), row(m, entry), scores);
        code[m] = uint8_t(entry);
    };
    for (size_t t = 0; t < s->sweeps; ++t)
        for (size_t m = 0, n = turn % M; m < M; ++m, n = n + 1 < M ? n + 1 : 0) {
            const int entry = Scores::least(scores + kEntries * m, s->noise + t * K + kEntries * n);
            if (entry != code[m]) take(m, entry);
        }
    bool changed = true;
    for (size_t t = 0; t < s->descents && changed; ++t) {
        changed = false;
        for (size_t m = 0; m < M; ++m) {
            const uint16_t* at = scores + kEntries * m;
            const int entry = Scores::least(at, kNoNoise);
            if (at[entry] < at[code[m]]) take(m, entry), changed = true;
        }
    }
    return 1;
}

inline void scan_plain(const bqq_scan* s) {
    for (size_t b = 0; b < s->blocks; ++b)
        for (size_t q = 0; q < s->queries; ++q) {
            uint16_t* sums = s->sums + (b * s->queries + q) * kScanBlock;
            uint16_t placed[kScanBlock] = {};
            const uint8_t* tables = s->tables[q];
            for (size_t i = 0; i < s->parts; ++i) {
                const uint8_t* codes = s->codes[i] + b * kScanBlock * s->bytes[i];
                for (size_t j = 0; j < s->bytes[i]; ++j, codes += kScanBlock, tables += 2 * kEntries)
                    for (int v = 0; v < kScanBlock; ++v)
                        placed[v] = uint16_t(placed[v] + tables[codes[v] & 15] + tables[kEntries + (codes[v] >> 4)]);
            }
            uint64_t below = 0;
            for (int v = 0; v < kScanBlock; ++v) {
                const int at = scan_place(v);
                const unsigned norm =
                                   s->norms ? unsigned(s->norms[b * kScanBlock + size_t(at)]) * s->weights[q] >> 8 : 0,
                               sum = placed[at] + norm;
                sums[v] = uint16_t(sum < 0xFFFF ? sum : 0xFFFF);
                below |= uint64_t(sums[v] < s->limits[q]) << v;
            }
            s->below[b * s->queries + q] = below;
        }
}

} // namespace
