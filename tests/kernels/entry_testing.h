// What tests over all entries of the registry share.
#ifndef RANKFORGE_TESTS_KERNELS_ENTRY_TESTING_H_
#define RANKFORGE_TESTS_KERNELS_ENTRY_TESTING_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <string>

#include "kernels/registry.h"

namespace rankforge {

// The layout that an entry of this spec runs on.
inline Layout LayoutOf(const VariantSpec& spec) {
  return *std::find_if(kLayouts.begin(), kLayouts.end(),
                       [&](Layout layout) { return Accepts(spec, layout); });
}

inline std::string TestName(
    const testing::TestParamInfo<const KernelEntry*>& info) {
  std::string name = info.param->FullName();
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
  return name;
}

}  // namespace rankforge

#endif  // RANKFORGE_TESTS_KERNELS_ENTRY_TESTING_H_
