// Which size each component of each layer gets.
#ifndef RANKFORGE_ADAPT_A3_SIZE_SEARCH_H_
#define RANKFORGE_ADAPT_A3_SIZE_SEARCH_H_

#include <vector>

#include "adapt/a3/layer_solver.h"
#include "base/status.h"

namespace rankforge {

// By layer. Layers share a budget, spent where the model's predictions lose
// least, or all of them keep the same share (`uniform`, without mixed-ranks).
// Adds its steps to the meter and goes on where the state is.
Result<std::vector<Sizes>> ChooseSizes(A3Run& run);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_A3_SIZE_SEARCH_H_
