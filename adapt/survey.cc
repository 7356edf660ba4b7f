#include "adapt/survey.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "adapt/block_builder.h"
#include "adapt/calibration.h"
#include "adapt/probe.h"
#include "adapt/sensitivity.h"

namespace rankforge {
namespace {

using Json = nlohmann::json;

// Costs at which forms are compared.
constexpr double kCosts[] = {0.15, 0.2,  0.25, 0.3, 0.35, 0.4, 0.45,
                             0.5,  0.55, 0.6,  0.7, 0.8,  0.9};
// Those at which the divergence is measured; a straight line through them, and
// through nothing lost, tells it of other errors. One is enough where blocks
// are few and far between.
constexpr double kProbeCosts[] = {0.35, 0.6};
constexpr double kSparseProbeCosts[] = {0.45};
// On an eighth of the calibration tokens, at most so many.
constexpr size_t kProbeTokens = 2048;
// Of more blocks than this, so many are probed, spread over the depth...
constexpr size_t kMostProbedBlocks = 12;
constexpr size_t kSpreadBlocks = 5;
// ...on as many tokens as take at most so many multiply-adds in all.
constexpr double kProbeWork = 5e13;
// Tokens that error curves are taken from.
constexpr size_t kSurveyTokens = 8192;

std::vector<Form> FormsFor(Place place, const std::set<Refinement>& without) {
  std::vector<Form> forms;
  // A rank adapter multiplies all of B: it pays only where there are more
  // outputs than inputs.
  const bool expands = place == Place::kQkv || place == Place::kGateUp;
  if (expands && !without.contains(Refinement::kRankAdapters)) {
    forms.push_back(Form::kRank);
  }
  if (!without.contains(Refinement::kInputMasks)) {
    forms.push_back(Form::kMagnitude);
    forms.push_back(Form::kWeighted);
  } else if (place == Place::kDown) {
    forms.push_back(Form::kWeighted);  // the paper's
  }
  return forms;
}

// Between two values that differ by a factor.
double Interpolated(double below, double above, double share) {
  if (below > 0 && above > 0) {
    return std::exp((1 - share) * std::log(below) + share * std::log(above));
  }
  return (1 - share) * below + share * above;
}

const Matrix<float>& InputsAt(const Calibration::BlockInputs& inputs,
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

// At kCosts; negative: not possible. What a mask loses takes a product with W
// to know, and is a smooth curve: every second value is taken from its
// neighbours.
std::vector<double> ErrorsOf(const LinearForms& linear, Form form) {
  constexpr size_t kCount = std::size(kCosts);
  const size_t step = IsRank(form) ? 1 : 2;
  static_assert(kCount % 2 == 1);
  std::vector<double> errors(kCount);
  for (size_t i = 0; i < kCount; i += step) {
    errors[i] = linear.Error(form, kCosts[i]).value_or(-1);
  }
  for (size_t i = 1; i < kCount && step == 2; i += 2) {
    if (errors[i - 1] < 0 || errors[i + 1] < 0) {
      errors[i] = linear.Error(form, kCosts[i]).value_or(-1);
      continue;
    }
    errors[i] = Interpolated(
        errors[i - 1], errors[i + 1],
        (kCosts[i] - kCosts[i - 1]) / (kCosts[i + 1] - kCosts[i - 1]));
  }
  return errors;
}

// What is known of a form of one layer.
struct FormSurvey {
  Form form = Form::kDense;
  std::vector<double> errors;  // at kCosts; negative: not possible
  Sensitivity sensitivity;     // where the block was probed
};
struct PlaceSurvey {
  double dense_cost = 0;
  std::vector<FormSurvey> forms;
};
using BlockSurvey = std::vector<PlaceSurvey>;  // by Place

// Blocks whose divergence is measured, and on how many tokens.
struct ProbePlan {
  std::vector<size_t> blocks;  // ascending, the first and the last among them
  bool sparse = false;         // not all of them
  size_t tokens = 0;

  std::span<const double> costs() const {
    return sparse ? std::span<const double>(kSparseProbeCosts)
                  : std::span<const double>(kProbeCosts);
  }
  // Of two kinds of masks an error is an error: one of them tells.
  bool Probes(Form form) const { return !sparse || form != Form::kMagnitude; }
  // Of one block, with all forms.
  double probes() const { return sparse ? 6 : 20; }
};

// Multiply-adds a token of block `layer` and all behind it.
double MacsFrom(const ModelConfig& config, size_t layer) {
  double macs = 0;
  for (; layer < config.layers; ++layer) {
    macs += static_cast<double>(config.BlockMacs(layer));
  }
  return macs;
}

ProbePlan PlanProbes(const ModelConfig& config, const AdaptOptions& options,
                     size_t sample) {
  ProbePlan plan;
  plan.blocks = ProbedBlocks(config.layers, options.probe_blocks);
  plan.sparse = plan.blocks.size() < config.layers;
  double macs = 0;  // of one probe of each, on one token
  for (const size_t block : plan.blocks) macs += MacsFrom(config, block);
  const double affordable = kProbeWork / plan.probes() / macs;
  plan.tokens = options.probe_tokens;
  if (plan.tokens == 0) {
    plan.tokens =
        std::min({kProbeTokens, sample / 8, static_cast<size_t>(affordable)});
  }
  return plan;
}

Json ToJson(const std::vector<BlockSurvey>& blocks) {
  Json list = Json::array();
  for (const BlockSurvey& block : blocks) {
    Json places = Json::array();
    for (const PlaceSurvey& place : block) {
      Json forms = Json::array();
      for (const FormSurvey& form : place.forms) {
        forms.push_back({{"form", static_cast<int>(form.form)},
                         {"errors", form.errors},
                         {"divergences", form.sensitivity.points()}});
      }
      places.push_back({{"dense_cost", place.dense_cost}, {"forms", forms}});
    }
    list.push_back(places);
  }
  return list;
}

// Throws Json::exception.
std::vector<BlockSurvey> BlocksFrom(const Json& list) {
  std::vector<BlockSurvey> blocks;
  for (const Json& places : list) {
    BlockSurvey& block = blocks.emplace_back();
    for (const Json& json : places) {
      PlaceSurvey& place = block.emplace_back();
      place.dense_cost = json.at("dense_cost").get<double>();
      for (const Json& form : json.at("forms")) {
        FormSurvey& survey = place.forms.emplace_back();
        survey.form = static_cast<Form>(form.at("form").get<int>());
        survey.errors = form.at("errors").get<std::vector<double>>();
        survey.sensitivity =
            Sensitivity(form.at("divergences")
                            .get<std::vector<std::pair<double, double>>>());
      }
    }
  }
  return blocks;
}

// Whether the numbers are those of this model and of these forms.
bool Fits(const std::vector<BlockSurvey>& blocks, const AdaptRun& run) {
  if (blocks.size() > run.spec.blocks.size()) return false;
  for (const BlockSurvey& block : blocks) {
    if (block.size() != kPlaces.size()) return false;
    for (size_t p = 0; p < block.size(); ++p) {
      const std::vector<Form> forms = FormsFor(kPlaces[p], run.options.without);
      const auto fits = [](const FormSurvey& survey, Form form) {
        return survey.form == form && survey.errors.size() == std::size(kCosts);
      };
      if (!std::equal(block[p].forms.begin(), block[p].forms.end(),
                      forms.begin(), forms.end(), fits)) {
        return false;
      }
    }
  }
  return true;
}

class Surveyor {
 public:
  explicit Surveyor(const AdaptRun& run)
      : run_(run),
        config_(run.model.config()),
        plan_(PlanProbes(config_, run.options, run.sample.size())),
        survey_tokens_(Whole(kSurveyTokens)) {
    plan_.tokens = std::min(Whole(plan_.tokens), survey_tokens_);
  }

  Result<std::vector<BudgetedLayer>> Run() {
    run_.meter.Extend(config_.layers, TotalWork());
    RANKFORGE_RETURN_IF_ERROR(Restore());
    if (blocks_.size() < config_.layers) {
      if (!calibration_) {
        RANKFORGE_ASSIGN_OR_RETURN(
            calibration_,
            Calibration::Start(run_.model, run_.sample.first(survey_tokens_),
                               run_.options.window));
      }
      const bool probes = plan_.blocks.back() >= blocks_.size();
      if (probes) RANKFORGE_RETURN_IF_ERROR(StartProbe());
      while (blocks_.size() < config_.layers) {
        RANKFORGE_RETURN_IF_ERROR(SurveyBlock());
      }
    }
    return Candidates();
  }

 private:
  // Tokens in whole windows, one at least.
  size_t Whole(size_t tokens) const {
    const size_t window = run_.options.window;
    return std::min(run_.sample.size(),
                    std::max(tokens / window, size_t{1}) * window);
  }
  bool Probed(size_t layer) const {
    return std::binary_search(plan_.blocks.begin(), plan_.blocks.end(), layer);
  }

  double WorkOf(size_t layer) const {
    double work = static_cast<double>(config_.BlockMacs(layer)) *
                  static_cast<double>(survey_tokens_ + 16 * 256);
    if (Probed(layer)) {
      work += plan_.probes() * static_cast<double>(plan_.tokens) *
              MacsFrom(config_, layer);
    }
    return work + BasesWork(static_cast<double>(config_.hidden));
  }
  double TotalWork() const {
    double work = 0;
    for (size_t layer = 0; layer < config_.layers; ++layer) {
      work += WorkOf(layer);
    }
    return work;
  }

  Status Restore() {
    RANKFORGE_ASSIGN_OR_RETURN(std::optional<Snapshot> snapshot,
                               run_.state.LoadSnapshot(kSnapshot));
    if (!snapshot) return {};
    Matrix<float>& hidden = snapshot->matrices["hidden"];
    bool fits = false;
    try {
      blocks_ = BlocksFrom(Json::parse(snapshot->text));
      const bool complete = blocks_.size() == config_.layers;
      fits = Fits(blocks_, run_) &&
             (complete ||
              (hidden.rows == survey_tokens_ && hidden.cols == config_.hidden));
    } catch (const Json::exception&) {
    }
    if (!fits) {
      return Failed(
          "unfinished work: the survey is not one of this model; remove the "
          "folder to start from the beginning");
    }
    for (size_t layer = 0; layer < blocks_.size(); ++layer) {
      run_.meter.Skip(WorkOf(layer));
    }
    if (blocks_.size() < config_.layers) {
      calibration_ = Calibration::Continue(run_.model, std::move(hidden),
                                           run_.options.window, blocks_.size());
    }
    return {};
  }
  Status Save() const {
    Snapshot snapshot;
    snapshot.text = ToJson(blocks_).dump();
    if (blocks_.size() < config_.layers) {
      snapshot.matrices["hidden"] = calibration_->hidden();
    }
    return run_.state.SaveSnapshot(kSnapshot, snapshot);
  }

  Status StartProbe() {
    Matrix<float> hidden(plan_.tokens, config_.hidden);
    RANKFORGE_RETURN_IF_ERROR(run_.model.Embed(run_.sample.first(plan_.tokens),
                                               hidden.values.data()));
    RANKFORGE_ASSIGN_OR_RETURN(
        probe_, Probe::Start(run_.model, run_.checkpoint, run_.options.window,
                             std::move(hidden)));
    return {};
  }

  // The bases of the projections that may become rank adapters.
  Result<std::map<Place, RankBasis>> MakeBases(
      size_t layer, const Calibration::BlockInputs& inputs) {
    std::vector<Place> places;
    std::vector<Matrix<float>> weights;
    std::vector<Matrix<double>> moments;
    for (const Place place : kPlaces) {
      const std::vector<Form> forms = FormsFor(place, run_.options.without);
      if (std::none_of(forms.begin(), forms.end(), IsRank)) continue;
      places.push_back(place);
      RANKFORGE_ASSIGN_OR_RETURN(Matrix<float> w,
                                 WeightsAt(run_, layer, place));
      weights.push_back(std::move(w));
      RANKFORGE_ASSIGN_OR_RETURN(Matrix<double> c, RegularMoments(SecondMoments(
                                                       InputsAt(inputs, place),
                                                       run_.model.executor())));
      moments.push_back(std::move(c));
    }
    std::vector<BasisProblem> problems;
    for (size_t i = 0; i < places.size(); ++i) {
      problems.push_back({&weights[i], &moments[i]});
    }
    RANKFORGE_ASSIGN_OR_RETURN(std::vector<RankBasis> bases,
                               MakeRankBases(problems, run_.model.executor()));
    std::map<Place, RankBasis> by_place;
    for (size_t i = 0; i < places.size(); ++i) {
      RANKFORGE_RETURN_IF_ERROR(run_.state.SaveBasis(
          layer, ProjectionAt(run_.spec.blocks[layer], places[i]).name,
          bases[i]));
      by_place[places[i]] = std::move(bases[i]);
    }
    return by_place;
  }

  Status SurveyBlock() {
    const size_t layer = blocks_.size();
    RANKFORGE_RETURN_IF_ERROR(
        run_.model.AdaptBlock(layer, run_.checkpoint, nullptr));
    Matrix<float> read(Probed(layer) ? plan_.tokens : 0, config_.hidden);
    std::copy_n(calibration_->hidden().values.begin(), read.values.size(),
                read.values.begin());
    const Calibration::BlockInputs inputs = calibration_->NextBlock();
    RANKFORGE_ASSIGN_OR_RETURN(auto bases, MakeBases(layer, inputs));
    BlockSurvey block;
    std::vector<ProbedForm> probed;
    for (const Place place : kPlaces) {
      const auto basis = bases.extract(place);
      RANKFORGE_ASSIGN_OR_RETURN(Matrix<float> w,
                                 WeightsAt(run_, layer, place));
      const std::string& module =
          ProjectionAt(run_.spec.blocks[layer], place).name;
      const Matrix<float>& x = InputsAt(inputs, place);
      const RankGrid grid{.round = run_.options.round_d,
                          .costs = run_.options.Costs()};
      Executor& executor = run_.model.executor();
      const auto create = [&]() -> Result<LinearForms> {
        if (basis.empty()) {
          return LinearForms::Create(module, std::move(w), x, false, grid,
                                     executor);
        }
        return LinearForms::InBasis(module, std::move(w), x,
                                    std::move(basis.mapped()), grid, executor);
      };
      RANKFORGE_ASSIGN_OR_RETURN(const LinearForms linear, create());
      block.push_back({linear.dense_cost(), {}});
      RANKFORGE_RETURN_IF_ERROR(
          SurveyPlace(layer, place, linear, read, block.back(), probed));
    }
    run_.model.DropBlock(layer);
    run_.checkpoint.ReleasePages();
    if (!probed.empty()) {
      std::vector<Matrix<float>> hidden;
      for (ProbedForm& p : probed) hidden.push_back(std::move(p.hidden));
      RANKFORGE_ASSIGN_OR_RETURN(const std::vector<double> divergences,
                                 probe_->Divergences(layer + 1, hidden));
      for (size_t i = 0; i < probed.size(); ++i) {
        block[probed[i].place].forms[probed[i].form].sensitivity.Add(
            probed[i].error, divergences[i]);
      }
    }
    blocks_.push_back(std::move(block));
    RANKFORGE_RETURN_IF_ERROR(Save());
    run_.meter.Step(fmt::format("survey of layer {}", layer), WorkOf(layer));
    return {};
  }

  // One form at one cost in an otherwise dense model.
  struct ProbedForm {
    size_t place = 0, form = 0;  // indices
    double error = 0;
    Matrix<float> hidden;  // behind the block
  };

  Status SurveyPlace(size_t layer, Place place, const LinearForms& linear,
                     const Matrix<float>& read, PlaceSurvey& survey,
                     std::vector<ProbedForm>& probed) {
    for (const Form form : FormsFor(place, run_.options.without)) {
      FormSurvey& entry = survey.forms.emplace_back();
      entry.form = form;
      entry.errors = ErrorsOf(linear, form);
      for (const double cost : plan_.costs()) {
        if (read.rows == 0 || !plan_.Probes(form)) break;
        const std::optional<double> error = linear.Error(form, cost);
        if (!error) continue;
        Adapter alone;
        RANKFORGE_RETURN_IF_ERROR(linear.AddTo(alone, form, cost, false));
        RANKFORGE_RETURN_IF_ERROR(run_.model.AdaptSite(
            layer, SiteOf(place), run_.checkpoint, &alone));
        Matrix<float> hidden = read;
        RunBlock(run_.model, layer, run_.options.window, hidden);
        probed.push_back({static_cast<size_t>(place), survey.forms.size() - 1,
                          *error, std::move(hidden)});
      }
    }
    if (read.rows == 0) return {};
    return run_.model.AdaptSite(layer, SiteOf(place), run_.checkpoint, nullptr);
  }

  // The probed blocks around `layer`, and how far it is from the first of them.
  struct Between {
    size_t below, above;
    double share;
  };
  Between BlocksAround(size_t layer) const {
    const auto above =
        std::lower_bound(plan_.blocks.begin(), plan_.blocks.end(), layer);
    if (above == plan_.blocks.end()) {
      return {plan_.blocks.back(), plan_.blocks.back(), 0};
    }
    if (*above == layer || above == plan_.blocks.begin()) {
      return {*above, *above, 0};
    }
    const size_t below = *(above - 1);
    return {below, *above,
            static_cast<double>(layer - below) /
                static_cast<double>(*above - below)};
  }

  // Null: the form was not possible there.
  const Sensitivity* SensitivityAt(size_t layer, size_t place,
                                   size_t form) const {
    const std::vector<FormSurvey>& forms = blocks_[layer][place].forms;
    const FormSurvey* measured = &forms[form];
    if (!plan_.Probes(measured->form)) {
      measured = &*std::find_if(
          forms.begin(), forms.end(),
          [](const FormSurvey& f) { return f.form == Form::kWeighted; });
    }
    return measured->sensitivity.known() ? &measured->sensitivity : nullptr;
  }

  std::vector<BudgetedLayer> Candidates() const {
    std::vector<BudgetedLayer> layers;
    for (size_t layer = 0; layer < blocks_.size(); ++layer) {
      const Between around = BlocksAround(layer);
      for (size_t p = 0; p < blocks_[layer].size(); ++p) {
        const PlaceSurvey& place = blocks_[layer][p];
        BudgetedLayer& entry = layers.emplace_back();
        entry.dense_cost = place.dense_cost;
        entry.candidates.push_back({});
        for (size_t f = 0; f < place.forms.size(); ++f) {
          const FormSurvey& form = place.forms[f];
          const Sensitivity* below = SensitivityAt(around.below, p, f);
          const Sensitivity* above = SensitivityAt(around.above, p, f);
          if (below == nullptr || above == nullptr) continue;
          for (size_t c = 0; c < form.errors.size(); ++c) {
            if (form.errors[c] < 0) continue;
            entry.candidates.push_back(
                {form.form, kCosts[c],
                 Interpolated(below->At(form.errors[c]),
                              above->At(form.errors[c]), around.share)});
          }
        }
      }
    }
    return layers;
  }

  static constexpr char kSnapshot[] = "survey";

  const AdaptRun& run_;
  const ModelConfig& config_;
  ProbePlan plan_;
  size_t survey_tokens_;
  std::optional<Calibration> calibration_;
  std::optional<Probe> probe_;
  std::vector<BlockSurvey> blocks_;  // finished
};

}  // namespace

std::vector<size_t> ProbedBlocks(size_t layers, size_t asked) {
  if (asked == 0) asked = layers <= kMostProbedBlocks ? layers : kSpreadBlocks;
  const size_t count = std::min(asked, layers);
  if (count == 1) return {layers / 2};
  std::vector<size_t> blocks;
  for (size_t i = 0; i < count; ++i) {
    blocks.push_back(i * (layers - 1) / (count - 1));
  }
  return blocks;
}

double SmallestSurveyedCost() { return kCosts[0]; }

Result<std::vector<BudgetedLayer>> Survey(const AdaptRun& run) {
  return Surveyor(run).Run();
}

}  // namespace rankforge
