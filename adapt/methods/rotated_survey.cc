#include "adapt/methods/rotated_survey.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "adapt/calibrate/calibration.h"
#include "adapt/calibrate/ordinary_tokens.h"
#include "adapt/methods/block_builder.h"
#include "adapt/methods/block_survey.h"
#include "adapt/methods/mixture.h"
#include "adapt/methods/plan_judge.h"
#include "adapt/methods/probe_plan.h"
#include "adapt/methods/rotated.h"
#include "adapt/methods/stream_bases.h"
#include "runtime/model/forward/norm.h"
#include "runtime/model/weights/folded_weights.h"

namespace rankforge {
namespace {

// Tokens whose masks are compared: as many as GradientLoss reads.
constexpr size_t kTokens = 2048;

std::string FisherName(size_t layer, Site site) {
  return fmt::format("fisher.{}.{}", layer, static_cast<size_t>(site));
}

class RotatedSurveyor {
 public:
  // `rotated` has the bases.
  RotatedSurveyor(const AdaptRun& run, const Adapter& rotated,
                  const std::vector<BudgetedLayer>& layers)
      : run_(run), adapter_(rotated), layers_(layers) {}

  Result<std::vector<BudgetedLayer>> Run() {
    const size_t window = run_.options.window;
    const size_t windows = std::max(kTokens / window, size_t{1});
    const std::span<const int> sample =
        run_.sample.first(std::min(windows * window, run_.sample.size()));
    const size_t blocks = run_.spec.blocks.size();
    RANKFORGE_ASSIGN_OR_RETURN(Calibration calibration,
                               Calibration::Start(run_.model, sample, window));
    for (size_t layer = 0; layer < blocks; ++layer) {
      RANKFORGE_RETURN_IF_ERROR(RunBlock(calibration));
    }
    return std::move(layers_);
  }

 private:
  Status RunBlock(Calibration& calibration) {
    const size_t layer = calibration.layer();
    RANKFORGE_RETURN_IF_ERROR(
        run_.model.AdaptBlock(layer, run_.checkpoint, &adapter_));
    Matrix<float> x = calibration.First();
    for (const Site site : kSites) {
      if (ReadsStream(site)) {
        RANKFORGE_RETURN_IF_ERROR(SurveySite(layer, site, x));
      }
      x = calibration.Next(site, x);
    }
    RANKFORGE_RETURN_IF_ERROR(run_.model.CheckFinite());
    run_.model.DropBlock(layer);
    run_.checkpoint.ReleasePages();
    return {};
  }

  Status SurveySite(size_t layer, Site site, const Matrix<float>& x) {
    RANKFORGE_ASSIGN_OR_RETURN(const std::vector<float> slopes,
                               SlopesAt(layer, site));
    const std::string& module = run_.spec.blocks[layer][site].name;
    RANKFORGE_RETURN_IF_ERROR(
        run_.state.SaveSlopes(layer, TurnedSlopes(module), slopes));
    const Matrix<float> ordinary = RowsOf(
        x,
        OrdinaryTokens({&x}, run_.options.window, run_.options.SinksApart()));
    const ProjectionSpec& projection = run_.spec.blocks[layer][site];
    // Gradients know what an input is worth, so that W itself takes no part.
    RANKFORGE_ASSIGN_OR_RETURN(
        LinearForms forms,
        LinearForms::Create(
            module, Matrix<float>(projection.rows, projection.cols), ordinary,
            false, {.costs = run_.options.Costs()}, run_.model.executor()));
    forms.SetSlopes(slopes);
    BudgetedLayer& entry =
        layers_[layer * kSites.size() + static_cast<size_t>(site)];
    entry.candidates = SlopedCandidates(forms);
    return {};
  }

  // (hidden,): the root mean squares of the gradients at x', of which the
  // layer reads x = g Q x', g the weight of the norm: those at x' are Q^T g
  // times those at x, whose second moments were kept.
  Result<std::vector<float>> SlopesAt(size_t layer, Site site) const {
    RANKFORGE_ASSIGN_OR_RETURN(std::optional<Snapshot> kept,
                               run_.state.Kept(FisherName(layer, site)));
    const RotationGroup& group = *adapter_.rotation.Of(layer);
    const size_t n = run_.model.config().hidden;
    if (!kept || kept->matrices["f"].values.size() != n * n) {
      return Failed(
          "unfinished work: it has no gradients of this model; remove the "
          "folder to start from the beginning");
    }
    Matrix<float>& f = kept->matrices["f"];
    const BlockSpec& block = run_.spec.blocks[layer];
    RANKFORGE_ASSIGN_OR_RETURN(
        const Norm norm,
        Norm::Load(site == Site::kAttentionInput ? block.attention_norm
                                                 : block.mlp_norm,
                   run_.model.config(), run_.checkpoint));
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) {
        f.row(i)[j] *= norm.weight()[i] * norm.weight()[j];
      }
    }
    Matrix<float> q(n, n);
    q.values = group.q;
    const Matrix<float> fq = Product(run_.model.executor(), f, q);
    std::vector<double> squares(n);
    for (size_t i = 0; i < n; ++i) {
      for (size_t k = 0; k < n; ++k) {
        squares[k] += static_cast<double>(q.row(i)[k]) * fq.row(i)[k];
      }
    }
    return SlopesOf(squares);
  }

