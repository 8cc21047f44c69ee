/* Constants of the kernels that came from a measurement. "build/bench_kernels" is bench/bench_kernels.cpp, one thread,
 * operands in the first-level cache; "Zen 4 class": an AMD EPYC with AVX-512, VNNI and BF16, gcc 12. */
#pragma once

#include "kernels/table.hpp"

/* From the unit in use to the one to fetch, in blocks, to the second-level cache. Zen 4 class, python -m bench.matmul
 * --cache cold: 20 to 30 % faster from memory than into the first-level cache, as fast when hot. The distance itself
 * was tried at that place only. */
constexpr int kPrefetchBlocks = 16;

/* What decides between tables and dense tiles, in billions a second: {table, table_rows, gemm, count}, see bqq_rates.
 * Zen 4 class under BQQ_ISA=avx2, avx512 (tables alone, it has no dense) and vnni. table and table_rows: the columns
 * "lookup" at batch 8 and "tables" of build/bench_kernels; gemm: its last line of a level; count: the tiles of
 * dense.cpp in a product of 256 columns, no bench prints it. */
constexpr bqq_rates kRatesAvx2 = {98, 22, 44, 250};
constexpr double kTableRateAvx512 = 150, kTableRowsAvx512 = 47;
constexpr bqq_rates kRatesVnni = {195, 84, 44, 850};
