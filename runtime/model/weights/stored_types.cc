#include "runtime/model/weights/stored_types.h"

#include <optional>

namespace rankforge {
namespace {

WeightType Joint(WeightType a, WeightType b) {
  if (a == b) return a;
  return IsQuantized(a) && IsQuantized(b) ? WeightType::kI8Group32
                                          : WeightType::kF32;
}

}  // namespace

Result<StoredTypes> StoredTypesOf(const Checkpoint& checkpoint, bool blocks,
                                  bool lm_head) {
  const ModelSpec spec = DescribeModel(checkpoint.config(), nullptr);
  StoredTypes types;
  const auto add = [&](const ProductSpec& product) -> Status {
    for (const TensorShape& tensor : product.tensors) {
      RANKFORGE_ASSIGN_OR_RETURN(
          types.by_tensor[tensor.name],
          checkpoint.StoredTypeOf(tensor.name, tensor.rows, tensor.cols));
    }
    return {};
  };
  if (blocks) {
    for (const BlockSpec& block : spec.blocks) {
      for (const ProjectionSpec& projection : block.projections) {
        RANKFORGE_RETURN_IF_ERROR(add(projection.direct.front()));
      }
    }
  }
  if (lm_head) RANKFORGE_RETURN_IF_ERROR(add(spec.lm_head));
  return types;
}

WeightType TypeOf(const ProductSpec& product, WeightType otherwise,
                  const StoredTypes* stored) {
  if (product.turns_stream) {
    return FormatOf(otherwise).bits == 4 ? WeightType::kI8Group32 : otherwise;
  }
  if (stored == nullptr) return otherwise;
  std::optional<WeightType> joint;
  for (const TensorShape& tensor : product.tensors) {
    const auto found = stored->by_tensor.find(tensor.name);
    if (found == stored->by_tensor.end()) return otherwise;
    joint = joint ? Joint(*joint, found->second) : found->second;
  }
  const bool nibbles = FormatOf(*joint).bits == 4;
  return nibbles && !stored->chosen &&
                 product.operation == Operation::kColumnMask
             ? WeightType::kI8Group32
             : *joint;
}

}  // namespace rankforge