  const AdaptRun& run_;
  const Adapter& adapter_;
  std::vector<BudgetedLayer> layers_;
};

class RotatedFisherPlanner : public Planner {
 public:
  explicit RotatedFisherPlanner(const StartContext& context)
      : context_(context), apart_(ForBases(context.run)) {}

  Status Prepare(double keep, Adapter& adapter) override {
    const ModelConfig& config = apart_.model.config();
    Rotation& rotation = *context_.bases;
    if (rotation.empty()) {
      RANKFORGE_ASSIGN_OR_RETURN(rotation, FindPlannedRotation(apart_));
    }
    if (!planner_) {
      RANKFORGE_ASSIGN_OR_RETURN(
          layers_, SurveyRotated(apart_, rotation, context_.layers));
      planner_ = MakeFisherPlanner({context_.run, layers_}, &rotation);
    }
    if (!planner_) return UsageError("no mask of some layer pays");
    return planner_->Prepare(
        keep - TurnShare(config, rotation, apart_.options.Costs()), adapter);
  }
  Status AdaptBlock(Calibration& calibration, Adapter& adapter) override {
    return planner_->AdaptBlock(calibration, adapter);
  }
  bool behind() const override { return true; }
  std::vector<BlockChoices> choices() const override {
    return planner_->choices();
  }
  Rotation* rotation() override { return context_.bases; }

 private:
  StartContext context_;
  AdaptRun apart_;
  std::vector<BudgetedLayer> layers_;
  std::unique_ptr<Planner> planner_;
};

}  // namespace

bool PlansRotated(const AdaptRun& run) {
  const auto& without = run.options.without;
  const ModelConfig& config = run.model.config();
  return CanRotate(config) && !IsLarge(config) &&
         !without.contains(Refinement::kInputMasks) &&
         !without.contains(Refinement::kSearch) &&
         !without.contains(Refinement::kCrossLayer) &&
         // Masks of another basis are made where the block has it.
         !without.contains(Refinement::kBehind) &&
         !without.contains(Refinement::kRotation) &&
         run.options.keep >=
             SmallestRotatedKeepOf(config, run.options,
                                   PlannedGroupBlocks(config.layers));
}

size_t PlannedGroupBlocks(size_t layers) {
  return std::max(layers / 6, size_t{2});
}

Result<Rotation> FindPlannedRotation(const AdaptRun& run) {
  const size_t layers = run.model.config().layers;
  return FindRotation(run, EvenGroups(layers, PlannedGroupBlocks(layers)));
}

Status KeepFisher(const AdaptRun& run, size_t layer, Site site,
                  const Matrix<float>& gradients) {
  if (!PlansRotated(run) || !ReadsStream(site)) return {};
  Snapshot snapshot;
  Matrix<double> moments = SecondMoments(gradients, run.model.executor());
  const double share = 1 / static_cast<double>(gradients.rows);
  for (double& value : moments.values) value *= share;
  snapshot.matrices["f"] = Narrow(moments);
  return run.state.Keep(FisherName(layer, site), std::move(snapshot));
}

Result<std::vector<BudgetedLayer>> SurveyRotated(
    const AdaptRun& run, Rotation& rotation,
    const std::vector<BudgetedLayer>& layers) {
  Adapter rotated;
  const LentRotation lent(&rotation, rotated);
  return RotatedSurveyor(run, rotated, layers).Run();
}

std::unique_ptr<Planner> MakeRotatedFisherPlanner(const StartContext& context) {
  const auto& without = context.run.options.without;
  if (context.bases == nullptr || !PlansRotated(context.run) ||
      without.contains(Refinement::kFisher)) {
    return nullptr;
  }
  return std::make_unique<RotatedFisherPlanner>(context);
}

AdaptRun ForBases(const AdaptRun& run) {
  AdaptRun seen = run;
  const size_t unseen = UnseenTokens(run);
  if (unseen < run.sample.size()) {
    seen.sample = run.sample.first(run.sample.size() - unseen);
  }
  return seen;
}

}  // namespace rankforge
