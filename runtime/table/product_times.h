// Estimates the times of products that a dispatch table does not hold from what
// they read.
#ifndef RANKFORGE_RUNTIME_TABLE_PRODUCT_TIMES_H_
#define RANKFORGE_RUNTIME_TABLE_PRODUCT_TIMES_H_

#include <cstddef>

#include "base/status.h"
#include "meta/types.h"
#include "runtime/table/table.h"

namespace rankforge {

// A product takes fixed_ns + ns_per_run * runs + ns_per_byte * bytes of the
// weights read. A run is a row of a dense product, or a kept column of a masked
// one.
struct ProductTime {
  double fixed_ns = 0;
  double ns_per_run = 0;
  double ns_per_byte = 0;
};

struct ProductTimes {
  ProductTime dense;
  ProductTime column_mask;
};

// Fitted to the measured buckets of `table` with this type, these activations
// and number of threads, batch 1, by least squares of the relative errors with
// no coefficient below zero. The table may be of another CPU. The root mean
// square of the relative errors is 2 to 8 % (llama-2-7b and tinyllama-1.1b in
// bf16, llama-30m in f32; a Xeon and Zen 3). Without the term for runs it is up
// to 15 %, because with weights in cache a column of 512 outputs costs 1.6
// times as much per byte as one of 2816. Fails, with `name` in the message, if
// the table has no measured bucket of an operation.
Result<ProductTimes> FitProductTimes(const std::string& name,
                                     const DispatchTable& table,
                                     WeightType type, Activations activations,
                                     size_t threads);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_TABLE_PRODUCT_TIMES_H_
