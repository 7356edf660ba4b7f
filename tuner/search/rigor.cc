#include "tuner/search/rigor.h"

#include <algorithm>
#include <array>

namespace rankforge {

const RigorSettings& SettingsOf(Rigor rigor) {
  static const std::array<RigorSettings, kRigors.size()> kSettings = {{
      {.rigor = Rigor::kEstimate,
       .densities = FurtherDensities::kNone,
       .policy = {.drops = {{2, 1.5, 8}, {3, 1.25, 4}},
                  .rounds = 5,
                  .other_rounds = 3,
                  .settling_rounds = 0,
                  .twins = 1},
       // In a hurry: just enough to leave the caches behind.
       .read_bytes = size_t{128} << 20,
       .read_rounds = 3,
       .small_pool = true},
      {.rigor = Rigor::kMeasure,
       .densities = FurtherDensities::kNearSpread,
       .policy = {.drops = {{3, 1.5, 16}, {6, 1.2, 8}},
                  .rounds = 25,
                  .other_rounds = 13,
                  .settling_rounds = 75,
                  .twins = 3},
       .read_bytes = size_t{1} << 30,
       .read_rounds = 3,
       .small_pool = false},
      {.rigor = Rigor::kPatient,
       .densities = FurtherDensities::kAll,
       .policy = {.drops = {{3, 1.5, 64}, {6, 1.2, 32}, {12, 1.1, 16}},
                  .rounds = 31,
                  .other_rounds = 21,
                  .settling_rounds = 150,
                  .twins = 8},
       .read_bytes = size_t{1} << 30,
       .read_rounds = 5,
       .small_pool = false},
  }};
  return *std::ranges::find(kSettings, rigor, &RigorSettings::rigor);
}

}  // namespace rankforge
