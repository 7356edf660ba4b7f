// The mixture: every linear layer becomes what is predicted to lose least for
// its cost (dense, a rank adapter, an input mask), and layers share one budget.
//
// What a form loses is predicted from its squared output error, which
// calibration knows for every cost. How that error moves the model's
// predictions is measured, as a divergence, with that form in that layer alone.
// Losses of different layers are taken to add up.
#ifndef RANKFORGE_ADAPT_METHODS_MIXTURE_H_
#define RANKFORGE_ADAPT_METHODS_MIXTURE_H_

#include <memory>
#include <vector>

#include "adapt/methods/block_builder.h"
#include "adapt/methods/plan_search.h"
#include "adapt/run/method.h"

namespace rankforge {

// How method rana builds blocks.
BuildOptions MixtureOptions(const AdaptRun& run);

// A planner that hands these choices to BuildBlock, by block, in the bases of
// `rotation`, which must outlive it. Null: blocks hold the residual stream.
std::unique_ptr<Planner> MakeChoicesPlanner(const AdaptRun& run,
                                            std::vector<BlockChoices> choices,
                                            Rotation* rotation = nullptr);

std::unique_ptr<Planner> MakeMixturePlanner(const StartContext& context);

// Input masks alone, whose losses are predicted by the gradients at the inputs
// (LinearForms::GradientLoss). One price for all layers then keeps x_j of a
// layer with `rows` outputs where (g_j x_j)^2 >= price * rows, g_j the root
// mean square of the gradient: what decides within a layer also divides the
// budget between layers. Null: gradients are not known. The layers are those in
// the bases of `rotation`, which must outlive the planner (null: in none).
std::unique_ptr<Planner> MakeFisherPlanner(const StartContext& context,
                                           Rotation* rotation);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_MIXTURE_H_
