/* Constants of the kernels that came from a measurement. "Zen 4 class": an AMD EPYC with AVX-512, VNNI and BF16,
 * gcc 12. build/bench_kernels is bench/bench_kernels.cpp: one thread, operands in the first-level cache. */
#pragma once

#include "kernels/table.hpp"

/* From the unit in use to the one to fetch, in blocks. Zen 4 class, python -m bench.matmul --cache cold: fetching so
 * far ahead into the second-level cache was 20 to 30 % faster from memory than into the first, as fast when hot. Why 16
 * and not another distance was not recorded. */
constexpr int kPrefetchBlocks = 16;

/* By which a product chooses between tables and dense tiles: {table, table_rows, gemm, count} of bqq_rates,
 * the last line of each level of build/bench_kernels. Zen 4 class; one set serves all machines of a level, since the
 * choice needs their ratios only. avx512 changes the tables alone. */
constexpr bqq_rates kRatesAvx2 = {98, 22, 44, 250};
constexpr double kTableRateAvx512 = 150, kTableRowsAvx512 = 47;
constexpr bqq_rates kRatesVnni = {195, 84, 44, 850};

/* Bytes of the tables of one block for the most columns in the lanes: half of a first-level cache of 32 KB. */
constexpr size_t kLaneTableBlock = 16 << 10;
/* Columns from which they are faster in the lanes than in registers, for the two classes. */
constexpr size_t kNever = size_t(1) << 40;
constexpr size_t kLanesGeneric[] = {5, 5}, kLanesAvx2[] = {8, 8}, kLanesAvx512[] = {8, 8}, kLanesVnni[] = {8, kNever};
