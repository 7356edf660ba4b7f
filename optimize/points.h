// Models with given forms and weight types, measured as a whole, and which of
// them to choose.
#ifndef RANKFORGE_OPTIMIZE_POINTS_H_
#define RANKFORGE_OPTIMIZE_POINTS_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "runtime/model/format/adapter.h"
#include "runtime/model/format/checkpoint.h"
#include "runtime/model/forward/model.h"
#include "runtime/model/use/decode_times.h"
#include "runtime/model/use/evaluation.h"
#include "runtime/model/weights/model_options.h"
#include "runtime/table/dispatch.h"

namespace rankforge {

// What was measured of a whole model.
struct PointFigures {
  double loss = 0;  // nats per held-out token
  Difference against_dense;
  // Decoding, medians and means over tokens.
  double ms_per_token = 0;
  double mean_ms_per_token = 0;
  // The median over tokens of its time / the baseline's for the same token.
  double time_ratio = 1;
  double bytes_per_token = 0;  // of weights read, lm_head included
};

struct MeterOptions {
  size_t window = 256;
  size_t context = 128;  // tokens in the KV cache when timing starts
  size_t tokens = 48;    // decoded; the first two are not timed
  size_t threads = 1;
};

// Whether that many tokens are enough to decode context + tokens.
Status CheckHeldTokens(size_t held, const MeterOptions& options);

class PointMeter {
 public:
  // `held` are tokens that nothing was fitted to; at least a window, and as
  // CheckHeldTokens says. Predictions are compared with those of the dense
  // model in the type that holds the checkpoint, and times with those of the
  // dense model with `baseline`. Both stay in memory. `checkpoint` and
  // `dispatcher` must outlive this.
  static Result<PointMeter> Create(const Checkpoint& checkpoint,
                                   const Dispatcher& dispatcher,
                                   const ModelOptions& baseline,
                                   std::span<const int> held,
                                   const MeterOptions& options);

  // Of the model with `adapter` (may be null) and `options`.
  Result<PointFigures> Measure(const Adapter* adapter,
                               const ModelOptions& options);

 private:
  PointMeter(const Checkpoint& checkpoint, const Dispatcher& dispatcher,
             std::span<const int> held, const MeterOptions& options,
             std::shared_ptr<Executor> executor, Model reference)
      : checkpoint_(&checkpoint),
        dispatcher_(&dispatcher),
        held_(held.begin(), held.end()),
        options_(options),
        executor_(std::move(executor)),
        reference_(std::move(reference)) {}

  Status Time(TimedModels& models);

  const Checkpoint* checkpoint_;
  const Dispatcher* dispatcher_;
  std::vector<int> held_;
  MeterOptions options_;
  std::shared_ptr<Executor> executor_;  // of all models, which take turns
  Model reference_;
  std::unique_ptr<TimedModel> baseline_;
};

// By point: whether another one takes no longer and diverges no more, and is
// better in one of both.
std::vector<bool> DominatedPoints(std::span<const PointFigures> points);

// The quickest point whose loss exceeds the dense model's by `max_loss` nats or
// less; none does: nothing.
std::optional<size_t> QuickestWithin(std::span<const PointFigures> points,
                                     double max_loss);
// The point that diverges least of those that take at most `time_ratio` of the
// baseline's time; none does: nothing. The divergence tells points apart that
// the loss, which depends on what the text says, does not.
std::optional<size_t> ClosestWithin(std::span<const PointFigures> points,
                                    double time_ratio);

}  // namespace rankforge

#endif  // RANKFORGE_OPTIMIZE_POINTS_H_
