// Products of a model that get one weight type together.
#ifndef RANKFORGE_OPTIMIZE_TYPE_GROUPS_H_
#define RANKFORGE_OPTIMIZE_TYPE_GROUPS_H_

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "meta/types.h"
#include "runtime/model/format/adapter.h"
#include "runtime/model/format/config.h"
#include "runtime/model/weights/model_options.h"
#include "runtime/model/weights/modules.h"
#include "runtime/model/weights/site.h"

namespace rankforge {

// The projections that read at `site` of blocks [begin, end), or the lm_head.
struct TypeGroup {
  std::string name;  // "gate_up of blocks 0 to 9", "lm_head"
  std::optional<Site> site;
  size_t begin = 0;
  size_t end = 0;
};

// Every site of every third of the blocks (of every block, where there are no
// more than three), and the lm_head last. Finer groups cost a measurement each
// and tell less apart than the text resolves.
std::vector<TypeGroup> TypeGroupsOf(const ModelConfig& config);

// Calls use(group, product) for every product of a token, as `adapter` (may be
// null) makes it, with the index of its group.
void ForEachTypedProduct(
    const ModelConfig& config, const Adapter* adapter,
    std::span<const TypeGroup> groups,
    const std::function<void(size_t group, const ProductSpec& product)>& use);

// `types` (one for each group) by tensor: of the dense model and of the adapted
// one, as types files hold them; with `activations`, or f32 where none of
// `types` takes those.
StoredTypes TypesByTensor(const ModelConfig& config, const Adapter* adapter,
                          std::span<const TypeGroup> groups,
                          std::span<const WeightType> types,
                          Activations activations);

// The options of a model with these types, and the activations that `types`
// say. KV caches are f16.
ModelOptions OptionsWith(StoredTypes types, size_t threads);

}  // namespace rankforge

#endif  // RANKFORGE_OPTIMIZE_TYPE_GROUPS_H_
