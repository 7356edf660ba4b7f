#include "adapt/a3/layer_solver.h"

#include <algorithm>
#include <span>

#include "runtime/model/forward/model.h"
#include "runtime/table/table.h"

namespace rankforge {

double A3Run::KeepOf(Component component) const {
  if (!options.components.contains(component)) return 1;
  return options.component_keep[static_cast<size_t>(component)].value_or(
      options.keep);
}

size_t A3Run::WholeWindows(size_t tokens) const {
  const size_t windows = std::max<size_t>(1, tokens / options.window);
  return std::min(sample.size(), windows * options.window);
}

// The forward pass, and as much again for the moments.
double A3Run::SolveWork(size_t layer, size_t tokens) const {
  return 2 * static_cast<double>(config.BlockMacs(layer)) *
         static_cast<double>(tokens);
}

Result<SolvedLayer> SolveLayer(const A3Run& run, size_t layer,
                               Matrix<float>& hidden) {
  const AdaptOptions& options = run.options;
  SolvedLayer solved;
  solved.config = OneLayerConfig(run.config, layer);
  const OneLayerWeights source(run.config, layer, run.checkpoint);
  RANKFORGE_ASSIGN_OR_RETURN(
      Model model,
      Model::Create(solved.config, source, nullptr, Dispatcher(nullptr),
                    {.type = run.type,
                     .lm_head_type = run.type,
                     .threads = options.threads},
                    MakeDefaultExecutor(options.threads)));
  if (layer == 0) {
    RANKFORGE_RETURN_IF_ERROR(model.Embed(
        std::span(run.sample).first(hidden.rows), hidden.values.data()));
  }
  const bool correlations =
      run.Refines(Refinement::kRefitDown) || run.Refines(Refinement::kRefitO);
  RunLayer(model, options.window, correlations, hidden, solved.moments);
  RANKFORGE_ASSIGN_OR_RETURN(solved.weights,
                             LoadBlock(run.checkpoint, run.spec.blocks[layer]));
  RANKFORGE_ASSIGN_OR_RETURN(
      solved.solutions,
      LayerSolutions::Make(solved.config, solved.weights, solved.moments,
                           run.Refines(Refinement::kGroupOutputs)));
  run.checkpoint.ReleasePages();
  return solved;
}

}  // namespace rankforge
