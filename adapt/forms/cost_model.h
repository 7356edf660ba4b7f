// What planners spend: multiply-adds, or the time that a dispatch table says
// products take.
#ifndef RANKFORGE_ADAPT_FORMS_COST_MODEL_H_
#define RANKFORGE_ADAPT_FORMS_COST_MODEL_H_

#include <cstddef>

namespace rankforge {

// A matrix-vector product reads runs of `length` weights each: the rows of a
// dense product, the kept columns of a masked one. It costs
//
//   fixed + runs * (per_run + per_weight * length).
struct ProductCost {
  double fixed = 0;
  double per_run = 0;
  double per_weight = 1;

  double Of(double runs, size_t length) const {
    return fixed + runs * RunCost(length);
  }
  // How many runs may be read for `cost`; negative: the call alone costs more.
  double RunsFor(double cost, size_t length) const {
    return (cost - fixed) / RunCost(length);
  }

 private:
  double RunCost(size_t length) const {
    return per_run + per_weight * static_cast<double>(length);
  }
};

// The unit is the caller's; the default counts multiply-adds. Planners speak of
// costs relative to the dense layer.
struct CostModel {
  ProductCost dense;
  ProductCost column_mask;

  double Dense(size_t rows, size_t cols) const {
    return dense.Of(static_cast<double>(rows), cols);
  }
  // `kept` columns of a masked product.
  double Masked(size_t rows, double kept) const {
    return column_mask.Of(kept, rows);
  }
  // The columns that a masked product may read for `cost`.
  double KeptFor(size_t rows, double cost) const {
    return column_mask.RunsFor(cost, rows);
  }
};

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_FORMS_COST_MODEL_H_
