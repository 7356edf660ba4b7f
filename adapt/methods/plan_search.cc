#include "adapt/methods/plan_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <utility>

#include "adapt/methods/block_builder.h"
#include "adapt/methods/mixture.h"
#include "adapt/methods/plan_judge.h"
#include "adapt/methods/probe_plan.h"
#include "adapt/methods/rotated.h"
#include "adapt/methods/rotated_survey.h"
#include "adapt/methods/stream_bases.h"
#include "adapt/methods/teal_greedy.h"
#include "adapt/methods/uniform.h"

namespace rankforge {
namespace {

using Json = nlohmann::json;

constexpr char kSnapshot[] = "search";
// Plans that are judged for one unit of effort, beside the starts. In a large
// model, packing blocks alone takes minutes for each.
constexpr size_t kPlansPerEffort = 8;
constexpr size_t kPlansOfLargeModels = 2;
// A plan that loses less by this share counts as better.
constexpr double kPays = 0.002;
// How far a step may move a projection's cost at first, and at least.
constexpr double kFirstReach = 0.2;
constexpr double kLeastReach = 0.02;
constexpr double kCostStep = 0.01;  // between candidates
// Of what a projection is taken to lose, the share that is predicted from the
// survey; the rest is measured. What is measured of one projection is noisy.
constexpr double kPrior = 0.25;
constexpr double kLeastShare = 0.1;  // of the prediction
// The divergence falls with about this power of the cost. Judged plans meet
// the cost within 1 %: this makes them comparable.
constexpr double kPower = 6;

bool MayMask(const StartContext& context) {
  return !context.run.options.without.contains(Refinement::kInputMasks);
}

template <Form form>
std::unique_ptr<Planner> MakeUniformStart(const StartContext& context) {
  if (!MayMask(context)) return nullptr;
  return MakeUniformPlanner<form>(context.run);
}
std::unique_ptr<Planner> MakeRotatedStart(const StartContext& context) {
  if (context.bases == nullptr || !PlansRotated(context.run)) return nullptr;
  return MakeRotatedPlanner(
      ForBases(context.run),
      PlannedGroupBlocks(context.run.model.config().layers), context.bases);
}
std::unique_ptr<Planner> MakeGreedyStart(const StartContext& context) {
  // It runs every block some thirty times.
  if (!MayMask(context) || IsLarge(context.run.model.config())) return nullptr;
  return MakeTealGreedyPlanner(context.run);
}

// The loss of `layer` with this choice, between its candidates on a logarithmic
// scale.
double LossOf(const BudgetedLayer& layer, const FormChoice& choice) {
  if (choice.form == Form::kDense) return 0;
  const FormCandidate* below = nullptr;
  const FormCandidate* above = nullptr;
  for (const FormCandidate& candidate : layer.candidates) {
    if (candidate.form != choice.form) continue;
    if (candidate.cost <= choice.cost &&
        (below == nullptr || candidate.cost > below->cost)) {
      below = &candidate;
    }
    if (candidate.cost >= choice.cost &&
        (above == nullptr || candidate.cost < above->cost)) {
      above = &candidate;
    }
  }
  if (below == nullptr && above == nullptr) return 0;
  if (below == nullptr) return above->loss * above->cost / choice.cost;
  const FormCandidate dense;
  if (above == nullptr) above = &dense;
  if (above->cost <= below->cost) return below->loss;
  const double share =
      (choice.cost - below->cost) / (above->cost - below->cost);
  if (below->loss > 0 && above->loss > 0) {
    return std::exp((1 - share) * std::log(below->loss) +
                    share * std::log(above->loss));
  }
  return (1 - share) * below->loss + share * above->loss;
}

// What all choices cost relative to the dense layers.
double CostOf(const std::vector<BlockChoices>& choices,
              const std::vector<BudgetedLayer>& layers) {
  double cost = 0, total = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    const double dense = layers[i].dense_cost;
    cost += dense * choices[i / kSites.size()][kSites[i % kSites.size()]].cost;
    total += dense;
  }
  return cost / total;
}

// Proposes plans near the best one.
class Refiner {
 public:
  // All layers together cost `keep`. In `rotation`, layers that read the stream
  // keep their forms, because the others are those of another basis.
  Refiner(const std::vector<BudgetedLayer>& layers, double keep,
          const Rotation& rotation)
      : layers_(layers), keep_(keep), rotation_(rotation) {}

