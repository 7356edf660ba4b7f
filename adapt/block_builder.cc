#include "adapt/block_builder.h"

#include <fmt/format.h>

#include <utility>

namespace rankforge {

const char* Name(Place place) {
  switch (place) {
    case Place::kQkv:
      return "qkv";
    case Place::kO:
      return "o";
    case Place::kGateUp:
      return "gate_up";
    case Place::kDown:
      return "down";
  }
  return "";
}

const ProjectionSpec& ProjectionAt(const BlockSpec& block, Place place) {
  switch (place) {
    case Place::kQkv:
      return block.qkv;
    case Place::kO:
      return block.o;
    case Place::kGateUp:
      return block.gate_up;
    case Place::kDown:
      break;
  }
  return block.down;
}

const Matrix<float>& InputsAt(const Calibration::LayerInputs& inputs,
                              Place place) {
  switch (place) {
    case Place::kQkv:
      return inputs.attention;
    case Place::kO:
      return inputs.o;
    case Place::kGateUp:
      return inputs.mlp;
    case Place::kDown:
      break;
  }
  return inputs.down;
}

Result<LinearForms> FormsAt(const AdaptRun& run, size_t layer, Place place,
                            const Calibration::LayerInputs& inputs,
                            bool with_ranks) {
  const ProjectionSpec& projection =
      ProjectionAt(run.spec.blocks[layer], place);
  RANKFORGE_ASSIGN_OR_RETURN(
      Matrix<float> w,
      LoadWeights(run.checkpoint, projection.direct.front().tensors));
  return LinearForms::Create(
      projection.name, std::move(w), InputsAt(inputs, place), with_ranks,
      {.round = run.options.round_d, .costs = run.options.Costs()},
      run.model.executor());
}

Status BuildBlocks(const AdaptRun& run,
                   const std::vector<BlockChoices>& choices,
                   const BuildOptions& options, Adapter& adapter) {
  RANKFORGE_ASSIGN_OR_RETURN(
      Calibration calibration,
      Calibration::Start(run.model, run.sample, run.options.window));
  for (size_t layer = 0; layer < choices.size(); ++layer) {
    Calibration::LayerInputs inputs = calibration.PeekLayer();
    for (size_t p = 0; p < kPlaces.size(); ++p) {
      const FormChoice& choice = choices[layer][p];
      RANKFORGE_ASSIGN_OR_RETURN(
          const LinearForms forms,
          FormsAt(run, layer, kPlaces[p], inputs, IsRank(choice.form)));
      RANKFORGE_RETURN_IF_ERROR(
          forms.AddTo(adapter, choice.form, choice.cost, options.refit));
      const bool dense = adapter.left_dense.contains(forms.module());
      if (dense || !options.behind) continue;
      RANKFORGE_RETURN_IF_ERROR(
          run.model.AdaptBlock(layer, run.checkpoint, &adapter));
      // What the places behind this one read now.
      if (kPlaces[p] != Place::kDown) inputs = calibration.PeekLayer();
    }
    calibration.SkipLayer();
    run.step(fmt::format("layer {}", layer));
  }
  for (size_t layer = 0; layer < choices.size(); ++layer) {
    RANKFORGE_RETURN_IF_ERROR(
        run.model.AdaptBlock(layer, run.checkpoint, nullptr));
  }
  return {};
}

}  // namespace rankforge
