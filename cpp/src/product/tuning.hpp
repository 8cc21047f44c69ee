// Constants of the product that came from a measurement, or were chosen. "Zen 4 class": an AMD EPYC with AVX-512, VNNI
// and BF16, two cores, gcc 12; bench/results/matmul*.csv are its results of bench.matmul.
#pragma once

#include "bqq/error.hpp"
#include "kernels/tuning.hpp"

namespace bqq::detail {

// ---- tables ----

/// Bytes of the tables of one call: within a first-level cache of 32 KB. Chosen, not measured.
constexpr Index kTablesBytes = 32 << 10;
/// Blocks whose tables are built at a time for one, two, and more columns: what fits into half of kTablesBytes, and for
/// kMaxVectors columns into all of it; multiples of kChunkBlocks. Chosen, not measured.
constexpr Index kTableBlocks[3] = {32, 16, 8};
/// Blocks whose sums are added up one after the other in float32; those of more go together afterwards, so that the
/// float32 class keeps its digits in blocks 100,000 wide. A multiple of all numbers above. Chosen.
constexpr Index kSumBlocks = 64;
/// Rows of stage 1 that share tables, so that building them (12 ns a block and column in the float32 class, "tables" of
/// bench_kernels, Zen 4 class) costs little beside looking up. Chosen from that rate.
constexpr Index kTallRows = 2048;
/// Bytes between the stages: half of a second-level cache of 1 MB. Chosen, not measured.
constexpr Index kStageBytes = 512 << 10;
/// Columns of X that are held in float32 together. Chosen, not measured.
constexpr Index kColumnsAtOnce = 64;

/// Bytes of the tables of one call of the kernels with columns in the lanes: a block's for the most columns.
constexpr Index kLaneTables = Index(kLaneTableBlock);
/// Panels whose sums gather in memory together: of 64 columns of 16 bits 256 KB, in a second-level cache. A table is
/// built again for the next ones. Chosen, not measured.
constexpr Index kLanePanels = 128;

// ---- which method ----

/// Rows of both stages from which matrix units are used and, in the float32 class, tables of bytes: below a panel units
/// multiply padding, and sums of few rows that cancel show the 16 and 21 bits of the operands (2.4e-5 of a result with
/// l = 1, 4.6e-5 of one with m = 1, against the 2e-5 of the float32 class; test_matmul.py).
constexpr Index kRoundedRows = kPanelRows;
/// Columns for which a dense tile of W_hat is made once, a multiple of those that go together otherwise (workspaces
/// rely on it). Chosen; bench.matmul shows its effect. What each method costs stands in kernels/tuning.hpp.
constexpr Index kDenseColumns = 256;
/// Columns of such a tile; its rows are a group of panels, so that it takes 64 KB. Chosen, not measured.
constexpr Index kDenseTileColumns = kTileColumns;

// ---- threads ----

/// Bit operations below which threads cost more than they bring: about 0.15 ms on one core of Zen 4 class.
/// bench.matmul compares one and two threads; with which shapes this was set is not recorded.
constexpr double kThreadedWork = 2e7;
/// Tasks a thread should find: fewer block rows go together until there are so many ...
constexpr Index kTasksPerThread = 4;
/// ... and below this number the two stages run one after the other, cut by rows. Both chosen, not measured.
constexpr Index kFewTasksPerThread = 2;
/// Rows of a task of a stage that runs alone, at the least, so that its tables pay; and tasks a thread should find
/// there. Chosen, not measured.
constexpr Index kStageRows = 512, kStageTasksPerThread = 3;

} // namespace bqq::detail