  // The plan that loses least by what was measured of `choices`, whose costs
  // are at most `reach` away. `switches`: forms may change.
  std::vector<BlockChoices> Propose(const std::vector<BlockChoices>& choices,
                                    const std::vector<SiteEffects>& effects,
                                    double reach, bool switches) const {
    const std::vector<double> scales = ScalesOf(choices, effects);
    std::vector<BudgetedLayer> near;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const FormChoice& now = At(choices, i);
      BudgetedLayer& layer = near.emplace_back();
      layer.dense_cost = layers_[i].dense_cost;
      if (IsTurned(i) && now.form == Form::kDense) {
        layer.candidates.push_back({});
        continue;
      }
      for (const Form form :
           FormsOf(layers_[i], now, switches && !IsTurned(i))) {
        AddNear(i, form, now.cost, reach, scales[i], layer);
      }
      if (now.cost + reach >= 1) layer.candidates.push_back({});
    }
    const std::vector<FormCandidate> chosen = Allocate(near, keep_);
    std::vector<BlockChoices> proposed(choices.size());
    for (size_t i = 0; i < chosen.size(); ++i) {
      proposed[i / kSites.size()][kSites[i % kSites.size()]] = {chosen[i].form,
                                                                chosen[i].cost};
    }
    return proposed;
  }

 private:
  static const FormChoice& At(const std::vector<BlockChoices>& choices,
                              size_t i) {
    return choices[i / kSites.size()][kSites[i % kSites.size()]];
  }
  bool IsTurned(size_t i) const {
    return rotation_.Of(i / kSites.size()) != nullptr &&
           ReadsStream(kSites[i % kSites.size()]);
  }
  static std::vector<Form> FormsOf(const BudgetedLayer& layer,
                                   const FormChoice& now, bool switches) {
    if (!switches && now.form != Form::kDense) return {now.form};
    std::vector<Form> forms;
    for (const FormCandidate& candidate : layer.candidates) {
      if (candidate.form != Form::kDense &&
          (forms.empty() || forms.back() != candidate.form)) {
        forms.push_back(candidate.form);
      }
    }
    return forms;
  }

  // What predicted losses are multiplied by, so that those of `choices` are
  // what was measured.
  std::vector<double> ScalesOf(const std::vector<BlockChoices>& choices,
                               const std::vector<SiteEffects>& effects) const {
    double measured = 0, predicted = 0;
    for (size_t i = 0; i < layers_.size(); ++i) {
      measured += EffectOf(effects, i);
      predicted += LossOf(layers_[i], At(choices, i));
    }
    const double mean =
        predicted > 0 && measured > 0 ? measured / predicted : 1;
    std::vector<double> scales;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const double loss = mean * LossOf(layers_[i], At(choices, i));
      const double found = (1 - kPrior) * EffectOf(effects, i) + kPrior * loss;
      scales.push_back(loss > 0 ? mean * std::max(found / loss, kLeastShare)
                                : mean);
    }
    return scales;
  }
  static double EffectOf(const std::vector<SiteEffects>& effects, size_t i) {
    return effects[i / kSites.size()][kSites[i % kSites.size()]];
  }

  // Adds the candidates of one form of projection `i` to `layer`.
  void AddNear(size_t i, Form form, double cost, double reach, double scale,
               BudgetedLayer& layer) const {
    double least = cost;
    for (const FormCandidate& candidate : layers_[i].candidates) {
      if (candidate.form == form) least = std::min(least, candidate.cost);
    }
    const double first = std::max(least, cost - reach);
    for (double at = first; at < std::min(1.0, cost + reach) + 1e-9;
         at += kCostStep) {
      if (at >= 1) break;
      layer.candidates.push_back(
          {form, at, scale * LossOf(layers_[i], {form, at})});
    }
  }

  const std::vector<BudgetedLayer>& layers_;
  double keep_;
  const Rotation& rotation_;
};

Json ToJson(const std::vector<BlockChoices>& choices) {
  Json list = Json::array();
  for (const BlockChoices& block : choices) {
    for (const FormChoice& choice : block) {
      list.push_back({static_cast<int>(choice.form), choice.cost});
    }
  }
  return list;
}

// Throws Json::exception.
std::vector<BlockChoices> ChoicesFrom(const Json& list) {
  std::vector<BlockChoices> choices(list.size() / kSites.size());
  for (size_t i = 0; i < choices.size() * kSites.size(); ++i) {
    choices[i / kSites.size()][kSites[i % kSites.size()]] = {
        static_cast<Form>(list.at(i).at(0).get<int>()),
        list.at(i).at(1).get<double>()};
  }
  return choices;
}

class PlanSearch {
 public:
  PlanSearch(const StartContext& context, double keep)
      : context_{context.run, context.layers, &bases_},
        run_(context.run),
        keep_(keep),
        tokens_(JudgeTokens::Of(run_.model.config(), run_.options.window,
                                run_.sample.size())) {}

