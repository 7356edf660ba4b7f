#include "adapt/methods/survey.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "adapt/calibrate/calibration.h"
#include "adapt/calibrate/loss_gradient.h"
#include "adapt/calibrate/probe.h"
#include "adapt/calibrate/sensitivity.h"
#include "adapt/methods/block_builder.h"

namespace rankforge {
namespace {

using Json = nlohmann::json;

// Costs at which forms are compared.
constexpr double kCosts[] = {0.15, 0.2,  0.25, 0.3, 0.35, 0.4, 0.45,
                             0.5,  0.55, 0.6,  0.7, 0.8,  0.9};
// Costs at which the divergence is measured. Straight lines through these
// points and the origin give it for other errors. One cost is enough where not
// all blocks are probed.
constexpr double kProbeCosts[] = {0.35, 0.6};
constexpr double kSparseProbeCosts[] = {0.45};
// The divergence is measured on an eighth of the calibration tokens, at most on
// this many.
constexpr size_t kProbeTokens = 2048;
// A model of up to kMostProbedBlocks blocks is probed in all of them, a deeper
// one in kSpreadBlocks, spread over the depth.
constexpr size_t kMostProbedBlocks = 12;
constexpr size_t kSpreadBlocks = 5;
// All probes together take at most this many multiply-adds: a large model is
// probed on fewer tokens.
constexpr double kProbeWork = 5e13;
// Tokens that errors at all costs are computed on.
constexpr size_t kSurveyTokens = 8192;
// The backward pass takes four multiply-adds per weight and token, one of them
// to compute forward values again. For a small model it sees all survey tokens,
// for a larger one as many as take at most kBackwardWork multiply-adds: 1792
// for Llama-2-7B.
constexpr double kBackwardMacs = 4;
constexpr double kBackwardWork = 5e13;

std::vector<Form> FormsFor(Site site, const std::set<Refinement>& without) {
  std::vector<Form> forms;
  // A rank adapter multiplies all of B: it pays only where there are more
  // outputs than inputs.
  const bool expands = site == Site::kAttentionInput || site == Site::kMlpInput;
  if (expands && !without.contains(Refinement::kRankAdapters)) {
    forms.push_back(Form::kRank);
  }
  if (!without.contains(Refinement::kInputMasks)) {
    forms.push_back(Form::kMagnitude);
    forms.push_back(Form::kWeighted);
  } else if (site == Site::kMlpHidden) {
    forms.push_back(Form::kWeighted);  // as in the paper
  }
  return forms;
}

// Interpolates on a logarithmic scale, or linearly where a value is 0.
double Interpolated(double below, double above, double share) {
  if (below > 0 && above > 0) {
    return std::exp((1 - share) * std::log(below) + share * std::log(above));
  }
  return (1 - share) * below + share * above;
}

// Errors at kCosts; negative: not possible. To compute the error of a mask
// takes a product with W. It is smooth in the cost, so every second value is
// interpolated.
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
struct SiteSurvey {
  double dense_cost = 0;
  std::vector<FormSurvey> forms;
};
using BlockSurvey = std::vector<SiteSurvey>;  // by Site

// Blocks whose divergence is measured, and on how many tokens.
struct ProbePlan {
  std::vector<size_t> blocks;  // ascending
  bool sparse = false;         // not all of them
  size_t tokens = 0;

  std::span<const double> costs() const {
    return sparse ? std::span<const double>(kSparseProbeCosts)
                  : std::span<const double>(kProbeCosts);
  }
  // Two kinds of masks with the same error move predictions alike: a sparse
  // plan measures only one of them.
  bool Probes(Form form) const { return !sparse || form != Form::kMagnitude; }
  // Probes per block: all forms at all costs.
  double probes() const { return sparse ? 6 : 20; }
};

// Multiply-adds per token of block `layer` and all blocks after it.
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
  double macs = 0;  // of one probe of each block, on one token
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
    Json sites = Json::array();
    for (const SiteSurvey& site : block) {
      Json forms = Json::array();
      for (const FormSurvey& form : site.forms) {
        forms.push_back({{"form", static_cast<int>(form.form)},
                         {"errors", form.errors},
                         {"divergences", form.sensitivity.points()}});
      }
      sites.push_back({{"dense_cost", site.dense_cost}, {"forms", forms}});
    }
    list.push_back(sites);
  }
  return list;
}

