// The shape of a compressed matrix, and what makes one valid.
#include "arguments.hpp"
#include "bits/pack.hpp"
#include "bqq/matrix.hpp"
#include "memory.hpp"
#include "tuning.hpp"

#include <algorithm>
#include <cmath>

namespace bqq {

using namespace detail;

namespace {

[[noreturn]] void bad_format(const std::string& text) { throw Error(ErrorCode::format, text); }

std::string number(Index value) { return std::to_string(value); }

void require_side(const char* name, Index value) {
    if (value < 1 || value > kMaxSide)
        bad_argument(std::string(name) + " is " + number(value) + ", expected 1 or more");
}

// Planes beyond 2^52 bytes are refused: what is derived from them (a prepared matrix is up to 80 times as large, for
// blocks of one element) then fits 64 bits.
bool addressable(const Layout& a) {
    const double rows = double(a.rows) * double(a.y_row_bytes()), cols = double(a.l) * double(a.z_row_bytes());
    return double(a.J) * double(a.K) * double(a.p) * (rows + cols) <= double(Index(1) << 52);
}

// The pad bits of a row of `bits` bits must be zero, and so must the rows from `rows` on.
void check_padding(const char* name, Index block, const std::uint8_t* plane, Index rows, Index all_rows, Index bits,
                   Index row_bytes) {
    for (Index i = 0; i < all_rows; ++i, plane += row_bytes) {
        const Index used = i < rows ? bits : 0, whole = used / 8;
        bool clean = used % 8 == 0 || plane[whole] >> (used % 8) == 0;
        for (Index b = ceil_div(used, 8); b < row_bytes; ++b) clean = clean && plane[b] == 0;
        if (!clean)
            bad_format(std::string("pad bits of ") + name + " are set in block " + number(block) + ", row " +
                       number(i));
    }
}

} // namespace

Layout make_layout(Index m, Index n, Index p, Index l, Index patch) {
    require_side("m", m);
    require_side("n", n);
    if (p < 1 || p > kMaxStacks) bad_argument("p is " + number(p) + ", expected 1 to " + number(kMaxStacks));
    if (patch < 0 || patch > kMaxBlockSide)
        bad_argument("patch is " + number(patch) + ", expected 1 to " + number(kMaxBlockSide) + ", or none to choose");
    if (patch == 0) patch = std::max(m, n) <= kWholeSide ? kWholeSide : kDefaultPatch;
    Layout a;
    a.m = m, a.n = n, a.p = p;
    a.J = ceil_div(m, patch), a.K = ceil_div(n, patch);
    a.rows = ceil_div(m, a.J), a.cols = ceil_div(n, a.K);
    if (l == 0) {
        const double side = double(a.rows) * double(a.cols) / double(a.rows + a.cols);
        l = std::min(std::max<Index>(1, std::llround(side)), kMaxInner);
    }
    if (l < 1 || l > kMaxInner) bad_argument("l is " + number(l) + ", expected 1 to " + number(kMaxInner));
    a.l = l;
    if (!addressable(a)) bad_argument("a matrix of " + number(m) + " x " + number(n) + " is too large to address");
    return a;
}

void validate(const Layout& a) {
    const std::string shape = "layout " + number(a.m) + " x " + number(a.n) + ", grid " + number(a.J) + " x " +
                              number(a.K) + ", block " + number(a.rows) + " x " + number(a.cols) + ", p " +
                              number(a.p) + ", l " + number(a.l);
    if (a.m < 1 || a.n < 1 || a.m > kMaxSide || a.n > kMaxSide) bad_format(shape + ": sides out of range");
    if (a.rows < 1 || a.cols < 1 || a.rows > kMaxBlockSide || a.cols > kMaxBlockSide)
        bad_format(shape + ": block sides out of range");
    if (a.p < 1 || a.p > kMaxStacks) bad_format(shape + ": p out of range, expected 1 to " + number(kMaxStacks));
    if (a.l < 1 || a.l > kMaxInner) bad_format(shape + ": l out of range, expected 1 to " + number(kMaxInner));
    if (a.J < 1 || a.K < 1 || a.J > a.m || a.K > a.n || a.rows != ceil_div(a.m, a.J) || a.cols != ceil_div(a.n, a.K) ||
        (a.J - 1) * a.rows >= a.m || (a.K - 1) * a.cols >= a.n)
        bad_format(shape + ": the grid does not fit the matrix");
    if (!addressable(a)) bad_format(shape + ": too large to address");
}

namespace {

void check_order(const char* name, const std::uint32_t* order, Index side) {
    if (!order) return;
    if (side > kMaxOrdered) bad_format(std::string(name) + " of " + number(side) + ", expected at most 2^32");
    std::vector<bool> seen(static_cast<std::size_t>(side));
    for (Index i = 0; i < side; ++i) {
        if (order[i] >= side || seen[order[i]])
            bad_format(std::string(name) + " is no permutation: " + number(order[i]) + " at position " + number(i) +
                       (order[i] >= side ? ", expected less than " + number(side) : " occurs twice"));
        seen[order[i]] = true;
    }
}

void check_entries(const View& q) {
    const Layout& a = q.layout;
    if (q.entry_count < 0 || (q.entry_count && !q.entries)) bad_format("entries are missing (null pointer)");
    for (Index i = 0; i < q.entry_count; ++i) {
        const Entry& e = q.entries[i];
        const std::string what = "entry " + number(i) + " at row " + number(e.row) + ", column " + number(e.col);
        if (e.row >= a.m || e.col >= a.n) bad_format(what + ", expected within " + number(a.m) + " x " + number(a.n));
        if (!std::isfinite(e.value)) bad_format(what + " is not finite");
        if (i && !before(q.entries[i - 1], e)) bad_format(what + ": entries are not ascending by row and column");
    }
}

} // namespace

void validate(const View& q) {
    const Layout& a = q.layout;
    validate(a);
    if (!q.Y || !q.Z || !q.scales) bad_format("a plane or the scales are missing (null pointer)");
    for (Index i = 0; i < a.scales_count(); ++i)
        if (!std::isfinite(q.scales[i]))
            bad_format("scale " + number(i % a.scales_per_block()) + " of block " + number(i / a.scales_per_block()) +
                       " is not finite");
    for (Index j = 0; j < a.J; ++j)
        for (Index k = 0; k < a.K; ++k)
            for (Index i = 0; i < a.p; ++i) {
                const Index block = j * a.K + k;
                check_padding("Y", block, q.y_plane(j, k, i), a.rows_of(j), a.rows, a.l, a.y_row_bytes());
                check_padding("Z", block, q.z_plane(j, k, i), a.l, a.l, a.cols_of(k), a.z_row_bytes());
            }
    check_order("row_order", q.row_order, a.m);
    check_order("col_order", q.col_order, a.n);
    check_entries(q);
}

} // namespace bqq