  Result<FoundPlan> Run() {
    RANKFORGE_RETURN_IF_ERROR(Restore());
    const size_t steps = Starts().size() + refined_;
    const double work = PlanWork();
    run_.meter.Extend(steps, work * static_cast<double>(steps));
    for (size_t i = 0; i < started_ + refined_; ++i) run_.meter.Skip(work);
    while (started_ < Starts().size()) {
      RANKFORGE_RETURN_IF_ERROR(JudgeStart(Starts()[started_]));
    }
    if (best_.start.empty()) {
      return UsageError(fmt::format(
          "keep {}: no form of the layers costs so little: ask for more, or "
          "leave less out",
          keep_));
    }
    const size_t plans =
        run_.options.effort *
        (IsLarge(run_.model.config()) ? kPlansOfLargeModels : kPlansPerEffort);
    while (refined_ < plans && Pays()) {
      run_.meter.Extend(1, work);
      RANKFORGE_RETURN_IF_ERROR(JudgeNear());
    }
    if (BasesOfBest() != nullptr) best_.rotation = std::move(bases_);
    return best_;
  }

 private:
  double PlanWork() const { return MacsPerPlan(run_.model.config(), tokens_); }
  // Whether there is something to refine.
  bool Pays() const { return !effects_.empty() && reach_ >= kLeastReach; }

  Status StartJudge() {
    if (judge_) return {};
    RANKFORGE_ASSIGN_OR_RETURN(judge_, PlanJudge::Create(run_, tokens_));
    return {};
  }

  // The divergence of a prepared plan, as if it cost what was asked.
  Result<double> Divergence(Planner& planner) {
    RANKFORGE_RETURN_IF_ERROR(StartJudge());
    RANKFORGE_ASSIGN_OR_RETURN(const Judgement judged, judge_->Judge(planner));
    if (run_.options.times) return judged.divergence;
    return judged.divergence * std::pow(judged.ratio / keep_, kPower);
  }
  // Makes the plan judged last the best.
  Status Accept(std::vector<BlockChoices> choices, double divergence) {
    best_.divergence = divergence;
    best_.choices = std::move(choices);
    effects_.clear();
    if (best_.choices.empty() || run_.options.effort == 0) return {};
    RANKFORGE_ASSIGN_OR_RETURN(effects_, judge_->Effects(BasesOfBest()));
    return {};
  }

  Status JudgeStart(const Start& start) {
    const std::unique_ptr<Planner> planner = start.make(context_);
    Adapter unused;
    const Status prepared =
        planner ? planner->Prepare(keep_, unused) : UsageError("left out");
    std::string what = fmt::format("plan {}: not possible", start.name);
    if (prepared.ok()) {
      const Result<double> divergence = Divergence(*planner);
      if (divergence.ok()) {
        what =
            fmt::format("plan {}: divergence {:.4f}", start.name, *divergence);
        if (best_.start.empty() || *divergence < best_.divergence) {
          best_.start = start.name;
          best_.start_divergence = *divergence;
          RANKFORGE_RETURN_IF_ERROR(Accept(planner->choices(), *divergence));
        }
      } else if (divergence.status().code() != StatusCode::kUsage) {
        return divergence.status();
      }
    } else if (prepared.code() != StatusCode::kUsage) {
      return prepared;
    }
    ++started_;
    RANKFORGE_RETURN_IF_ERROR(Save());
    return run_.meter.Step(what, PlanWork());
  }

  // One step from the best plan.
  Status JudgeNear() {
    static const Rotation kNone;
    Rotation* const bases = BasesOfBest();
    const Rotation& rotation = bases == nullptr ? kNone : *bases;
    const Refiner refiner(
        context_.layers,
        keep_ - TurnShare(run_.model.config(), rotation, run_.options.Costs()),
        rotation);
    const std::vector<BlockChoices> proposed =
        refiner.Propose(best_.choices, effects_, reach_, switches_);
    const bool switched = Switched(proposed);
    const std::unique_ptr<Planner> planner =
        MakeChoicesPlanner(run_, proposed, BasesOfBest());
    RANKFORGE_ASSIGN_OR_RETURN(const double divergence, Divergence(*planner));
    const std::string what =
        fmt::format("plan {} refined: divergence {:.4f}, best {:.4f}",
                    best_.start, divergence, best_.divergence);
    if (divergence < best_.divergence * (1 - kPays)) {
      RANKFORGE_RETURN_IF_ERROR(Accept(proposed, divergence));
    } else if (switched) {
      switches_ = false;
    } else {
      reach_ /= 2;
    }
    ++refined_;
    RANKFORGE_RETURN_IF_ERROR(Save());
    return run_.meter.Step(what, PlanWork());
  }
  // Whether a form other than dense differs from that of the best plan.
  bool Switched(const std::vector<BlockChoices>& proposed) const {
    for (size_t layer = 0; layer < proposed.size(); ++layer) {
      for (const Site site : kSites) {
        const Form from = best_.choices[layer][site].form;
        const Form to = proposed[layer][site].form;
        if (from != to && from != Form::kDense && to != Form::kDense) {
          return true;
        }
      }
    }
    return false;
  }

