// Everything of the C++ interface.
#pragma once

#include "bqq/array.hpp"
#include "bqq/codec.hpp"
#include "bqq/decompose.hpp"
#include "bqq/file.hpp"
#include "bqq/matrix.hpp"
#include "bqq/prepared.hpp"
#include "bqq/vector_index.hpp"

namespace bqq {

/// "1.2.3"
BQQ_API const char* version() noexcept;
/// One "key: value" line each: version, compiler, instruction set in use and available, threads.
BQQ_API std::string config();
/// Name of the instruction set in use: "generic", "avx2", "avx512", ... The environment variable BQQ_ISA caps it; an
/// unknown name or one the machine lacks makes this and every computing call throw Error(unsupported).
BQQ_API const char* isa();

} // namespace bqq
