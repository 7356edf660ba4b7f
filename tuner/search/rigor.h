// What each rigor means: everything that depends on it, in one list.
#ifndef RANKFORGE_TUNER_SEARCH_RIGOR_H_
#define RANKFORGE_TUNER_SEARCH_RIGOR_H_

#include <cstddef>
#include <cstdint>

#include "runtime/table/rigor.h"
#include "tuner/search/search.h"

namespace rankforge {

// Densities that are measured beside the layer's own and 1.
enum class FurtherDensities : uint8_t { kNone, kNearSpread, kAll };

struct RigorSettings {
  Rigor rigor;
  FurtherDensities densities;
  SearchPolicy policy;  // but for seed and margin
  // Of the read bandwidth.
  size_t read_bytes;
  size_t read_rounds;
  // Weights rotate through no more memory than cold ones need.
  bool small_pool;
};

const RigorSettings& SettingsOf(Rigor rigor);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_SEARCH_RIGOR_H_
