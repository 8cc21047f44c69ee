// How many threads there should be, and where they may run.
#pragma once

namespace bqq::detail {

/// BQQ_NUM_THREADS; without it the cores this process may use, capped by OMP_NUM_THREADS. Where OpenMP's variables bind
/// threads (OMP_PROC_BIND, GOMP_CPU_AFFINITY), a run-time library of somebody else may have left one core to the
/// calling thread: then those count that there were when this library was loaded.
int default_threads();

/// threads > 0: as many, at most 1024; else default_threads().
int resolve_threads(int threads);

/// For a new thread: back to the cores of the process where it has inherited a binding of that kind.
void leave_binding();

} // namespace bqq::detail
