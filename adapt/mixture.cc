#include "adapt/mixture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <utility>

#include "adapt/block_builder.h"
#include "adapt/calibration.h"
#include "adapt/probe.h"

namespace rankforge {
namespace {

// Costs at which forms are compared.
constexpr double kCosts[] = {0.15, 0.2,  0.25, 0.3, 0.35, 0.4, 0.45,
                             0.5,  0.55, 0.6,  0.7, 0.8,  0.9};
// Those at which the divergence is measured; a straight line through them, and
// through nothing lost, tells it of other errors.
constexpr double kProbeCosts[] = {0.35, 0.6};
// On an eighth of the calibration tokens, at most so many.
constexpr size_t kProbeTokens = 2048;
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

// The divergence that belongs to an error, by what was measured: (error,
// divergence) with ascending errors.
class Sensitivity {
 public:
  void Add(double error, double divergence) {
    points_.emplace_back(error, std::max(divergence, 0.0));
    std::sort(points_.begin(), points_.end());
  }
  bool known() const { return points_.size() > 1; }
  double At(double error) const {
    size_t i = 1;
    while (i + 1 < points_.size() && points_[i].first < error) ++i;
    const auto [x0, y0] = points_[i - 1];
    const auto [x1, y1] = points_[i];
    if (x1 <= x0) return y1;
    return std::max(0.0, y0 + (error - x0) * (y1 - y0) / (x1 - x0));
  }

 private:
  std::vector<std::pair<double, double>> points_{{0, 0}};
};

class MixturePlanner : public Planner {
 public:
  explicit MixturePlanner(const AdaptRun& run) : run_(run) {}

  Status Plan(double keep, Adapter& adapter) override {
    if (layers_.empty()) RANKFORGE_RETURN_IF_ERROR(Survey());
    const std::vector<Candidate> chosen = AllocateAll(keep);
    std::vector<BlockChoices> choices(run_.spec.blocks.size());
    double predicted = 0, spent = 0, total = 0;
    for (size_t i = 0; i < chosen.size(); ++i) {
      spent += chosen[i].cost * layers_[i].dense_cost;
      total += layers_[i].dense_cost;
      choices[i / kPlaces.size()][i % kPlaces.size()] = {chosen[i].form,
                                                         chosen[i].cost};
      predicted += chosen[i].loss;
    }
    if (spent > keep * total * (1 + 1e-9)) {
      return UsageError(fmt::format(
          "keep {}: the cheapest forms of all layers cost {:.4f} of the dense "
          "ones: ask for more, or leave less out",
          keep, spent / total));
    }
    adapter.parameters["predicted_divergence"] =
        fmt::format("{:.6f}", predicted);
    const std::set<Refinement>& without = run_.options.without;
    return BuildBlocks(run_, choices,
                       {.behind = !without.contains(Refinement::kBehind),
                        .refit = !without.contains(Refinement::kRefit)},
                       adapter);
  }
  size_t steps() const override {
    return run_.spec.blocks.size() * (layers_.empty() ? 2 : 1);
  }

 private:
  std::vector<Candidate> AllocateAll(double keep) const {
    if (!run_.options.without.contains(Refinement::kCrossLayer)) {
      return Allocate(layers_, keep);
    }
    std::vector<Candidate> chosen;
    for (size_t i = 0; i < layers_.size(); i += kPlaces.size()) {
      const std::vector<Candidate> block =
          Allocate(std::span(layers_).subspan(i, kPlaces.size()), keep);
      chosen.insert(chosen.end(), block.begin(), block.end());
    }
    return chosen;
  }

