// Which kernels this machine runs.
#pragma once

#include "kernels/table.hpp"

#include <string>
#include <vector>

namespace bqq::detail {

/// The table in use: every level the machine has, up to BQQ_ISA if that is set. Resolved once, on first use.
/// Throws Error(unsupported) if BQQ_ISA names an unknown level or one this machine lacks.
const bqq_kernels& kernels();
const char* isa_in_use();

/// Names of the levels this machine can run, lowest first; and of all levels in this build.
std::vector<std::string> isa_available();
std::vector<std::string> isa_built();

/// The table capped at `name`, for tests that compare levels within one process.
bqq_kernels kernels_capped(const std::string& name);

} // namespace bqq::detail
