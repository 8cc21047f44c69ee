/* Constants of the kernels that came from a measurement. "Zen 4 class": an AMD EPYC with AVX-512, VNNI and BF16,
 * gcc 12. build/bench_kernels is bench/bench_kernels.cpp: one thread, operands in the first-level cache. */
#pragma once

#include "kernels/table.hpp"

/* From the unit in use to the one to fetch, in blocks. Zen 4 class, python -m bench.matmul --cache cold: fetching so
 * far ahead into the second-level cache was 20 to 30 % faster from memory than into the first, as fast when hot. Why 16
 * and not another distance was not recorded. */
constexpr int kPrefetchBlocks = 16;

/* By which a product chooses between tables and dense tiles: {table, table_rows, gemm, count} of bqq_rates, as the last
 * line of each level of build/bench_kernels has them; the choice needs their ratios only. Of AVX2 on a Zen 3, which has
 * nothing better. From AVX-512 on the gemm is a middle between Zen 4 (44) and Xeons with two 512-bit units (85). */
constexpr bqq_rates kRatesAvx2 = {125, 18, 44, 240};
constexpr double kTableRateAvx512 = 200, kTableRowsAvx512 = 10, kGemmAvx512 = 60;
constexpr double kCountVnni = 860;

/* Bytes of the tables of one block for the most columns in the lanes, and of those of a product of bits and counts:
 * half of a first-level cache of 32 KB. */
constexpr size_t kLaneTableBlock = 16 << 10;
/* Columns from which they are faster in the lanes than in registers, for the two classes, idle lanes counted: 4096 x
 * 4096, p = 2, bench.matmul with --batch on a Xeon with AMX, levels capped by BQQ_ISA. AVX2: Zen 3 as well, by the
 * rates of prototypes. */
constexpr size_t kNever = size_t(1) << 40;
constexpr size_t kLanesGeneric[] = {5, 5}, kLanesAvx2[] = {5, 12}, kLanesAvx512[] = {15, 18},
                 kLanesVnni[] = {14, kNever};
