// From a real matrix to a compressed one.
#pragma once

#include "bqq/matrix.hpp"

#include <functional>

namespace bqq {

/// How annealed mean-field descent chooses its normaliser, temperatures and length.
enum class Schedule : int {
    /// Data-driven: the residual is divided by six standard deviations (the range is at the mercy of one outlier, and
    /// too small on two-level data for the descent to be stable), and a stack ends once every variable has settled.
    adaptive = 0,
    /// The paper's: W divided by max - min, T from 0.2 to 0.005, eta 0.06, zeta 4, always all steps; 50,000 by default.
    /// No refinement unless asked for.
    paper = 1,
};

/// How long to search; standard is "default" in Python. Descent steps and refinement sweeps per stack: fast 1,000 and
/// 1,500, standard 2,000 and 20,000, best 2,000 and 64,000 from the best of four descents; for l above 64
/// proportionally fewer sweeps, down to a quarter. Where refinement gains less than 6 %, a second descent of 10,000
/// (best: 20,000) steps follows, refined gently, unless steps or refine are given; with more than 1.2 times the default
/// l, less than 30 % and three times the steps. With a whole weight 100 steps, and 1,000, 5,000 and 64,000 sweeps, with
/// no second descent.
enum class Effort : int { standard = 0, fast = 1, best = 2 };

/// In which order columns go into blocks. The result carries it.
enum class Order : int {
    none = 0,  ///< as they are
    weight = 1 ///< by falling diagonal of weight: what matters most first, so that its error is made good behind it
};

/// DecomposeOptions::refine: the effort's sweeps, under Schedule::paper too.
constexpr Index kRefineOfEffort = -2;

struct DecomposeOptions {
    Index l = 0;     ///< inner dimension; 0: round(rows*cols/(rows+cols)) of a block. Ignored by extend
    Index patch = 0; ///< largest block side; 0: see make_layout; with a whole weight the one near 128, 96 to 192, that
                     ///< fits m and n (l = 0: within 1 % of the fewest bits). Ignored by extend
    Schedule schedule = Schedule::adaptive;
    Effort effort = Effort::standard;
    Index steps = 0; ///< descent steps per stack; 0: the schedule's or the effort's
    /// Refinement sweeps per stack; 0: the effort's (none under Schedule::paper); -1: none; kRefineOfEffort.
    Index refine = 0;
    /// NULL: the error is the sum of squares of E = W - W_hat. Else tr(E H E^T), H the n x n second moment X^T X of the
    /// inputs a layer sees (samples x n), symmetric and positive semidefinite, with ldweight >= n floats between rows;
    /// ldweight 0: the n numbers of its diagonal. Bits are refined and scales solved in this metric, and the error of
    /// each column patch is moved into those still to come (GPTQ). Only read during the call.
    const float* weight = nullptr;
    Index ldweight = 0;
    double damping = 0;        ///< this share of the mean of weight's diagonal is added to it; 0: 0.1; negative: none
    Order order = Order::none; ///< of the columns. Ignored by extend and encode, as outliers
    /// Elements further than this many standard deviations from the mean of their block are no part of the blocks: the
    /// result has an entry for each, which is what is left over there or, with a whole weight, what makes the error of
    /// its row least. 0: none.
    double outliers = 0;
    std::uint64_t seed = 0;
    int threads = 0; ///< 0: BQQ_NUM_THREADS, OMP_NUM_THREADS, else the cores of this process
    /// Called on the calling thread a few times a second and once at the end with the steps and sweeps done so far and
    /// in all; returning false stops the work within one step and makes the call throw Error(cancelled).
    std::function<bool(Index done, Index total)> progress;
};

/// The layout of what decompose makes of an m x n matrix with p stacks. Throws Error(invalid_argument).
BQQ_API Layout make_layout(Index m, Index n, Index p, const DecomposeOptions& options);

/// W is m x n, row-major with ldw >= n elements between rows, finite, at most 1e38 in size. Stacks are found one after
/// the other on the residual (paper, section 3); after each, all scales of the block are solved exactly in float64. The
/// result depends on (W, p, l, patch, schedule, effort, steps, refine, weight, damping, order, outliers, seed) and the
/// instruction set only: not on threads. Time: about 8 rows*cols*l flop per step, stack and block. Memory: W is read in
/// place, with order or outliers copied two or three times; about 8 block-sized float arrays per thread. Throws
/// Error(invalid_argument | cancelled), std::bad_alloc.
BQQ_API Matrix decompose(const float* W, Index m, Index n, Index ldw, Index p, const DecomposeOptions& options = {});

/// Adds stacks to q until it has p: the bits of the old stacks, the orders and the places of entries stay, all scales
/// and entries are solved again.
/// extend(decompose(W, p1), W, p2) equals decompose(W, p2) bit for bit under equal options, unless a weight that is a
/// whole matrix makes the patches of a row depend on each other.
BQQ_API Matrix extend(const View& q, const float* W, Index ldw, Index p, const DecomposeOptions& options = {});

/// New rows for q, whose Z and scales stay as they are: m x q.n, row-major with ldrows >= n elements between rows. The
/// bits of all stacks of a row are found together; the order of the columns is that of q, entries there are none. q has
/// one block row. A row's bits depend on the row, q, effort,
/// steps, seed, weight and damping alone: not on the rows beside it. Of the options, steps is the number of flips of
/// each of p + 2 searches (0: the effort's), and l, patch, schedule and refine are ignored. O(p l) a flip; (p l)^2
/// floats of memory a block column. Throws Error(invalid_argument | cancelled), std::bad_alloc.
BQQ_API Matrix encode(const View& q, const float* rows, Index m, Index ldrows, const DecomposeOptions& options = {});

} // namespace bqq
