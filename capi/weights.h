// Packed weights, and those that lie where the caller has them.
#ifndef RANKFORGE_CAPI_WEIGHTS_H_
#define RANKFORGE_CAPI_WEIGHTS_H_

#include <memory>

#include "capi/handle.h"
#include "include/rankforge/rankforge.h"
#include "runtime/plan/packed_matrix.h"

namespace rankforge::capi {

struct Weights {
  PackedMatrix matrix;
  // Rows of the caller's: nothing follows the last one.
  bool adopted = false;
};

std::shared_ptr<const Weights> WeightsOf(const rankforge_weights* weights,
                                         const char* name);

}  // namespace rankforge::capi

// NOLINTNEXTLINE(readability-identifier-naming): a name of the C header
struct rankforge_weights
    : rankforge::capi::HandleOf<rankforge::capi::Weights, 3> {};

namespace rankforge::capi {
using WeightsPool = HandlePool<rankforge_weights>;
}  // namespace rankforge::capi

#endif  // RANKFORGE_CAPI_WEIGHTS_H_
