#include "adapt/methods/block_builder.h"

#include <fmt/format.h>

#include <optional>
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

Result<Matrix<float>> WeightsAt(const AdaptRun& run, size_t layer,
                                Place place) {
  return LoadWeights(
      run.checkpoint,
      ProjectionAt(run.spec.blocks[layer], place).direct.front().tensors);
}

namespace {

// The projection on its calibration inputs, able to take this form.
Result<LinearForms> FormsAt(const AdaptRun& run, size_t layer, Place place,
                            Form form, const Matrix<float>& x) {
  const std::string& module = ProjectionAt(run.spec.blocks[layer], place).name;
  const RankGrid grid{.round = run.options.round_d,
                      .costs = run.options.Costs()};
  RANKFORGE_ASSIGN_OR_RETURN(Matrix<float> w, WeightsAt(run, layer, place));
  if (IsRank(form)) {
    RANKFORGE_ASSIGN_OR_RETURN(std::optional<RankBasis> basis,
                               run.state.LoadBasis(layer, module));
    if (basis) {
      return LinearForms::InBasis(module, std::move(w), x, *std::move(basis),
                                  grid, run.model.executor());
    }
  }
  return LinearForms::Create(module, std::move(w), x, IsRank(form), grid,
                             run.model.executor());
}

}  // namespace

Status BuildBlock(const AdaptRun& run, const BlockChoices& choices,
                  const BuildOptions& options, Calibration& calibration,
                  Adapter& adapter) {
  const size_t layer = calibration.layer();
  Matrix<float> x = calibration.First();
  for (size_t p = 0; p < kPlaces.size(); ++p) {
    const FormChoice& choice = choices[p];
    {
      RANKFORGE_ASSIGN_OR_RETURN(
          const LinearForms forms,
          FormsAt(run, layer, kPlaces[p], choice.form, x));
      RANKFORGE_RETURN_IF_ERROR(
          forms.AddTo(adapter, choice.form, choice.cost, options.refit));
      if (options.behind && !adapter.left_dense.contains(forms.module())) {
        RANKFORGE_RETURN_IF_ERROR(run.model.AdaptSite(
            layer, SiteOf(kPlaces[p]), run.checkpoint, &adapter));
      }
    }
    x = calibration.Next(SiteOf(kPlaces[p]), x);
  }
  return {};
}

}  // namespace rankforge
