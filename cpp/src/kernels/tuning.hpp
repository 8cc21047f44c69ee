/* Constants of the kernels that came from a measurement. "Zen 4 class": an AMD EPYC with AVX-512, VNNI and BF16,
 * gcc 12. build/bench_kernels is bench/bench_kernels.cpp: one thread, operands in the first-level cache. */
#pragma once

#include "kernels/table.hpp"

/* From the unit in use to the one to fetch, in blocks. Zen 4 class, python -m bench.matmul --cache cold: fetching so
 * far ahead into the second-level cache was 20 to 30 % faster from memory than into the first, as fast when hot. Why 16
 * and not another distance was not recorded. */
constexpr int kPrefetchBlocks = 16;

/* Bytes of the tables of one block for the most columns in the lanes, and of those of a product of bits and counts:
 * half of a first-level cache of 32 KB. */
constexpr size_t kLaneTableBlock = 16 << 10;
/* What the ways of a product cost at each level (bqq_cost): build/bench_methods calibrate, on a Xeon with AMX, levels
 * capped by BQQ_ISA; build/bench_methods check says how good the choice is on a machine. AVX2 on a Zen 3, which has
 * nothing better: a multiply-add of gemm took as long as 2.8 bits of lanes with tables of four inputs there, 2.9 here;
 * the kernels of today were not measured on one. The gemm of AVX-512 and VNNI, 11 and 12 here, is a middle between that
 * and a Zen 4 (20 of these). NEON takes the generic ones, not measured. */
constexpr bqq_costs kCostsGeneric = {
    {{18.7, 2935, 374, 20.6}, {63.7, 14130, 0, 2.42}}, // tables
    {{3.66, 842, 437, 36.3}, {6.82, 2728, 0, 0}},      // lanes
    {{}, {}},                                          // tiles
    {{}, {}},                                          // dense
};
constexpr bqq_costs kCostsAvx2 = {
    {{7.69, 1357, 646, 0.397}, {3.22, 647, 930, 1.19}}, // tables
    {{4.86, 459, 280, 10.4}, {2.24, 458, 419, 21.8}},   // lanes
    {{}, {}},                                           // tiles
    {{1.88, 121, 1163, 17.9}, {}},                      // dense
};
constexpr bqq_costs kCostsAvx512 = {
    {{5.03, 402, 839, 0.764}, {4.11, 754, 1066, 1.71}}, // tables
    {{3.53, 272, 341, 21.5}, {2.2, 363, 430, 16.5}},    // lanes
    {{}, {}},                                           // tiles
    {{1.35, 117, 1384, 15}, {}},                        // dense
};
constexpr bqq_costs kCostsVnni = {
    {{4.19, 834, 628, 0.81}, {1.35, 497, 938, 0.979}}, // tables
    {{3.34, 422, 157, 24.1}, {2.02, 438, 346, 20.1}},  // lanes
    {{}, {}},                                          // tiles
    {{0.432, 104, 956, 15}, {}},                       // dense
};
constexpr bqq_costs kCostsAmx = {
    {{4.28, 751, 777, 0.686}, {1.32, 480, 1001, 1.08}}, // tables
    {{3.56, 347, 282, 22.2}, {2.01, 400, 413, 25.8}},   // lanes
    {{2.31, 237, 650, 1.9}, {0.308, 372, 842, 0.752}},  // tiles
    {{0.669, 85, 1144, 11.5}, {}},                      // dense
};
