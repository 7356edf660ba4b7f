#include "runtime/model/forward/blas.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "base/openblas_kernels.h"

extern "C" char* openblas_get_corename();

namespace rankforge {
namespace {

// OpenBLAS chooses by the model of the CPU, and knows none younger than itself.
TEST(BlasTest, UsesTheInstructionsOfThisCpu) {
  if (OpenBlasKernels() == nullptr) GTEST_SKIP() << "a CPU without AVX2";
  PrepareBlas();
  const std::set<std::string> older = {
      "Katmai",       "Coppermine", "Northwood", "Prescott",    "Banias",
      "Atom",         "Core2",      "Penryn",    "Dunnington",  "Nehalem",
      "Athlon",       "Opteron",    "Barcelona", "Sandybridge", "Bulldozer",
      "Opteron_SSE3", "Bobcat",     "Nano",      "Piledriver",  "Steamroller"};
  EXPECT_EQ(older.count(openblas_get_corename()), 0)
      << openblas_get_corename() << " instead of " << OpenBlasKernels();
}

}  // namespace
}  // namespace rankforge
