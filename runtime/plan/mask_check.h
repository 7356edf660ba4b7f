// Checks masks that a caller hands in; mask producers trust them.
#ifndef RANKFORGE_RUNTIME_PLAN_MASK_CHECK_H_
#define RANKFORGE_RUNTIME_PLAN_MASK_CHECK_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"

namespace rankforge {

// Fails unless `index` is a list for MaskFromIndex: ascending, each number
// once, all below `groups`. Bits and bytes need no check, since every value of
// them is valid.
Status CheckMaskIndex(std::span<const uint32_t> index, size_t groups);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_PLAN_MASK_CHECK_H_
