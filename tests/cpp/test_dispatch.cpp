#include "check.hpp"

#include "bqq/bqq.hpp"
#include "kernels/dispatch.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>

using namespace bqq::detail;

TEST(generic_is_always_there_and_levels_stack) {
    const auto available = isa_available(), built = isa_built();
    CHECK(!available.empty());
    CHECK_EQ(available.front(), std::string("generic"));
    for (const auto& name : available) CHECK(std::count(built.begin(), built.end(), name) == 1);
    for (const auto& name : available) {
        const bqq_kernels table = kernels_capped(name);
        const void* entries[offsetof(bqq_kernels, tile) / sizeof(void*)]; // those every level has
        std::memcpy(entries, &table, sizeof entries);
        for (const void* entry : entries) CHECK(entry != nullptr); // nothing left unfilled
        CHECK(!table.dense == !table.unit_columns);
        for (const bqq_product& tile : table.tile) CHECK(!tile.tables == !tile.lookup);
    }
}

TEST(the_level_in_use_obeys_the_environment) {
    const char* cap = std::getenv("BQQ_ISA");
    const std::string expected = cap && *cap ? cap : isa_available().back();
    CHECK_EQ(std::string(bqq::isa()), expected);
    CHECK(bqq::config().find("isa: " + expected + "\n") != std::string::npos);
}

TEST(unknown_names_are_errors) { CHECK_THROWS(kernels_capped("avx9"), bqq::Error, "expected one of: generic"); }
