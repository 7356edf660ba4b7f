#include "adapt/methods/block_builder.h"

#include <optional>
#include <utility>

#include "adapt/calibrate/ordinary_tokens.h"
#include "runtime/model/weights/folded_weights.h"

namespace rankforge {

Result<Matrix<float>> WeightsAt(const AdaptRun& run, size_t layer, Site site) {
  return LoadWeights(run.checkpoint,
                     run.spec.blocks[layer][site].direct.front().tensors);
}

std::string TurnedSlopes(const std::string& module) {
  // A state names them after what follows the last dot.
  return module + "_turned";
}

namespace {

// Gives `forms` the slopes that the state has under `name`, if `form` is of
// them.
Status SetSlopes(const AdaptRun& run, size_t layer, const std::string& name,
                 Form form, LinearForms& forms) {
  if (form != Form::kSloped) return {};
  RANKFORGE_ASSIGN_OR_RETURN(std::vector<float> slopes,
                             run.state.LoadSlopes(layer, name));
  forms.SetSlopes(std::move(slopes));
  return {};
}

// The projection on its calibration inputs, able to take this form. `rotated`
// has the weights of a block in another basis; null: the block has none.
Result<LinearForms> FormsAt(const AdaptRun& run, size_t layer, Site site,
                            Form form, const Matrix<float>& x,
                            const WeightSource* rotated) {
  const ProjectionSpec& projection = run.spec.blocks[layer][site];
  const std::string& module = projection.name;
  const RankGrid grid{.round = run.options.round_d,
                      .costs = run.options.Costs()};
  if (rotated != nullptr && ReadsStream(site)) {
    RANKFORGE_ASSIGN_OR_RETURN(
        Matrix<float> turned,
        LoadWeights(*rotated, projection.direct.front().tensors));
    RANKFORGE_ASSIGN_OR_RETURN(
        LinearForms forms,
        LinearForms::Create(module, std::move(turned), x, IsRank(form), grid,
                            run.model.executor()));
    RANKFORGE_RETURN_IF_ERROR(
        SetSlopes(run, layer, TurnedSlopes(module), form, forms));
    return forms;
  }
  RANKFORGE_ASSIGN_OR_RETURN(Matrix<float> w, WeightsAt(run, layer, site));
  if (IsRank(form)) {
    RANKFORGE_ASSIGN_OR_RETURN(std::optional<RankBasis> basis,
                               run.state.LoadBasis(layer, module));
    if (basis) {
      return LinearForms::InBasis(module, std::move(w), x, *std::move(basis),
                                  grid, run.model.executor());
    }
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      LinearForms forms,
      LinearForms::Create(module, std::move(w), x, IsRank(form), grid,
                          run.model.executor()));
  RANKFORGE_RETURN_IF_ERROR(SetSlopes(run, layer, module, form, forms));
  return forms;
}

}  // namespace

Status BuildBlock(const AdaptRun& run, const BlockChoices& choices,
                  const BuildOptions& options, Calibration& calibration,
                  Adapter& adapter) {
  const size_t layer = calibration.layer();
  const FoldedWeights folded(run.model.config(), run.checkpoint, &adapter);
  const bool turned = adapter.rotation.Of(layer) != nullptr;
  if (turned) {
    RANKFORGE_RETURN_IF_ERROR(
        run.model.AdaptBlock(layer, run.checkpoint, &adapter));
  }
  Matrix<float> x = calibration.First();
  for (const Site site : kSites) {
    const FormChoice& choice = choices[site];
    {
      const Matrix<float> ordinary = RowsOf(
          x,
          OrdinaryTokens({&x}, run.options.window, run.options.SinksApart()));
      RANKFORGE_ASSIGN_OR_RETURN(const LinearForms forms,
                                 FormsAt(run, layer, site, choice.form,
                                         ordinary, turned ? &folded : nullptr));
      // Fewer tokens than inputs do not determine a fit.
      const bool refit = options.refit && ordinary.rows >= ordinary.cols;
      RANKFORGE_RETURN_IF_ERROR(
          forms.AddTo(adapter, choice.form, choice.cost, refit));
      if (options.behind && !adapter.left_dense.contains(forms.module())) {
        RANKFORGE_RETURN_IF_ERROR(
            run.model.AdaptSite(layer, site, run.checkpoint, &adapter));
      }
    }
    x = calibration.Next(site, x);
  }
  return {};
}

}  // namespace rankforge