// Throws Json::exception.
std::vector<BlockSurvey> BlocksFrom(const Json& list) {
  std::vector<BlockSurvey> blocks;
  for (const Json& sites : list) {
    BlockSurvey& block = blocks.emplace_back();
    for (const Json& json : sites) {
      SiteSurvey& site = block.emplace_back();
      site.dense_cost = json.at("dense_cost").get<double>();
      for (const Json& form : json.at("forms")) {
        FormSurvey& survey = site.forms.emplace_back();
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
    if (block.size() != kSites.size()) return false;
    for (size_t p = 0; p < block.size(); ++p) {
      const std::vector<Form> forms = FormsFor(kSites[p], run.options.without);
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
    const size_t sample = run.sample.size();
    if (sample > plan_.tokens) {
      survey_tokens_ = std::min(survey_tokens_, Whole(sample - plan_.tokens));
      probe_begin_ = survey_tokens_;
    }
    run_tokens_ = std::max(survey_tokens_, probe_begin_ + plan_.tokens);
    // Only bases need gradients.
    const auto& without = run.options.without;
    if (without.contains(Refinement::kFisher) ||
        without.contains(Refinement::kRankAdapters)) {
      return;
    }
    backward_tokens_ =
        std::min(survey_tokens_,
                 Whole(static_cast<size_t>(kBackwardWork / kBackwardMacs /
                                           MacsFrom(config_, 0))));
  }

  Result<std::vector<BudgetedLayer>> Run() {
    run_.meter.Extend(2 * config_.layers, TotalWork());
    RANKFORGE_RETURN_IF_ERROR(Restore());
    if (surveyed() < config_.layers) {
      RANKFORGE_RETURN_IF_ERROR(RunForward());
      RANKFORGE_RETURN_IF_ERROR(StartBackward());
      if (plan_.blocks.front() < config_.layers - surveyed()) {
        RANKFORGE_RETURN_IF_ERROR(StartProbe());
      }
      while (surveyed() < config_.layers) {
        RANKFORGE_RETURN_IF_ERROR(SurveyBlock());
      }
      run_.state.Forget(HiddenName(config_.layers));
    }
    std::reverse(blocks_.begin(), blocks_.end());
    return Candidates();
  }

 private:
  // `tokens`, or all of the sample, rounded down to whole windows; one at
  // least.
  size_t Whole(size_t tokens) const {
    const size_t window = run_.options.window;
    return std::min(run_.sample.size(),
                    std::max(tokens / window, size_t{1}) * window);
  }
  bool Probed(size_t layer) const {
    return std::binary_search(plan_.blocks.begin(), plan_.blocks.end(), layer);
  }

  size_t surveyed() const { return blocks_.size(); }

  // Of the dense model.
  double ForwardWork(size_t layer) const {
    return static_cast<double>(config_.BlockMacs(layer)) *
           static_cast<double>(run_tokens_);
  }
  double WorkOf(size_t layer) const {
    double work = static_cast<double>(config_.BlockMacs(layer)) *
                  (static_cast<double>(survey_tokens_ + 16 * 256) +
                   kBackwardMacs * static_cast<double>(backward_tokens_));
    if (Probed(layer)) {
      work += plan_.probes() * static_cast<double>(plan_.tokens) *
              MacsFrom(config_, layer);
    }
    return work + BasesWork(static_cast<double>(config_.hidden));
  }
  double TotalWork() const {
    double work = 0;
    for (size_t layer = 0; layer < config_.layers; ++layer) {
      work += ForwardWork(layer) + WorkOf(layer);
    }
    return work;
  }

  // Where what block `layer` of the dense model reads is kept, or the final
  // norm where `layer` is the number of layers.
  static std::string HiddenName(size_t layer) {
    return fmt::format("hidden.{}", layer);
  }
  Result<std::optional<Matrix<float>>> Hidden(size_t layer) const {
    RANKFORGE_ASSIGN_OR_RETURN(std::optional<Snapshot> kept,
                               run_.state.Kept(HiddenName(layer)));
    if (!kept) return std::optional<Matrix<float>>();
    Matrix<float>& hidden = kept->matrices["hidden"];
    if (hidden.rows != run_tokens_ || hidden.cols != config_.hidden) {
      return Failed(NotOfThisModel());
    }
    return std::optional(std::move(hidden));
  }
  static std::string NotOfThisModel() {
    return "unfinished work: the survey is not one of this model; remove the "
           "folder to start from the beginning";
  }

  Status Restore() {
    RANKFORGE_ASSIGN_OR_RETURN(std::optional<Snapshot> snapshot,
                               run_.state.LoadSnapshot(kSnapshot));
    if (!snapshot) return {};
    gradient_ = std::move(snapshot->matrices["gradient"]);
    bool fits = false;
    try {
      blocks_ = BlocksFrom(Json::parse(snapshot->text));
      fits = Fits(blocks_, run_) && gradient_.rows == backward_tokens_ &&
             (gradient_.rows == 0 || gradient_.cols == config_.hidden);
    } catch (const Json::exception&) {
    }
    if (!fits) return Failed(NotOfThisModel());
    for (size_t layer = 0; layer < config_.layers; ++layer) {
      run_.meter.Skip(ForwardWork(layer));
    }
    for (size_t i = 0; i < surveyed(); ++i) {
      run_.meter.Skip(WorkOf(config_.layers - 1 - i));
    }
    return {};
  }
  Status Save() const {
    Snapshot snapshot;
    snapshot.text = ToJson(blocks_).dump();
    if (backward_tokens_ > 0) snapshot.matrices["gradient"] = gradient_;
    return run_.state.SaveSnapshot(kSnapshot, snapshot);
  }

  // Runs the dense model, and keeps what every block reads.
  Status RunForward() {
    if (surveyed() > 0) return {};
    size_t layer = 0;
    Matrix<float> hidden;
    for (; layer <= config_.layers; ++layer) {
      RANKFORGE_ASSIGN_OR_RETURN(std::optional<Matrix<float>> kept,
                                 Hidden(layer));
      if (!kept) break;
      hidden = *std::move(kept);
      if (layer > 0) run_.meter.Skip(ForwardWork(layer - 1));
    }
    if (layer == 0) {
      hidden = Matrix<float>(run_tokens_, config_.hidden);
      RANKFORGE_RETURN_IF_ERROR(run_.model.Embed(run_.sample.first(run_tokens_),
                                                 hidden.values.data()));
      RANKFORGE_RETURN_IF_ERROR(
          run_.state.Keep(HiddenName(0), {{{"hidden", hidden}}, ""}));
      layer = 1;
    }
    for (; layer <= config_.layers; ++layer) {
      RANKFORGE_RETURN_IF_ERROR(
          run_.model.AdaptBlock(layer - 1, run_.checkpoint, nullptr));
      RunBlock(run_.model, layer - 1, run_.options.window, hidden);
      run_.model.DropBlock(layer - 1);
      run_.checkpoint.ReleasePages();
      RANKFORGE_RETURN_IF_ERROR(
          run_.state.Keep(HiddenName(layer), {{{"hidden", hidden}}, ""}));
      RANKFORGE_RETURN_IF_ERROR(
          run_.meter.Step(fmt::format("forward pass of layer {}", layer - 1),
                          ForwardWork(layer - 1)));
    }
    return {};
  }

  // The output of the last block for `tokens` tokens from `begin` on.
  Result<Matrix<float>> LastHidden(size_t begin, size_t tokens) const {
    RANKFORGE_ASSIGN_OR_RETURN(const std::optional<Matrix<float>> hidden,
                               Hidden(config_.layers));
    if (!hidden) return Failed(NotOfThisModel());
    return Rows(*hidden, begin, tokens);
  }

  // Makes the gradient at the output of the last block, unless the state has
  // the gradient at an earlier block.
  Status StartBackward() {
    if (surveyed() > 0 || backward_tokens_ == 0) return {};
    RANKFORGE_ASSIGN_OR_RETURN(const Matrix<float> hidden,
                               LastHidden(0, backward_tokens_));
    const std::vector<int> labels =
        DrawLabels(run_.model, hidden, run_.options.seed);
    RANKFORGE_ASSIGN_OR_RETURN(
        gradient_, OutputGradient(run_.model, run_.checkpoint, hidden, labels));
    return {};
  }

  Status StartProbe() {
    RANKFORGE_ASSIGN_OR_RETURN(Matrix<float> hidden,
                               LastHidden(probe_begin_, plan_.tokens));
    RANKFORGE_ASSIGN_OR_RETURN(
        probe_, Probe::Start(run_.model, run_.checkpoint, run_.options.window,
                             config_.layers, std::move(hidden)));
    return {};
  }

  using Bases = std::map<Site, RankBasis>;

  // The bases of the projections that may become rank adapters.
  Result<Bases> MakeBases(size_t layer, const SiteInputs& inputs,
                          const SiteGradients& gradients) {
    std::vector<Site> sites;
    std::vector<Matrix<float>> weights;
    std::vector<Matrix<double>> moments, fisher;
    for (const Site site : kSites) {
      const std::vector<Form> forms = FormsFor(site, run_.options.without);
      if (std::none_of(forms.begin(), forms.end(), IsRank)) continue;
      sites.push_back(site);
      RANKFORGE_ASSIGN_OR_RETURN(Matrix<float> w, WeightsAt(run_, layer, site));
      weights.push_back(std::move(w));
      RANKFORGE_ASSIGN_OR_RETURN(
          Matrix<double> c,
          RegularMoments(SecondMoments(inputs[site], run_.model.executor())));
      moments.push_back(std::move(c));
      if (backward_tokens_ == 0) continue;
      fisher.push_back(SecondMoments(gradients[site], run_.model.executor()));
    }
    std::vector<BasisProblem> problems;
    for (size_t i = 0; i < sites.size(); ++i) {
      problems.push_back(
          {&weights[i], &moments[i], fisher.empty() ? nullptr : &fisher[i]});
    }
    RANKFORGE_ASSIGN_OR_RETURN(std::vector<RankBasis> bases,
                               MakeRankBases(problems, run_.model.executor()));
    Bases by_site;
    for (size_t i = 0; i < sites.size(); ++i) {
      RANKFORGE_RETURN_IF_ERROR(run_.state.SaveBasis(
          layer, run_.spec.blocks[layer][sites[i]].name, bases[i]));
      by_site[sites[i]] = std::move(bases[i]);
    }
    return by_site;
  }

  // One form at one cost in an otherwise dense model.
  struct ProbedForm {
    size_t site = 0, form = 0;  // indices
    double error = 0;
    Matrix<float> hidden;  // after the block
  };

  // Surveys the last block that is not surveyed yet.
  Status SurveyBlock() {
    const size_t layer = config_.layers - 1 - surveyed();
    RANKFORGE_RETURN_IF_ERROR(
        run_.model.AdaptBlock(layer, run_.checkpoint, nullptr));
    RANKFORGE_ASSIGN_OR_RETURN(std::optional<Matrix<float>> hidden,
                               Hidden(layer));
    if (!hidden) return Failed(NotOfThisModel());
    const Matrix<float> read =
        Rows(*hidden, probe_begin_, Probed(layer) ? plan_.tokens : 0);
    hidden = Rows(*hidden, 0, survey_tokens_);
    const SiteInputs inputs =
        Calibration::Continue(run_.model, *hidden, run_.options.window, layer)
            .NextBlock();
    RANKFORGE_ASSIGN_OR_RETURN(auto bases,
                               BasesOf(layer, *std::move(hidden), inputs));
    BlockSurvey block;
    std::vector<ProbedForm> probed;
    for (const Site site : kSites) {
      RANKFORGE_ASSIGN_OR_RETURN(
          const LinearForms linear,
          FormsAt(layer, site, inputs[site], bases.extract(site)));
      block.push_back({linear.dense_cost(), {}});
      RANKFORGE_RETURN_IF_ERROR(
          SurveySite(layer, site, linear, read, block.back(), probed));
    }
    run_.model.DropBlock(layer);
    run_.checkpoint.ReleasePages();
    RANKFORGE_RETURN_IF_ERROR(MeasureProbed(layer, std::move(probed), block));
    blocks_.push_back(std::move(block));
    RANKFORGE_RETURN_IF_ERROR(Save());
    run_.state.Forget(HiddenName(layer));
    return run_.meter.Step(fmt::format("survey of layer {}", layer),
                           WorkOf(layer));
  }

  // MakeBases, with the gradients at the inputs of the linear layers. The block
  // reads `hidden`.
  Result<Bases> BasesOf(size_t layer, Matrix<float> hidden,
                        const SiteInputs& inputs) {
    SiteGradients gradients;
    if (backward_tokens_ > 0) {
      RANKFORGE_ASSIGN_OR_RETURN(
          gradients,
          BackThroughBlock(run_.model, run_.checkpoint, layer,
                           run_.options.window, hidden, inputs, gradient_));
    }
    hidden = {};  // freed before bases take memory
    return MakeBases(layer, inputs, gradients);
  }

  // The projection with its inputs x, in `basis` where there is one.
  Result<LinearForms> FormsAt(size_t layer, Site site, const Matrix<float>& x,
                              Bases::node_type basis) const {
    RANKFORGE_ASSIGN_OR_RETURN(Matrix<float> w, WeightsAt(run_, layer, site));
    const std::string& module = run_.spec.blocks[layer][site].name;
    const RankGrid grid{.round = run_.options.round_d,
                        .costs = run_.options.Costs()};
    Executor& executor = run_.model.executor();
    if (basis.empty()) {
      return LinearForms::Create(module, std::move(w), x, false, grid,
                                 executor);
    }
    return LinearForms::InBasis(module, std::move(w), x,
                                std::move(basis.mapped()), grid, executor);
  }

  // Adds the divergences of what was probed in block `layer` to its survey.
  Status MeasureProbed(size_t layer, std::vector<ProbedForm> probed,
                       BlockSurvey& block) const {
    if (probed.empty()) return {};
    std::vector<Matrix<float>> hidden;
    for (ProbedForm& p : probed) hidden.push_back(std::move(p.hidden));
    RANKFORGE_ASSIGN_OR_RETURN(const std::vector<double> divergences,
                               probe_->Divergences(layer + 1, hidden));
    for (size_t i = 0; i < probed.size(); ++i) {
      block[probed[i].site].forms[probed[i].form].sensitivity.Add(
          probed[i].error, divergences[i]);
    }
    return {};
  }

  Status SurveySite(size_t layer, Site site, const LinearForms& linear,
                    const Matrix<float>& read, SiteSurvey& survey,
                    std::vector<ProbedForm>& probed) {
    for (const Form form : FormsFor(site, run_.options.without)) {
      FormSurvey& entry = survey.forms.emplace_back();
      entry.form = form;
      entry.errors = ErrorsOf(linear, form);
      for (const double cost : plan_.costs()) {
        if (read.rows == 0 || !plan_.Probes(form)) break;
        const std::optional<double> error = linear.Error(form, cost);
        if (!error) continue;
        Adapter alone;
        RANKFORGE_RETURN_IF_ERROR(linear.AddTo(alone, form, cost, false));
        RANKFORGE_RETURN_IF_ERROR(
            run_.model.AdaptSite(layer, site, run_.checkpoint, &alone));
        Matrix<float> hidden = read;
        RunBlock(run_.model, layer, run_.options.window, hidden);
        probed.push_back({static_cast<size_t>(site), survey.forms.size() - 1,
                          *error, std::move(hidden)});
      }
    }
    if (read.rows == 0) return {};
    return run_.model.AdaptSite(layer, site, run_.checkpoint, nullptr);
  }

  // The probed blocks around `layer`, and the share of the way from the first
  // of them to the second at which it lies.
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
  const Sensitivity* SensitivityAt(size_t layer, size_t site,
                                   size_t form) const {
    const std::vector<FormSurvey>& forms = blocks_[layer][site].forms;
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
        const SiteSurvey& site = blocks_[layer][p];
        BudgetedLayer& entry = layers.emplace_back();
        entry.dense_cost = site.dense_cost;
        entry.candidates.push_back({});
        for (size_t f = 0; f < site.forms.size(); ++f) {
          const FormSurvey& form = site.forms[f];
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
  // Tokens of the sample: the first ones are surveyed, those after them probed.
  // A form that was fitted to the tokens it is measured on would look better
  // than it is. Only a sample of a single window has no other tokens.
  size_t survey_tokens_;
  size_t probe_begin_ = 0;
  size_t run_tokens_ = 0;       // both
  size_t backward_tokens_ = 0;  // the first ones, with gradients
  Matrix<float> gradient_;      // at the output of the next block
  std::optional<Probe> probe_;
  std::vector<BlockSurvey> blocks_;  // finished: the last block first
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
