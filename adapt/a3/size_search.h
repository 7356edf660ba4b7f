// Which size each component of each layer gets.
#ifndef RANKFORGE_ADAPT_A3_SIZE_SEARCH_H_
#define RANKFORGE_ADAPT_A3_SIZE_SEARCH_H_

#include <vector>

#include "adapt/a3/layer_solver.h"
#include "base/status.h"

namespace rankforge {

// The sizes by layer. Layers share a budget, which is cut where the model's
// predictions lose least. With `uniform`, or without mixed-ranks, all layers
// keep the same share. Adds its steps to the meter, and goes on from the state.
Result<std::vector<Sizes>> ChooseSizes(A3Run& run);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_A3_SIZE_SEARCH_H_