  // Fills layers_.
  Status Survey() {
    const size_t window = run_.options.window;
    const auto whole = [&](size_t tokens) {
      return std::min(run_.sample.size(),
                      std::max(tokens / window, size_t{1}) * window);
    };
    RANKFORGE_ASSIGN_OR_RETURN(
        Calibration calibration,
        Calibration::Start(run_.model, run_.sample.first(whole(kSurveyTokens)),
                           window));
    const size_t probe_tokens =
        whole(std::min(kProbeTokens, run_.sample.size() / 8));
    const auto probed = [&] {
      Matrix<float> hidden(probe_tokens, calibration.hidden().cols);
      std::copy_n(calibration.hidden().values.begin(), hidden.values.size(),
                  hidden.values.begin());
      return hidden;
    };
    const Probe probe(run_.model, window, probed());
    for (size_t layer = 0; layer < run_.spec.blocks.size(); ++layer) {
      const Calibration::LayerInputs inputs = calibration.PeekLayer();
      const Matrix<float> hidden = probed();
      for (const Place place : kPlaces) {
        RANKFORGE_RETURN_IF_ERROR(
            SurveyPlace(layer, place, inputs, hidden, probe));
      }
      RANKFORGE_RETURN_IF_ERROR(
          run_.model.AdaptBlock(layer, run_.checkpoint, nullptr));
      calibration.SkipLayer();
      run_.step(fmt::format("survey of layer {}", layer));
    }
    return {};
  }

  Status SurveyPlace(size_t layer, Place place,
                     const Calibration::LayerInputs& inputs,
                     const Matrix<float>& hidden, const Probe& probe) {
    const std::vector<Form> forms = FormsFor(place, run_.options.without);
    RANKFORGE_ASSIGN_OR_RETURN(
        const LinearForms linear,
        FormsAt(run_, layer, place, inputs,
                std::any_of(forms.begin(), forms.end(), IsRank)));
    Layer& entry = layers_.emplace_back();
    entry.dense_cost = linear.dense_cost();
    entry.candidates.push_back({});
    for (const Form form : forms) {
      Sensitivity sensitivity;
      for (const double cost : kProbeCosts) {
        const std::optional<double> error = linear.Error(form, cost);
        if (!error) continue;
        Adapter alone;
        RANKFORGE_RETURN_IF_ERROR(linear.AddTo(alone, form, cost, false));
        RANKFORGE_RETURN_IF_ERROR(
            run_.model.AdaptBlock(layer, run_.checkpoint, &alone));
        sensitivity.Add(*error, probe.Divergence(layer, hidden));
      }
      if (!sensitivity.known()) continue;
      for (const double cost : kCosts) {
        const std::optional<double> error = linear.Error(form, cost);
        if (!error) continue;
        entry.candidates.push_back({form, cost, sensitivity.At(*error)});
      }
    }
    return {};
  }

  AdaptRun run_;
  std::vector<Layer> layers_;  // blocks, and places in them
};

}  // namespace

std::vector<Candidate> Allocate(std::span<const Layer> layers, double keep) {
  double total = 0;
  for (const Layer& layer : layers) total += layer.dense_cost;
  // Cheapest where nothing else differs, so that the price decides alone.
  const auto at = [&](double price) {
    std::vector<Candidate> chosen;
    for (const Layer& layer : layers) {
      const auto value = [&](const Candidate& c) {
        return c.loss + price * c.cost * layer.dense_cost / total;
      };
      chosen.push_back(*std::min_element(
          layer.candidates.begin(), layer.candidates.end(),
          [&](const Candidate& a, const Candidate& b) {
            return std::pair(value(a), a.cost) < std::pair(value(b), b.cost);
          }));
    }
    return chosen;
  };
  const auto spent = [&](const std::vector<Candidate>& chosen) {
    double cost = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
      cost += chosen[i].cost * layers[i].dense_cost;
    }
    return cost / total;
  };
  // Prices from one that buys everything to one that buys nothing.
  double low = 1e-9, high = 1e9;
  while (high > low * (1 + 1e-9)) {
    const double price = std::sqrt(low * high);
    (spent(at(price)) > keep ? low : high) = price;
  }
  return at(high);
}

double SmallestMixtureKeep(const ModelConfig&, const AdaptOptions&) {
  return kCosts[0];
}

std::unique_ptr<Planner> MakeMixturePlanner(const AdaptRun& run) {
  return std::make_unique<MixturePlanner>(run);
}

}  // namespace rankforge
