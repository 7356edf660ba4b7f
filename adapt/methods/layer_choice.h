// Fixed sets of layers that decoding does without, which need no training
// (docs/first.md). The first and the last layer are in none of them.
#ifndef RANKFORGE_ADAPT_METHODS_LAYER_CHOICE_H_
#define RANKFORGE_ADAPT_METHODS_LAYER_CHOICE_H_

#include <map>
#include <string>
#include <vector>

#include "adapt/run/method.h"
#include "base/status.h"

namespace rankforge {

// As the code of Unified Layer Skipping chooses (arXiv 2404.06954): the first
// and the last layer run, and of the others each whose number is a multiple of
// an interval, until as many run as are wanted.
Result<LayerChoice> UnifiedLayers(const LayerChoiceRun& run);
// options.skip layers drawn by options.seed.
Result<LayerChoice> RandomLayers(const LayerChoiceRun& run);
// Those that turn the residual stream least: the mean over tokens of the angle
// between what a layer reads and what it writes, over pi.
Result<LayerChoice> AngularLayers(const LayerChoiceRun& run);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_LAYER_CHOICE_H_
