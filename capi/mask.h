// Masks as callers describe them, made into what kernels read.
#ifndef RANKFORGE_CAPI_MASK_H_
#define RANKFORGE_CAPI_MASK_H_

#include <cstddef>
#include <string_view>

#include "include/rankforge/rankforge.h"
#include "kernels/mask/mask.h"

namespace rankforge::capi {

// The mask over v (count,), whose arrays are checked. v is null for a row mask,
// which needs a score.
MaskView MakeCallMask(const rankforge_mask* given, const float* v, size_t count,
                      size_t granularity, const MaskStorage& storage,
                      MaskArrays arrays);

// A THRESHOLD without score, as plans keep them; its arrays are the caller's.
ThresholdRule ReadRule(const rankforge_mask* rule, std::string_view name);

}  // namespace rankforge::capi

#endif  // RANKFORGE_CAPI_MASK_H_
