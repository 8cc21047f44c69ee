// isa: generic
// level: 0
// arch: any
// flags: -ffp-contract=off
//
// Portable C++: right everywhere, the layer all others stand on.
#include "kernels/codes_inl.hpp"
#include "kernels/lanes_inl.hpp"
#include "kernels/loops_inl.hpp"
#include "kernels/product_portable_inl.hpp"

extern "C" void bqq_kernels_generic(bqq_kernels* table) {
    fill_loops(table);
    fill_lanes(table);
    fill_product(table);
    table->search_code = search_code<PlainScores>;
    table->scan = scan_plain;
    table->costs = kCostsGeneric;
}
