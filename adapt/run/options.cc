#include "adapt/run/options.h"

namespace rankforge {

const std::vector<std::string>& RefinementNames() {
  static const std::vector<std::string> names = {
      "fisher",      "refit",         "behind",
      "cross-layer", "rank-adapters", "input-masks"};
  return names;
}

}  // namespace rankforge