  Status Save() const {
    Json effects = Json::array();
    for (const SiteEffects& block : effects_) {
      effects.push_back(static_cast<const std::array<double, 4>&>(block));
    }
    const Json json = {{"started", started_},
                       {"refined", refined_},
                       {"reach", reach_},
                       {"switches", switches_},
                       {"start", best_.start},
                       {"start_divergence", best_.start_divergence},
                       {"divergence", best_.divergence},
                       {"choices", ToJson(best_.choices)},
                       {"effects", effects}};
    return run_.state.SaveSnapshot(kSnapshot, {{}, json.dump()});
  }
  Status Restore() {
    RANKFORGE_ASSIGN_OR_RETURN(const std::optional<Snapshot> snapshot,
                               run_.state.LoadSnapshot(kSnapshot));
    if (!snapshot) return {};
    try {
      const Json json = Json::parse(snapshot->text);
      started_ = json.at("started").get<size_t>();
      refined_ = json.at("refined").get<size_t>();
      reach_ = json.at("reach").get<double>();
      switches_ = json.at("switches").get<bool>();
      best_ = {json.at("start").get<std::string>(),
               json.at("start_divergence").get<double>(),
               json.at("divergence").get<double>(),
               ChoicesFrom(json.at("choices")),
               {}};
      for (const Json& block : json.at("effects")) {
        static_cast<std::array<double, 4>&>(effects_.emplace_back()) =
            block.get<std::array<double, 4>>();
      }
    } catch (const Json::exception&) {
      best_ = {"", 0, 0, std::vector<BlockChoices>(1), {}};
    }
    const size_t blocks = run_.spec.blocks.size();
    const auto fits = [&](size_t size) { return size == 0 || size == blocks; };
    if (!fits(best_.choices.size()) || !fits(effects_.size())) {
      return Failed(
          "unfinished work: the search is not one of this model; remove the "
          "folder to start from the beginning");
    }
    return RestoreBases();
  }
  // Finds the bases again, which the state has kept, where a start has needed
  // them: their steps count as done.
  Status RestoreBases() {
    const auto first = std::ranges::find_if(Starts(), &Start::rotates);
    if (started_ <= static_cast<size_t>(first - Starts().begin()) ||
        !PlansRotated(run_)) {
      return {};
    }
    RANKFORGE_ASSIGN_OR_RETURN(bases_, FindPlannedRotation(ForBases(run_)));
    return {};
  }
  // Null: the best plan leaves the stream as it is.
  Rotation* BasesOfBest() {
    const Start* const start = StartNamed(best_.start);
    return start != nullptr && start->rotates ? &bases_ : nullptr;
  }

  Rotation bases_;  // of starts that rotate
  StartContext context_;
  const AdaptRun& run_;
  double keep_;
  JudgeTokens tokens_;
  std::optional<PlanJudge> judge_;
  // What is saved.
  size_t started_ = 0, refined_ = 0;  // plans judged
  double reach_ = kFirstReach;
  bool switches_ = true;
  FoundPlan best_;
  std::vector<SiteEffects> effects_;  // of the best plan
};

}  // namespace

const std::vector<Start>& Starts() {
  static const std::vector<Start> starts = {
      {"mixture", MakeMixturePlanner},
      {"fisher",
       [](const StartContext& context) {
         return MakeFisherPlanner(context, nullptr);
       }},
      {"teal", MakeUniformStart<Form::kMagnitude>},
      {"wina", MakeUniformStart<Form::kWeighted>},
      {"teal-greedy", MakeGreedyStart},
      {"rotated", MakeRotatedStart, true},
      {"rotated-fisher", MakeRotatedFisherPlanner, true},
  };
  return starts;
}

const Start* StartNamed(const std::string& name) {
  for (const Start& start : Starts()) {
    if (start.name == name) return &start;
  }
  return nullptr;
}

Result<FoundPlan> FindPlan(const StartContext& context, double keep) {
  return PlanSearch(context, keep).Run();
}

std::vector<BlockChoices> Rescaled(std::vector<BlockChoices> choices,
                                   const std::vector<BudgetedLayer>& layers,
                                   double keep) {
  const double move = keep - CostOf(choices, layers);
  double movable = 0, total = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    const FormChoice& choice =
        choices[i / kSites.size()][kSites[i % kSites.size()]];
    if (choice.form != Form::kDense) movable += layers[i].dense_cost;
    total += layers[i].dense_cost;
  }
  for (BlockChoices& block : choices) {
    for (FormChoice& choice : block) {
      if (choice.form != Form::kDense) choice.cost += move * total / movable;
    }
  }
  return choices;
}

}  // namespace rankforge
