// W in the order of the blocks, with the entries that are kept apart, for a search that knows of neither.
#pragma once

#include "bqq/decompose.hpp"

namespace bqq::detail {

/// Whether a decomposition under these options carries an order or entries. Throws Error(invalid_argument) for options
/// that make no sense.
bool is_arranged(const DecomposeOptions& options);

/// A decomposition of W with an order and entries, as one without. Copies W and weight.
class Arranged {
  public:
    /// The order and entries of the options for W, m x n as the layout has it; checks W and weight.
    Arranged(const Layout& layout, const float* W, Index ldw, const DecomposeOptions& options);
    /// Those of q, whatever the options are.
    Arranged(const View& q, const float* W, Index ldw, const DecomposeOptions& options);

    /// What is decomposed: where there are entries, the mean of the rest of their block stands.
    const float* W() const { return masked_.data(); }
    Index ldw() const { return layout_.n; }
    /// With the weight in that order.
    const DecomposeOptions& options() const { return options_; }
    /// Gives q, the blocks found, the orders and the entries: each what is left over at its place or, with a whole
    /// weight, what makes the error of its row least.
    void complete(Matrix& q) const;

  private:
    void arrange(const float* W, Index ldw);
    void mask();
    std::vector<double> entries_of_row(const float* error, const Entry* first, Index count) const;

    Layout layout_;
    DecomposeOptions options_;
    std::vector<std::uint32_t> row_order_, col_order_;
    std::vector<Entry> entries_;
    std::vector<float> W_, masked_, weight_;
};

} // namespace bqq::detail
