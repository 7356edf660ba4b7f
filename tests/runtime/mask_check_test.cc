// Lists of kept groups that a caller hands in.
#include "runtime/plan/mask_check.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace rankforge {
namespace {

std::string MessageFor(const std::vector<uint32_t>& index, size_t groups) {
  const Status status = CheckMaskIndex(index, groups);
  if (status.ok()) return "";
  EXPECT_EQ(status.code(), StatusCode::kUsage);
  EXPECT_EQ(status.message().find('\n'), std::string::npos);
  return status.message();
}

TEST(CheckMaskIndex, AcceptsAscendingNumbersBelowTheEnd) {
  EXPECT_EQ(MessageFor({}, 0), "");
  EXPECT_EQ(MessageFor({}, 5), "");
  EXPECT_EQ(MessageFor({0}, 1), "");
  EXPECT_EQ(MessageFor({0, 1, 4}, 5), "");
}

TEST(CheckMaskIndex, NamesTheFirstWrongEntry) {
  EXPECT_EQ(MessageFor({0, 5}, 5),
            "mask index: entry 1 is 5, but there are 5 groups; give numbers "
            "below that");
  EXPECT_NE(MessageFor({0}, 0), "");
  EXPECT_NE(MessageFor({0xffffffff}, 100), "");
  EXPECT_EQ(MessageFor({0, 3, 2}, 5),
            "mask index: entry 2 is 2 after 3; sort the list and drop repeated "
            "numbers");
  EXPECT_NE(MessageFor({1, 1}, 5), "");
}

}  // namespace
}  // namespace rankforge
