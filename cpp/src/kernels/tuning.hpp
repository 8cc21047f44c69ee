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
 * the kernels of today were not measured on one. The gemm of AVX-512 and VNNI, 11 here, is a middle between that
 * and a Zen 4 (20 of these). A bit of AMX tiles in the fast class is 0.39 in the second-level cache, more beyond. NEON
 * takes the generic costs, not measured. */
constexpr bqq_costs kCostsGeneric = {
    {{18.8, 3270, 81, 19.8}, {65.6, 13915, 0, 2.59}}, // tables
    {{3.12, 875, 319, 39.3}, {7.01, 2650, 0, 0}},     // lanes
    {{}, {}},                                         // tiles
    {{}, {}},                                         // dense
};
constexpr bqq_costs kCostsAvx2 = {
    {{8.05, 1373, 729, 0.256}, {3.4, 637, 983, 1.13}}, // tables
    {{5.06, 477, 311, 9.9}, {2.28, 460, 452, 22.9}},   // lanes
    {{}, {}},                                          // tiles
    {{2.04, 138, 1000, 18}, {}},                       // dense
};
constexpr bqq_costs kCostsAvx512 = {
    {{5.01, 500, 815, 0.569}, {4.22, 751, 1123, 1.56}}, // tables
    {{3.81, 342, 289, 14.3}, {2.24, 354, 501, 15.6}},   // lanes
    {{}, {}},                                           // tiles
    {{1.29, 150, 1009, 15}, {}},                        // dense
};
constexpr bqq_costs kCostsVnni = {
    {{4.4, 782, 912, 0.675}, {1.4, 480, 1122, 0.935}}, // tables
    {{3.59, 361, 355, 24.3}, {2.08, 419, 509, 22.2}},  // lanes
    {{}, {}},                                          // tiles
    {{0.631, 93, 983, 15}, {}},                        // dense
};
constexpr bqq_costs kCostsAmx = {
    {{4.44, 723, 834, 0.56}, {1.43, 454, 1060, 0.841}}, // tables
    {{3.58, 333, 298, 23.2}, {2.17, 383, 455, 19.8}},   // lanes
    {{2.3, 270, 533, 1.78}, {0.46, 398, 737, 0.474}},   // tiles
    {{0.691, 82, 936, 10.9}, {}},                       // dense
};
