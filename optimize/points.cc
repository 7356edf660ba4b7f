#include "optimize/points.h"

#include <fmt/format.h>

#include <numeric>
#include <utility>

#include "adapt/calibrate/load_weights.h"
#include "base/statistics.h"
#include "runtime/threads/executor.h"

namespace rankforge {

Status CheckHeldTokens(size_t held, const MeterOptions& options) {
  if (held >= options.context + options.tokens) return {};
  return Failed(fmt::format(
      "optimize: {} held-out tokens are fewer than a context of {} and {} "
      "tokens to time; use a longer text, more --held, a smaller --context or "
      "fewer -n",
      held, options.context, options.tokens));
}

Result<PointMeter> PointMeter::Create(const Checkpoint& checkpoint,
                                      const Dispatcher& dispatcher,
                                      const ModelOptions& baseline,
                                      std::span<const int> held,
                                      const MeterOptions& options) {
  RANKFORGE_RETURN_IF_ERROR(CheckHeldTokens(held.size(), options));
  RANKFORGE_ASSIGN_OR_RETURN(const WeightType stored, StoredType(checkpoint));
  std::shared_ptr<Executor> executor = MakeDefaultExecutor(options.threads);
  RANKFORGE_ASSIGN_OR_RETURN(
      Model reference, Model::Create(checkpoint.config(), checkpoint, nullptr,
                                     Dispatcher(nullptr),
                                     {.type = stored,
                                      .lm_head_type = stored,
                                      .activations = Activations::kF32,
                                      .threads = options.threads},
                                     executor));
  PointMeter meter(checkpoint, dispatcher, held, options, executor,
                   std::move(reference));
  RANKFORGE_ASSIGN_OR_RETURN(
      Model dense, Model::Create(checkpoint.config(), checkpoint, nullptr,
                                 dispatcher, baseline, executor));
  meter.baseline_ = std::make_unique<TimedModel>(
      std::move(dense), options.context + options.tokens);
  return meter;
}

// Puts the context into the caches and decodes with all models in turn.
Status PointMeter::Time(TimedModels& models) {
  const std::span<const int> ids =
      std::span(held_).first(options_.context + options_.tokens);
  for (auto& timed : models) {
    timed->cache.Clear();
    RANKFORGE_RETURN_IF_ERROR(
        timed->model.Forward(ids.first(options_.context), timed->cache, {}));
  }
  return DecodeInTurns(ids, options_.context, models, [](size_t, size_t) {});
}

Result<PointFigures> PointMeter::Measure(const Adapter* adapter,
                                         const ModelOptions& options) {
  RANKFORGE_ASSIGN_OR_RETURN(
      Model model, Model::Create(checkpoint_->config(), *checkpoint_, adapter,
                                 *dispatcher_, options, executor_));
  PointFigures figures;
  RANKFORGE_ASSIGN_OR_RETURN(
      const Evaluation evaluation,
      Evaluate(model, held_,
               {.window = options_.window, .reference = &reference_}, {}));
  figures.loss = evaluation.loss;
  figures.against_dense = *evaluation.difference;
  TimedModels models;
  models.push_back(std::move(baseline_));
  models.push_back(std::make_unique<TimedModel>(
      std::move(model), options_.context + options_.tokens));
  const Status timed = Time(models);
  baseline_ = std::move(models.front());
  RANKFORGE_RETURN_IF_ERROR(timed);
  const TimedModel& point = *models.back();
  const DecodeTiming timing = TimingOf(point);
  figures.ms_per_token = timing.ms_per_token;
  figures.bytes_per_token = timing.bytes_per_token;
  figures.mean_ms_per_token =
      std::accumulate(point.seconds.begin(), point.seconds.end(), 0.0) /
      static_cast<double>(point.seconds.size()) * 1e3;
  figures.time_ratio = PairedRatio(point.seconds, baseline_->seconds).median;
  return figures;
}

std::vector<bool> DominatedPoints(std::span<const PointFigures> points) {
  const auto beats = [](const PointFigures& a, const PointFigures& b) {
    const double a_lost = a.against_dense.divergence.mean;
    const double b_lost = b.against_dense.divergence.mean;
    return a.time_ratio <= b.time_ratio && a_lost <= b_lost &&
           (a.time_ratio < b.time_ratio || a_lost < b_lost);
  };
  std::vector<bool> dominated;
  for (const PointFigures& point : points) {
    bool beaten = false;
    for (const PointFigures& other : points) {
      beaten = beaten || beats(other, point);
    }
    dominated.push_back(beaten);
  }
  return dominated;
}

std::optional<size_t> QuickestWithin(std::span<const PointFigures> points,
                                     double max_loss) {
  std::optional<size_t> best;
  for (size_t i = 0; i < points.size(); ++i) {
    if (!(points[i].against_dense.excess_loss.mean <= max_loss)) continue;
    if (!best || points[i].time_ratio < points[*best].time_ratio) best = i;
  }
  return best;
}

std::optional<size_t> ClosestWithin(std::span<const PointFigures> points,
                                    double time_ratio) {
  const auto lost = [&](size_t i) {
    return points[i].against_dense.divergence.mean;
  };
  std::optional<size_t> best;
  for (size_t i = 0; i < points.size(); ++i) {
    if (!(points[i].time_ratio <= time_ratio)) continue;
    if (!best || lost(i) < lost(*best)) best = i;
  }
  return best;
}

}  // namespace rankforge
