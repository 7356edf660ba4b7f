// RaNA as the paper has it (docs/rana.md): rank adapters for stacked q, k, v
// and for up and gate, a neuron threshold for down, the same share of
// multiply-adds for every adapted layer.
#ifndef RANKFORGE_ADAPT_METHODS_RANA_PAPER_H_
#define RANKFORGE_ADAPT_METHODS_RANA_PAPER_H_

#include "adapt/run/method.h"

namespace rankforge {

std::unique_ptr<Planner> MakeRanaPaperPlanner(const AdaptRun& run);
double SmallestRanaPaperKeep(const ModelConfig& config,
                             const AdaptOptions& options);
Status AdaptBlockRanaPaper(const BlockInputs& inputs,
                           const AdaptOptions& options, double keep,
                           Adapter& adapter);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_RANA_PAPER_H_
