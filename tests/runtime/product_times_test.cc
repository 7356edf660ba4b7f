#include "runtime/table/product_times.h"

#include <gtest/gtest.h>

#include <string>

namespace rankforge {
namespace {

// A table whose products take `fixed` nanoseconds, `run` for each run and read
// 1 / slope bytes in one more.
class ProductTimesTest : public testing::Test {
 protected:
  void Add(Operation operation, size_t rows, double density, double fixed,
           double slope, size_t n = 9, double run = 0) {
    const double bytes = WeightBytes(WeightType::kBf16,
                                     density * static_cast<double>(rows) * 512);
    const double runs = operation == Operation::kColumnMask
                            ? density * 512
                            : static_cast<double>(rows);
    Bucket bucket;
    bucket.ns = {.median = fixed + run * runs + slope * bytes, .n = n};
    bucket.useful_gbps = bytes / bucket.ns.median;
    TableEntry entry;
    entry.problem = {.operation = operation,
                     .rows = rows,
                     .cols = 512,
                     .type = WeightType::kBf16,
                     .threads = 2};
    entry.decision.by_density = {bucket};
    table_.entries.push_back(entry);
  }
  Result<ProductTimes> Fit() const {
    return FitProductTimes("the table", table_, WeightType::kBf16,
                           Activations::kF32, 2);
  }

  DispatchTable table_;
};

TEST_F(ProductTimesTest, FindsTheCoefficientsOfEachOperation) {
  for (const size_t rows : {256, 1000, 4096}) {
    Add(Operation::kDense, rows, 1, 3000, 0.05);
    for (const double density : {0.2, 0.6}) {
      Add(Operation::kColumnMask, rows, density, 1500, 0.0625, 9, 30);
    }
  }
  const Result<ProductTimes> times = Fit();
  ASSERT_TRUE(times.ok()) << times.status().message();
  // All have as long rows: what a run costs is in its bytes or beside them.
  EXPECT_NEAR(times->dense.fixed_ns, 3000, 1e-3);
  EXPECT_NEAR(times->dense.ns_per_byte + times->dense.ns_per_run / 1024, 0.05,
              1e-9);
  EXPECT_NEAR(times->column_mask.fixed_ns, 1500, 1e-3);
  EXPECT_NEAR(times->column_mask.ns_per_run, 30, 1e-6);
  EXPECT_NEAR(times->column_mask.ns_per_byte, 0.0625, 1e-9);
}

TEST_F(ProductTimesTest, OneSizeOrANegativeFixedPartLeavesThatOut) {
  Add(Operation::kDense, 256, 1, 3000, 0.05);
  Add(Operation::kColumnMask, 256, 0.5, -4000, 0.05);
  Add(Operation::kColumnMask, 1024, 0.5, -4000, 0.05);
  const Result<ProductTimes> times = Fit();
  ASSERT_TRUE(times.ok()) << times.status().message();
  const double bytes = 256 * 512 * 2;
  EXPECT_EQ(times->dense.fixed_ns, 0);
  EXPECT_NEAR(times->dense.ns_per_byte * bytes + times->dense.ns_per_run * 256,
              3000 + 0.05 * bytes, 1e-6);
  EXPECT_EQ(times->column_mask.fixed_ns, 0);
  EXPECT_GT(times->column_mask.ns_per_byte, 0.01);
  EXPECT_LT(times->column_mask.ns_per_byte, 0.05);
}

TEST_F(ProductTimesTest, WhatWasNotMeasuredOrIsOfAnotherKindIsNotAsked) {
  for (const size_t rows : {256, 1024}) {
    Add(Operation::kDense, rows, 1, 3000, 0.05);
    Add(Operation::kColumnMask, rows, 0.5, 1500, 0.0625);
    Add(Operation::kDense, rows, 1, 77777, 1, 0);
    Add(Operation::kDense, rows, 1, 77777, 1);
    table_.entries.back().problem.threads = 1;
    Add(Operation::kDense, rows, 1, 77777, 1);
    table_.entries.back().problem.type = WeightType::kF32;
    Add(Operation::kDense, rows, 1, 77777, 1);
    table_.entries.back().problem.batch = 4;
    Add(Operation::kRowMask, rows, 1, 77777, 1);
  }
  EXPECT_NEAR(Fit()->dense.fixed_ns, 3000, 1e-3);
}

TEST_F(ProductTimesTest, SaysWhatIsMissing) {
  Add(Operation::kDense, 256, 1, 3000, 0.05);
  const Result<ProductTimes> times = Fit();
  ASSERT_FALSE(times.ok());
  for (const char* part :
       {"the table", "column_mask", "bf16", "2 threads", "tune"}) {
    EXPECT_NE(times.status().message().find(part), std::string::npos) << part;
  }
}

}  // namespace
}  // namespace rankforge
