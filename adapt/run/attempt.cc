#include "adapt/run/attempt.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "adapt/forms/rank_basis.h"

namespace rankforge {
namespace {

// Tokens over which the work of the adapted model is measured: its mean over
// 8192 tokens is known to about 0.1 %.
constexpr size_t kMeasureTokens = 8192;

constexpr char kSnapshot[] = "place";

}  // namespace

Status Attempt::Restore(const std::string& checkpoint_hash, Adapter& adapter) {
  RANKFORGE_ASSIGN_OR_RETURN(std::optional<Snapshot> snapshot,
                             run_.state.LoadSnapshot(kSnapshot));
  if (!snapshot) return Begin(1, run_.options.keep);
  try {
    const auto place = nlohmann::json::parse(snapshot->text);
    number_ = place.at("attempt").get<size_t>();
    planned_ = place.at("planned").get<double>();
    macs_ = place.at("macs").get<double>();
    const size_t layer = place.at("layer").get<size_t>();
    Continue(calibration_, std::move(snapshot->matrices["hidden"]), layer);
    if (snapshot->matrices.contains("adapted")) {
      Continue(adapted_, std::move(snapshot->matrices["adapted"]), layer);
    }
  } catch (const nlohmann::json::exception& error) {
    return Failed(fmt::format(
        "unfinished work: {}; remove the folder to start from the beginning",
        std::string_view(error.what())));
  }
  if (number_ < 1 || number_ > kAttempts || !Fits(calibration_) ||
      (adapted_ && !Fits(adapted_))) {
    return Failed(
        "unfinished work: what the next block reads is not of this model; "
        "remove the folder to start from the beginning");
  }
  // The meter counts the blocks of earlier attempts, too.
  const size_t before = (number_ - 1) * run_.spec.blocks.size();
  run_.meter.Extend(before, 0);
  for (size_t step = 0; step < before; ++step) run_.meter.Skip(0);
  for (size_t layer = 0; layer < calibration_->layer(); ++layer) {
    RANKFORGE_RETURN_IF_ERROR(
        run_.state.LoadBlock(number_, layer, checkpoint_hash, adapter));
  }
  return {};
}

Status Attempt::Begin(size_t number, double planned) {
  number_ = number;
  planned_ = planned;
  macs_ = 0;
  adapted_.reset();
  RANKFORGE_ASSIGN_OR_RETURN(
      calibration_,
      Calibration::Start(run_.model, run_.sample, run_.options.window));
  return {};
}

Status Attempt::Run(Planner& planner, Adapter& adapter) {
  const size_t layers = run_.spec.blocks.size();
  double work = 0;
  for (size_t layer = 0; layer < layers; ++layer) {
    work += BlockWork(planner, layer);
  }
  // Added before planning, which may be most of the work, so that the time left
  // is that of both.
  run_.meter.Extend(layers, work);
  RANKFORGE_RETURN_IF_ERROR(planner.Prepare(planned_, adapter));
  for (size_t layer = 0; layer < calibration_->layer(); ++layer) {
    run_.meter.Skip(BlockWork(planner, layer));
  }
  while (calibration_->layer() < layers) {
    RANKFORGE_RETURN_IF_ERROR(RunBlock(planner, adapter));
  }
  return {};
}

double Attempt::Ratio() const {
  const ModelConfig& config = run_.model.config();
  const Matrix<float>& hidden = (adapted_ ? *adapted_ : *calibration_).hidden();
  return macs_ / (static_cast<double>(hidden.rows) *
                  static_cast<double>(config.LinearMacs()));
}

void Attempt::Continue(std::optional<Calibration>& calibration,
                       Matrix<float> hidden, size_t layer) {
  calibration = Calibration::Continue(run_.model, std::move(hidden),
                                      run_.options.window, layer);
}

// Whether it holds whole windows of hidden values of this model.
bool Attempt::Fits(const std::optional<Calibration>& calibration) const {
  const Matrix<float>& hidden = calibration->hidden();
  return calibration->layer() <= run_.spec.blocks.size() &&
         hidden.cols == run_.model.config().hidden && hidden.rows > 0 &&
         hidden.rows <= run_.sample.size() &&
         hidden.rows % run_.options.window == 0;
}

double Attempt::BlockWork(const Planner& planner, size_t layer) const {
  const ModelConfig& config = run_.model.config();
  const double macs = static_cast<double>(config.BlockMacs(layer));
  // The forward pass, and as much again for statistics.
  double work = 2 * macs * static_cast<double>(run_.sample.size());
  if (!planner.behind()) {
    work += macs * static_cast<double>(kMeasureTokens) +
            1.5 * BasesWork(static_cast<double>(config.hidden));
  }
  return work;
}

Status Attempt::RunBlock(Planner& planner, Adapter& adapter) {
  const size_t layer = calibration_->layer();
  Adapter block;
  block.method = method_.name;
  block.checkpoint_hash = adapter.checkpoint_hash;
  RANKFORGE_RETURN_IF_ERROR(
      run_.model.AdaptBlock(layer, run_.checkpoint, nullptr));
  const Status adapted = planner.AdaptBlock(*calibration_, block);
  // What a planner says of values that are not finite may be any error.
  RANKFORGE_RETURN_IF_ERROR(run_.model.CheckFinite());
  RANKFORGE_RETURN_IF_ERROR(adapted);
  if (!planner.behind()) {
    RANKFORGE_RETURN_IF_ERROR(RunAdapted(layer, block));
  }
  macs_ += run_.model.counters().block_macs;
  run_.model.DropBlock(layer);
  run_.checkpoint.ReleasePages();
  RANKFORGE_RETURN_IF_ERROR(
      run_.state.SaveBlock(number_, layer, std::move(block), adapter));
  RANKFORGE_RETURN_IF_ERROR(Save());
  return run_.meter.Step(fmt::format("layer {}", layer),
                         BlockWork(planner, layer));
}

// For planners that run calibration through the dense block: runs the adapted
// block on what the adapted blocks before it compute.
Status Attempt::RunAdapted(size_t layer, const Adapter& block) {
  if (!adapted_) {
    const size_t window = run_.options.window;
    const size_t tokens = std::max(kMeasureTokens / window, size_t{1}) * window;
    RANKFORGE_ASSIGN_OR_RETURN(
        adapted_,
        Calibration::Start(
            run_.model, run_.sample.first(std::min(tokens, run_.sample.size())),
            window));
  }
  RANKFORGE_RETURN_IF_ERROR(
      run_.model.AdaptBlock(layer, run_.checkpoint, &block));
  adapted_->SkipBlock();
  return {};
}

Status Attempt::Save() const {
  if (!run_.state.stored()) return {};
  Snapshot snapshot;
  snapshot.text = nlohmann::json{
      {"attempt", number_},
      {"planned", planned_},
      {"layer", calibration_->layer()},
      {"macs", macs_}}.dump();
  snapshot.matrices["hidden"] = calibration_->hidden();
  if (adapted_) snapshot.matrices["adapted"] = adapted_->hidden();
  return run_.state.SaveSnapshot(kSnapshot, snapshot);
}

}  // namespace rankforge
