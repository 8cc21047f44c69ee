// The kernels that every instruction set has in terms of its vector of floats.
#pragma once

#include "kernels/anneal_inl.hpp"
#include "kernels/apply_scales_inl.hpp"
#include "kernels/counts_inl.hpp"
#include "kernels/solver_inl.hpp"

namespace {

void fill_loops(bqq_kernels* table) {
    fill_solver(table);
    fill_anneal(table);
    table->gemm_counts = gemm_counts;
    table->apply_scales = apply_scales;
}

} // namespace
