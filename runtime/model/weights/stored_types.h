// The types of `--dtype stored`: what loses nothing, or least, of weights as a
// checkpoint stores them.
#ifndef RANKFORGE_RUNTIME_MODEL_WEIGHTS_STORED_TYPES_H_
#define RANKFORGE_RUNTIME_MODEL_WEIGHTS_STORED_TYPES_H_

#include "base/status.h"
#include "runtime/model/format/checkpoint.h"
#include "runtime/model/weights/model_options.h"
#include "runtime/model/weights/modules.h"

namespace rankforge {

// The types of the matrices of a checkpoint (StoredType), by tensor: of its
// blocks, of its lm_head, or of both. Fails where Pack would: a tensor is
// missing or has another shape.
Result<StoredTypes> StoredTypesOf(const Checkpoint& checkpoint, bool blocks,
                                  bool lm_head);

// The type of the weights of a product: of its tensors if `stored` (may be
// null) has them, else `otherwise`. Tensors of different types are stacked in
// i8_group32, or in f32 if one is a float. Unless the types were chosen, masked
// columns of 4-bit blocks become i8_group32: groups lie along the columns,
// where the blocks of a file do not, and 8 bits lose least of integers that are
// rounded again. Products that turn the residual stream have 8 bits where
// others have 4.
WeightType TypeOf(const ProductSpec& product, WeightType otherwise,
                  const StoredTypes* stored);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_WEIGHTS_STORED_TYPES_H_
