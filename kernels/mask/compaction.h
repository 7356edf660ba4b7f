// Moving the set lanes of a vector to the front, as a table of permutations.
#ifndef RANKFORGE_KERNELS_MASK_COMPACTION_H_
#define RANKFORGE_KERNELS_MASK_COMPACTION_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace rankforge {

inline constexpr size_t kCompactionLanes = 8;

// [bits][i]: the position of the i-th set bit, 0 beyond the last.
inline constexpr auto kCompaction = [] {
  std::array<std::array<uint8_t, kCompactionLanes>, 256> table{};
  for (size_t bits = 0; bits < table.size(); ++bits) {
    size_t count = 0;
    for (uint8_t lane = 0; lane < kCompactionLanes; ++lane) {
      if ((bits >> lane & 1) != 0) table[bits][count++] = lane;
    }
  }
  return table;
}();

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_MASK_COMPACTION_H_
