// What the type of a group of products does to a model's predictions.
#ifndef RANKFORGE_OPTIMIZE_SENSITIVITIES_H_
#define RANKFORGE_OPTIMIZE_SENSITIVITIES_H_

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "base/status.h"
#include "meta/types.h"
#include "optimize/type_groups.h"
#include "runtime/model/format/checkpoint.h"

namespace rankforge {

struct SensitivityOptions {
  size_t window = 256;
  size_t threads = 1;
  Activations activations = Activations::kF32;  // as in ModelOptions
  // Sees (blocks done, all blocks); may be empty.
  std::function<void(size_t, size_t)> progress = {};
};

// By group and by type of `types`: the mean over `ids` (whole windows) of the
// Kullback-Leibler divergence in nats from the dense model's predictions when
// the weights of this group alone have that type, with its activations. The
// dense model has the type that holds its checkpoint (StoredType). A few states
// of (ids, hidden) for each group and type are in memory, and one block of
// weights for each type. Errors: no whole window, weights that are missing or
// do not fit a type.
Result<std::vector<std::vector<double>>> MeasureSensitivities(
    const Checkpoint& checkpoint, std::span<const int> ids,
    std::span<const TypeGroup> groups, std::span<const WeightType> types,
    const SensitivityOptions& options);

}  // namespace rankforge

#endif  // RANKFORGE_OPTIMIZE_SENSITIVITIES_H_
