#include "adapt/methods/teal_greedy.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "adapt/calibrate/calibration.h"
#include "adapt/calibrate/ordinary_tokens.h"
#include "adapt/forms/input_mask.h"
#include "adapt/math/tiles.h"
#include "kernels/mask/mask.h"

namespace rankforge {
namespace {

// The share of the dense block's cost that one step saves.
constexpr double kStep = 0.04;
// Tokens that a block's error is measured on.
constexpr size_t kGreedyTokens = 1024;
// No projection is cut below this share of its cost.
constexpr double kLeastCost = 0.05;

// What x is after a mask by magnitude that keeps the share `keep` of what its
// ordinary tokens hold.
Matrix<float> Masked(const Matrix<float>& x, double keep, size_t window,
                     bool sinks_apart, Executor& executor) {
  const Matrix<float> ordinary =
      RowsOf(x, OrdinaryTokens({&x}, window, sinks_apart));
  const float tau = ShareThreshold(ordinary.values, keep, executor);
  Matrix<float> masked(x.rows, x.cols);
  ForTiles(executor, x.rows, [&](size_t begin, size_t count, size_t, size_t) {
    for (size_t i = begin * x.cols; i < (begin + count) * x.cols; ++i) {
      masked.values[i] = Keeps(x.values[i], tau) ? x.values[i] : 0.0f;
    }
  });
  return masked;
}

class GreedySearch {
 public:
  GreedySearch(const AdaptRun& run, size_t layer, const Matrix<float>& hidden)
      : run_(run), layer_(layer) {
    const CostModel costs = run.options.Costs();
    for (const Site site : kSites) {
      const ProjectionSpec& projection = run.spec.blocks[layer][site];
      dense_costs_[site] = costs.Dense(projection.rows, projection.cols);
      total_ += dense_costs_[site];
      costs_[site] = 1;
    }
    Calibration start =
        Calibration::Continue(run.model, hidden, run.options.window, layer);
    Matrix<float> x = start.First();
    places_.assign(kSites.size(), {std::move(start), std::move(x)});
    Advance(Site::kAttentionInput);
    dense_ = OutputWith(kSites.back());
    ordinary_ =
        OrdinaryTokens({&dense_}, run.options.window, run.options.SinksApart());
  }

  Result<BlockChoices> Run(double keep) {
    double left = (1 - keep) * total_;  // to be saved
    while (left > 1e-9 * total_) {
      const double step = std::min(left, kStep * total_);
      std::optional<Site> best;
      double least = 0;
      for (const Site site : kSites) {
        if (!CanCut(site, step)) continue;
        const double error = ErrorOfCut(site, step);
        if (best && error >= least) continue;
        best = site;
        least = error;
      }
      if (!best) {
        return UsageError(fmt::format(
            "keep {}: every layer of block {} keeps {} of its cost at least: "
            "ask for more",
            keep, layer_, kLeastCost));
      }
      costs_[*best] -= step / dense_costs_[*best];
      left -= step;
      Advance(*best);
    }
    BlockChoices choices;
    for (const Site site : kSites) {
      if (costs_[site] < 1) choices[site] = {Form::kMagnitude, costs_[site]};
    }
    return choices;
  }

 private:
  // A block that is about to run the projection that reads x.
  struct Place {
    Calibration calibration;
    Matrix<float> x;
  };

  std::optional<double> KeepAt(Site site) const {
    if (costs_[site] >= 1) return 1;
    const ProjectionSpec& projection = run_.spec.blocks[layer_][site];
    const double kept =
        run_.options.Costs().KeptFor(projection.rows,
                                     costs_[site] * dense_costs_[site]) /
        static_cast<double>(projection.cols);
    if (kept <= 0) return std::nullopt;
    return std::min(kept, 1.0);
  }

  bool CanCut(Site site, double step) {
    const double before = costs_[site];
    costs_[site] -= step / dense_costs_[site];
    const bool can = costs_[site] >= kLeastCost && KeepAt(site).has_value();
    costs_[site] = before;
    return can;
  }

  // Runs one projection with the mask of its cost.
  Place After(const Place& place, Site site) const {
    Place next = place;
    const double keep = *KeepAt(site);
    if (keep >= 1) {
      next.x = next.calibration.Next(site, place.x);
    } else {
      next.x = next.calibration.Next(
          site, Masked(place.x, keep, run_.options.window,
                       run_.options.SinksApart(), run_.model.executor()));
    }
    return next;
  }
  // Brings the places after `site` up to date.
  void Advance(Site site) {
    for (size_t s = static_cast<size_t>(site); s + 1 < kSites.size(); ++s) {
      places_[s + 1] = After(places_[s], kSites[s]);
    }
  }
  // The block's output, run from `site` on.
  Matrix<float> OutputWith(Site site) const {
    Place place = places_[static_cast<size_t>(site)];
    for (size_t s = static_cast<size_t>(site); s < kSites.size(); ++s) {
      place = After(place, kSites[s]);
    }
    return place.calibration.hidden();
  }
  // The squared error of the output if `site` were cut.
  double ErrorOfCut(Site site, double step) {
    const double before = costs_[site];
    costs_[site] -= step / dense_costs_[site];
    const Matrix<float> output = OutputWith(site);
    costs_[site] = before;
    double error = 0;
    for (const size_t t : ordinary_) {
      for (size_t i = 0; i < output.cols; ++i) {
        const double difference =
            static_cast<double>(output.row(t)[i]) - dense_.row(t)[i];
        error += difference * difference;
      }
    }
    return error;
  }

  const AdaptRun& run_;
  size_t layer_;
  BySite<double> dense_costs_{};
  double total_ = 0;
  BySite<double> costs_{};     // relative to the dense layer
  std::vector<Place> places_;  // by Site, with the masks so far
  Matrix<float> dense_;        // the output
  std::vector<size_t> ordinary_;
};

class TealGreedyPlanner : public Planner {
 public:
  explicit TealGreedyPlanner(const AdaptRun& run) : run_(run) {}

  Status Prepare(double keep, Adapter&) override {
    keep_ = keep;
    choices_.assign(run_.spec.blocks.size(), {});
    return {};
  }
  Status AdaptBlock(Calibration& calibration, Adapter& adapter) override {
    const size_t window = run_.options.window;
    const size_t tokens =
        std::min(calibration.hidden().rows,
                 std::max(kGreedyTokens / window, size_t{1}) * window);
    BlockChoices& choices = choices_[calibration.layer()];
    RANKFORGE_ASSIGN_OR_RETURN(
        choices, GreedyMasks(run_, calibration.layer(),
                             Rows(calibration.hidden(), 0, tokens), keep_));
    return BuildBlock(run_, choices, {}, calibration, adapter);
  }
  bool behind() const override { return true; }
  std::vector<BlockChoices> choices() const override { return choices_; }

 private:
  AdaptRun run_;
  double keep_ = 1;
  std::vector<BlockChoices> choices_;  // by block
};

}  // namespace

Result<BlockChoices> GreedyMasks(const AdaptRun& run, size_t layer,
                                 const Matrix<float>& hidden, double keep) {
  Result<BlockChoices> choices = GreedySearch(run, layer, hidden).Run(keep);
  run.model.ResetCounters();  // trials are no work of the adapted model
  return choices;
}

double SmallestTealGreedyKeep(const ModelConfig&, const AdaptOptions&) {
  return kLeastCost;
}

std::unique_ptr<Planner> MakeTealGreedyPlanner(const AdaptRun& run) {
  return std::make_unique<TealGreedyPlanner>(run);
}

}  // namespace rankforge
