#include "runtime/plan/mask_check.h"

#include <fmt/format.h>

namespace rankforge {

Status CheckMaskIndex(std::span<const uint32_t> index, size_t groups) {
  for (size_t i = 0; i < index.size(); ++i) {
    if (index[i] >= groups) {
      return UsageError(
          fmt::format("mask index: entry {} is {}, but there are {} groups; "
                      "give numbers below that",
                      i, index[i], groups));
    }
    if (i > 0 && index[i] <= index[i - 1]) {
      return UsageError(fmt::format(
          "mask index: entry {} is {} after {}; sort the list and drop "
          "repeated numbers",
          i, index[i], index[i - 1]));
    }
  }
  return {};
}

}  // namespace rankforge
