#include "adapt/methods/survey.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "adapt/calibrate/calibration.h"
#include "adapt/calibrate/loss_gradient.h"
#include "adapt/calibrate/ordinary_tokens.h"
#include "adapt/calibrate/probe.h"
#include "adapt/methods/block_builder.h"
#include "adapt/methods/block_survey.h"
#include "adapt/methods/probe_plan.h"
#include "adapt/methods/rotated_survey.h"

namespace rankforge {
namespace {

using Json = nlohmann::json;

// Tokens that errors at all costs are computed on.
constexpr size_t kSurveyTokens = 8192;
// The backward pass takes four multiply-adds per weight and token, one of them
// to compute forward values again. For a small model it sees all survey tokens,
// for a larger one as many as take at most kBackwardWork multiply-adds: 1792
// for Llama-2-7B.
constexpr double kBackwardMacs = 4;
constexpr double kBackwardWork = 5e13;

Json ToJson(const std::vector<BlockSurvey>& blocks) {
  Json list = Json::array();
  for (const BlockSurvey& block : blocks) {
    Json sites = Json::array();
    for (const SiteSurvey& site : block) {
      Json forms = Json::array();
      for (const FormSurvey& form : site.forms) {
        forms.push_back({{"form", static_cast<int>(form.form)},
                         {"errors", form.errors},
                         {"gradient_losses", form.gradient_losses},
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
        survey.gradient_losses =
            form.at("gradient_losses").get<std::vector<double>>();
        survey.sensitivity =
            Sensitivity(form.at("divergences")
                            .get<std::vector<std::pair<double, double>>>());
      }
    }
  }
  return blocks;
}

// Those of the columns of `matrix` (tokens, cols), gradients at inputs.
std::vector<float> SlopesAt(const Matrix<float>& matrix) {
  std::vector<double> squares(matrix.cols);
  for (size_t t = 0; t < matrix.rows; ++t) {
    for (size_t j = 0; j < matrix.cols; ++j) {
      squares[j] += static_cast<double>(matrix.row(t)[j]) * matrix.row(t)[j];
    }
  }
  for (double& square : squares) square /= static_cast<double>(matrix.rows);
  return SlopesOf(squares);
}

// Walks the dense model: forward, to keep what every block reads, and then from
// the last block to the first, to survey each.
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
    if (run.options.without.contains(Refinement::kFisher)) return;
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
                  (static_cast<double>(survey_tokens_) + 16.0 * 256.0 +
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

  // The name under which the state keeps what block `layer` of the dense model
  // reads, or the final norm where `layer` is the number of layers.
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
      RANKFORGE_RETURN_IF_ERROR(run_.model.CheckFinite());
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
    SiteInputs inputs =
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
  // reads `hidden`. Leaves ordinary tokens in `inputs`.
  Result<Bases> BasesOf(size_t layer, Matrix<float> hidden,
                        SiteInputs& inputs) {
    SiteGradients gradients;
    if (backward_tokens_ > 0) {
      RANKFORGE_ASSIGN_OR_RETURN(
          gradients,
          BackThroughBlock(run_.model, run_.checkpoint, layer,
                           run_.options.window, hidden, inputs, gradient_));
    }
    hidden = {};  // freed before bases take memory
    slopes_ = {};
    for (const Site site : kSites) {
      const std::vector<size_t> rows = OrdinaryTokens(
          {&inputs[site]}, run_.options.window, run_.options.SinksApart());
      inputs[site] = RowsOf(inputs[site], rows);
      gradients[site] = RowsOf(gradients[site], rows);
      if (gradients[site].rows == 0) continue;
      RANKFORGE_RETURN_IF_ERROR(KeepFisher(run_, layer, site, gradients[site]));
      slopes_[site] = SlopesAt(gradients[site]);
      RANKFORGE_RETURN_IF_ERROR(run_.state.SaveSlopes(
          layer, run_.spec.blocks[layer][site].name, slopes_[site]));
    }
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
    Result<LinearForms> forms =
        basis.empty()
            ? LinearForms::Create(module, std::move(w), x, false, grid,
                                  executor)
            : LinearForms::InBasis(module, std::move(w), x,
                                   std::move(basis.mapped()), grid, executor);
    if (forms.ok()) forms->SetSlopes(slopes_[site]);
    return forms;
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
      if (form == Form::kSloped) entry.gradient_losses = GradientLosses(linear);
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
        RANKFORGE_RETURN_IF_ERROR(run_.model.CheckFinite());
        probed.push_back({static_cast<size_t>(site), survey.forms.size() - 1,
                          *error, std::move(hidden)});
      }
    }
    if (read.rows == 0) return {};
    return run_.model.AdaptSite(layer, site, run_.checkpoint, nullptr);
  }

  std::vector<BudgetedLayer> Candidates() const {
    return CandidatesOf(blocks_, plan_);
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
  // At the inputs of the block that is surveyed, by column; empty: not known.
  BySite<std::vector<float>> slopes_;
  std::optional<Probe> probe_;
  std::vector<BlockSurvey> blocks_;  // finished: the last block first
};

}  // namespace

Result<std::vector<BudgetedLayer>> Survey(const AdaptRun& run) {
  return Surveyor(run).Run();
}

}  // namespace rankforge
