/* Constants of the kernels that came from a measurement. "Zen 4 class": an AMD EPYC with AVX-512, VNNI and BF16,
 * gcc 12. build/bench_kernels is bench/bench_kernels.cpp: one thread, operands in the first-level cache. */
#pragma once

#include "kernels/table.hpp"

/* From the unit in use to the one to fetch, in blocks. Zen 4 class, python -m bench.matmul --cache cold: fetching so
 * far ahead into the second-level cache was 20 to 30 % faster from memory than into the first, as fast when hot. Why 16
 * and not another distance was not recorded. */
constexpr int kPrefetchBlocks = 16;

/* Bytes of the tables of one block for the most columns in the lanes: half of a first-level cache of 32 KB. */
constexpr size_t kLaneTableBlock = 16 << 10;
/* What the ways of a product cost at each level (bqq_cost): build/bench_methods calibrate, on a Xeon with AMX, levels
 * capped by BQQ_ISA; build/bench_methods check says how good the choice is on a machine. A Zen 3, which has nothing
 * better than AVX2, looked up and multiplied at the same ratios in prototypes (8 and 23 for 6.7 and 20 of lanes and
 * gemm). The gemm of AVX-512 and VNNI, 11 there, is a middle between it and a Zen 4 (20 of these). NEON: not measured.
 */
constexpr bqq_costs kCostsGeneric = {
    {{36, 2914, 477, 42.2}, {68.7, 15804, 0, 1.52}},  // tables
    {{9.73, 1918, 309, 39.2}, {9.97, 3396, 0, 7.01}}, // lanes
    {{}, {}},                                         // tiles
    {{}, {}},                                         // dense
};
constexpr bqq_costs kCostsAvx2 = {
    {{8.5, 1547, 720, 0.924}, {3.69, 753, 1025, 1.41}}, // tables
    {{6.65, 431, 333, 15.1}, {3.25, 473, 440, 22.6}},   // lanes
    {{}, {}},                                           // tiles
    {{1.98, 165, 1274, 20.5}, {}},                      // dense
};
constexpr bqq_costs kCostsAvx512 = {
    {{5.1, 565, 802, 1.02}, {4.26, 788, 1128, 1.81}}, // tables
    {{3.29, 387, 282, 34.9}, {2.21, 390, 511, 25.1}}, // lanes
    {{}, {}},                                         // tiles
    {{1.56, 235, 1293, 15}, {}},                      // dense
};
constexpr bqq_costs kCostsVnni = {
    {{4.25, 726, 941, 0.926}, {1.53, 421, 1092, 1.07}}, // tables
    {{3.17, 334, 488, 35.3}, {2.16, 368, 534, 30.3}},   // lanes
    {{}, {}},                                           // tiles
    {{0.579, 78, 1272, 15}, {}},                        // dense
};
constexpr bqq_costs kCostsAmx = {
    {{4.3, 786, 1022, 0.763}, {1.48, 451, 1191, 1.17}}, // tables
    {{3.5, 385, 403, 32.3}, {2.24, 374, 581, 29}},      // lanes
    {{2.74, 254, 688, 1.54}, {0.437, 380, 850, 0.798}}, // tiles
    {{0.73, 78, 1228, 11.3}, {}},                       // dense
};
