// How the weights of a model are stored and who runs them.
#ifndef RANKFORGE_RUNTIME_MODEL_WEIGHTS_MODEL_OPTIONS_H_
#define RANKFORGE_RUNTIME_MODEL_WEIGHTS_MODEL_OPTIONS_H_

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "meta/types.h"

namespace rankforge {

// Types of weights by the name of their tensor (stored_types.h, types_file.h).
struct StoredTypes {
  std::map<std::string, WeightType> by_tensor;
  // Whether somebody chose them. A product then has the type of its tensors,
  // whatever it masks, and any layout. Else they are those of the blocks of a
  // file, which some masks and layouts would have to round again.
  bool chosen = false;
  // What was chosen with them, as in ModelOptions.
  std::optional<Activations> activations = std::nullopt;
};

// The type of the KV cache where nobody asks for one. f16 costs Qwen2.5-0.5B
// nothing, bf16 0.0018 nats per token.
constexpr WeightType DefaultKvType(WeightType weights) {
  return weights == WeightType::kF32 ? WeightType::kF32 : WeightType::kF16;
}

// What somebody wants otherwise than the adapter decides about the layers that
// a sequence does without (docs/first.md). All empty: as the adapter decides.
struct SkipOptions {
  struct AlwaysOn {
    size_t first = 1;
    size_t last = 1;
  };
  std::optional<double> threshold = {};  // of rho, instead of the adapter's
  std::optional<size_t> most = {};  // so many at most, those of smallest rho
  std::optional<AlwaysOn> always_on = {};  // so many of each end always run
  std::vector<size_t> layers = {};         // these, whatever the adapter says

  bool empty() const {
    return !threshold && !most && !always_on && layers.empty();
  }
};

struct ModelOptions {
  // Of products whose tensors are not among stored_types (null: none are).
  std::shared_ptr<const StoredTypes> stored_types = nullptr;
  WeightType type = WeightType::kF32;
  WeightType lm_head_type = WeightType::kF32;
  WeightType kv_type = WeightType::kF32;
  // What products do to their inputs, where there are kernels for it
  // (ActivationsFor); none: DefaultActivations of the type of each.
  // CheckActivations says where that means nothing.
  std::optional<Activations> activations = std::nullopt;
  size_t threads = 1;
  double tau_scale = 1;  // multiplies every threshold of the adapter
  // Create packs no block: AdaptBlock does, before the block runs.
  bool blocks_on_demand = false;
  SkipOptions skip = {};
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_WEIGHTS_MODEL_OPTIONS_H_
