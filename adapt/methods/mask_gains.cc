#include "adapt/methods/mask_gains.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numbers>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "adapt/calibrate/calibration.h"
#include "adapt/calibrate/loss_gradient.h"
#include "adapt/calibrate/ordinary_tokens.h"
#include "adapt/forms/input_mask.h"
#include "adapt/methods/learned_values.h"
#include "adapt/methods/plan_judge.h"
#include "adapt/methods/probe_plan.h"

namespace rankforge {
namespace {

// Named after the rows of LearnedValues::Save: a run that stopped with others
// begins its gains anew.
constexpr char kSnapshot[] = "gains.5";

constexpr size_t kStepsPerEffort = 24;
constexpr size_t kLeastSteps = 16;  // fewer are mostly warm-up
constexpr size_t kStepTokens = 2048;
constexpr size_t kPasses = 8;  // over the sample, at most
// Multiply-adds of all steps, for one unit of effort.
constexpr double kWorkPerEffort = 2.5e13;
// Of a step, per weight and token: forward, and backward with what is between.
constexpr double kBlockMacs = 2.75;
constexpr double kHeadMacs = 3;  // forward, that of the dense model, backward
// Bytes of what linear layers read that are kept from the forward pass. Blocks
// beyond run twice.
constexpr size_t kMostKept = size_t{1} << 30;

// Step sizes.
constexpr double kGainStep = 3e-3;
constexpr double kBiasStep = 9e-4;
constexpr size_t kWarmUp = 5;       // steps until step sizes are whole
constexpr double kLastStep = 0.05;  // of them, at the end of a cosine

// A gain further from 1 would mean that its mask should be another one.
constexpr float kLeastGain = 0.25f;
constexpr float kMostGain = 4;

// What the cost of all masks falls by when all thresholds grow by a factor e.
constexpr double kCostSlope = 0.35;
constexpr double kFollow = 0.5;  // of a step's miss, whose cost is noisy
constexpr size_t kMeasureTokens = 8192;
constexpr size_t kSettlings = 4;
constexpr double kSettled = 0.001;

// The share of the step sizes at step `number` of `steps`, from 1.
double StepShare(size_t number, size_t steps) {
  if (number <= kWarmUp) {
    return static_cast<double>(number) / static_cast<double>(kWarmUp);
  }
  const double done = static_cast<double>(number - kWarmUp) /
                      static_cast<double>(std::max(steps - kWarmUp, size_t{1}));
  return kLastStep +
         (1 - kLastStep) * (1 + std::cos(std::numbers::pi * done)) / 2;
}

double StepMacs(const ModelConfig& config, size_t tokens) {
  return static_cast<double>(tokens) *
         (kBlockMacs * MacsFrom(config, 0) +
          kHeadMacs * static_cast<double>(config.vocab * config.hidden));
}

class GainLearner {
 public:
  GainLearner(const AdaptRun& run, const GainSchedule& schedule, size_t attempt,
              double ratio, Adapter& adapter)
      : run_(run),
        schedule_(schedule),
        attempt_(attempt),
        ratio_(ratio),
        adapter_(adapter),
        window_(run.options.window),
        layers_(run.spec.blocks.size()) {}

  Status Run() {
    const std::map<std::string, InputMask> masks = adapter_.masks;
    const double ratio = adapter_.linear_flops_ratio;
    const double work = StepMacs(run_.model.config(), schedule_.tokens);
    const double per_token = MacsFrom(run_.model.config(), 0);
    const double dense_work =
        per_token * static_cast<double>(run_.sample.size());
    const double settle_work = per_token * static_cast<double>(2 * Measured());
    run_.meter.Extend(
        schedule_.steps + 2,
        schedule_.Work(run_.model.config(), run_.sample.size()) + settle_work);
    RANKFORGE_RETURN_IF_ERROR(RunDense());
    RANKFORGE_RETURN_IF_ERROR(run_.meter.Step("gains, dense", dense_work));
    RANKFORGE_RETURN_IF_ERROR(Restore());
    for (size_t i = 0; i < step_; ++i) run_.meter.Skip(work);
    for (const auto& [module, gains] : gains_) Install(module);
    while (step_ < schedule_.steps) {
      RANKFORGE_ASSIGN_OR_RETURN(const double divergence, Step());
      RANKFORGE_RETURN_IF_ERROR(Save());
      RANKFORGE_RETURN_IF_ERROR(run_.meter.Step(
          fmt::format("gains, step {}: divergence {:.4f}", step_, divergence),
          work));
    }
    InstallTrusted();
    RANKFORGE_RETURN_IF_ERROR(Settle());
    RANKFORGE_ASSIGN_OR_RETURN(const double divergence, HeldOut());
    const bool pays = divergence < divergence_before_;
    if (!pays) {
      adapter_.masks = masks;
      adapter_.linear_flops_ratio = ratio;
    }
    adapter_.parameters["gain_steps"] =
        fmt::format("{}", pays ? schedule_.steps : 0);
    adapter_.parameters["gain_divergence_before"] =
        fmt::format("{:.6f}", divergence_before_);
    adapter_.parameters["gain_divergence"] = fmt::format("{:.6f}", divergence);
    return run_.meter.Step(
        fmt::format("gains: held-out divergence {:.4f}, before {:.4f}",
                    divergence, divergence_before_),
        settle_work);
  }

 private:
  struct Gains {
    LearnedValues gain;
    LearnedValues bias;
  };
  // What a pass through all blocks makes of hidden values.
  struct Pass {
    Matrix<float> hidden;
    double ratio = 1;  // of multiply-adds to dense ones
  };

  // Begins with gains of 1 and biases of 0, or goes on from the state, which
  // also knows the divergence before the first step.
  Status Restore() {
    for (const BlockSpec& block : run_.spec.blocks) {
      for (const ProjectionSpec& projection : block.projections) {
        if (!adapter_.masks.contains(projection.name)) continue;
        gains_[projection.name] = {LearnedValues(projection.cols, 1),
                                   LearnedValues(projection.rows, 0)};
      }
    }
    RANKFORGE_ASSIGN_OR_RETURN(const std::optional<Snapshot> snapshot,
                               run_.state.LoadSnapshot(kSnapshot));
    if (!snapshot) {
      RANKFORGE_ASSIGN_OR_RETURN(divergence_before_, HeldOut());
      return {};
    }
    bool fits = true;
    const auto row = [&](const std::string& name) -> const Matrix<float>& {
      static const Matrix<float> none;
      const auto found = snapshot->matrices.find(name);
      return found == snapshot->matrices.end() ? none : found->second;
    };
    for (auto& [module, gains] : gains_) {
      std::vector<float>& tau = adapter_.masks[module].tau;
      const Matrix<float>& saved = row(module + ".tau");
      fits = fits && gains.gain.Restore(row(module + ".gain")) &&
             gains.bias.Restore(row(module + ".bias")) &&
             saved.values.size() == tau.size();
      if (fits) tau = saved.values;
    }
    const auto place = nlohmann::json::parse(snapshot->text, nullptr, false);
    fits = fits && place.is_object() &&
           place.value("step", nlohmann::json()).is_number_unsigned() &&
           place.value("before", nlohmann::json()).is_number();
    if (!fits) {
      return Failed(
          "unfinished work: the gains are not of this model; remove the folder "
          "to start from the beginning");
    }
    step_ = place.at("step").get<size_t>();
    divergence_before_ = place.at("before").get<double>();
    return {};
  }
  Status Save() const {
    if (!run_.state.stored()) return {};
    Snapshot snapshot;
    for (const auto& [module, gains] : gains_) {
      snapshot.matrices[module + ".gain"] = gains.gain.Save();
      snapshot.matrices[module + ".bias"] = gains.bias.Save();
      const std::vector<float>& tau = adapter_.masks.at(module).tau;
      Matrix<float>& row = snapshot.matrices[module + ".tau"];
      row = Matrix<float>(1, tau.size());
      row.values = tau;
    }
    snapshot.text =
        nlohmann::json{{"step", step_}, {"before", divergence_before_}}.dump();
    return run_.state.SaveSnapshot(kSnapshot, snapshot);
  }

  void Install(const std::string& module) {
    InputMask& mask = adapter_.masks[module];
    mask.gain = gains_[module].gain.values();
    mask.bias = gains_[module].bias.values();
  }
  void MoveThresholds(double logarithm) {
    const auto factor = static_cast<float>(std::exp(logarithm));
    for (const auto& [module, gains] : gains_) {
      for (float& tau : adapter_.masks[module].tau) tau *= factor;
    }
  }

  // Puts what is to be trusted in place of what was learned.
  void InstallTrusted() {
    for (const auto& [module, gains] : gains_) {
      InputMask& mask = adapter_.masks[module];
      mask.gain = gains.gain.Trusted(step_);
      mask.bias = gains.bias.Trusted(step_);
    }
  }

  // Tokens [begin, begin + count) of the sample, embedded.
  Result<Matrix<float>> Embedded(size_t begin, size_t count) const {
    Matrix<float> hidden(count, run_.model.config().hidden);
    RANKFORGE_RETURN_IF_ERROR(run_.model.Embed(
        run_.sample.subspan(begin, count), hidden.values.data()));
    return hidden;
  }
  // What step `number` learns from, embedded, and what the dense model makes of
  // it before the final norm: the next windows of those that are not held out.
  Result<std::pair<Matrix<float>, Matrix<float>>> Batch(size_t number) const {
    const size_t windows = (run_.sample.size() - schedule_.held) / window_;
    const size_t count = schedule_.tokens / window_;
    std::vector<int> ids;
    Matrix<float> dense(schedule_.tokens, dense_.cols);
    for (size_t i = 0; i < count; ++i) {
      const size_t begin = (number * count + i) % windows * window_;
      const auto from = run_.sample.subspan(begin, window_);
      ids.insert(ids.end(), from.begin(), from.end());
      std::copy_n(dense_.row(begin), window_ * dense_.cols,
                  dense.row(i * window_));
    }
    Matrix<float> hidden(schedule_.tokens, dense_.cols);
    RANKFORGE_RETURN_IF_ERROR(run_.model.Embed(ids, hidden.values.data()));
    return std::pair(std::move(hidden), std::move(dense));
  }

  // The adapter of one block.
  Result<Adapter> BlockOf(size_t layer) const {
    Adapter block;
    block.checkpoint_hash = adapter_.checkpoint_hash;
    for (const ProjectionSpec& projection :
         run_.spec.blocks[layer].projections) {
      const std::string& module = projection.name;
      const auto mask = adapter_.masks.find(module);
      if (mask != adapter_.masks.end()) block.masks.insert(*mask);
      const auto rank = adapter_.ranks.find(module);
      if (rank != adapter_.ranks.end()) block.ranks.insert(*rank);
    }
    if (!block.ranks.empty() && run_.state.stored()) {
      RANKFORGE_ASSIGN_OR_RETURN(
          Adapter saved,
          run_.state.Block(attempt_, layer, adapter_.checkpoint_hash));
      block.ranks = std::move(saved.ranks);
    }
    return block;
  }

  // Packs block `layer`, calls use(adapter of it), and drops it.
  template <class Use>
  Status WithBlock(size_t layer, Use use) {
    RANKFORGE_ASSIGN_OR_RETURN(Adapter block, BlockOf(layer));
    const LentRotation lent(
        adapter_.rotation.empty() ? nullptr : &adapter_.rotation, block);
    RANKFORGE_RETURN_IF_ERROR(
        run_.model.AdaptBlock(layer, run_.checkpoint, &block));
    RANKFORGE_RETURN_IF_ERROR(use(block));
    run_.model.DropBlock(layer);
    run_.checkpoint.ReleasePages();
    return {};
  }

  // Fills dense_.
  Status RunDense() {
    RANKFORGE_ASSIGN_OR_RETURN(dense_, Embedded(0, run_.sample.size()));
    for (size_t layer = 0; layer < layers_; ++layer) {
      RANKFORGE_RETURN_IF_ERROR(
          run_.model.AdaptBlock(layer, run_.checkpoint, nullptr));
      RunBlock(run_.model, layer, window_, dense_);
      RANKFORGE_RETURN_IF_ERROR(run_.model.CheckFinite());
      run_.model.DropBlock(layer);
    }
    return {};
  }

  // Calls run(layer, hidden) for every block, which is packed, to take hidden
  // values through it.
  template <class RunPacked>
  Result<Pass> Forward(Matrix<float> hidden, RunPacked run) {
    Pass pass{std::move(hidden), 0};
    for (size_t layer = 0; layer < layers_; ++layer) {
      RANKFORGE_RETURN_IF_ERROR(WithBlock(layer, [&](const Adapter&) {
        run_.model.ResetCounters();
        run(layer, pass.hidden);
        pass.ratio += run_.model.counters().block_macs;
        return run_.model.CheckFinite();
      }));
    }
    pass.ratio /= static_cast<double>(pass.hidden.rows) *
                  static_cast<double>(run_.model.config().LinearMacs());
    return pass;
  }

  // One step. Returns the divergence before it, nats per token.
  Result<double> Step() {
    RANKFORGE_ASSIGN_OR_RETURN(auto batch, Batch(step_));
    std::vector<Matrix<float>> hidden;  // what each block reads
    std::vector<SiteInputs> inputs;     // of its linear layers; empty: not kept
    size_t kept = 0;
    RANKFORGE_ASSIGN_OR_RETURN(
        const Pass pass,
        Forward(std::move(batch.first),
                [&](size_t layer, Matrix<float>& values) {
                  hidden.push_back(values);
                  Calibration calibration = Calibration::Continue(
                      run_.model, std::move(values), window_, layer);
                  inputs.push_back(calibration.NextBlock());
                  values = calibration.hidden();
                  for (const Matrix<float>& x : inputs.back()) {
                    kept += x.values.size() * sizeof(float);
                  }
                  if (kept > kMostKept) inputs.back() = {};
                }));
    double divergence = 0;
    RANKFORGE_ASSIGN_OR_RETURN(
        Matrix<float> gradient,
        DivergenceGradientFrom(run_.model, run_.checkpoint, pass.hidden,
                               batch.second, divergence));
    ++step_;
    for (size_t layer = layers_; layer-- > 0;) {
      RANKFORGE_RETURN_IF_ERROR(WithBlock(layer, [&](const Adapter& block) {
        return Back(layer, block, hidden[layer], inputs[layer], gradient);
      }));
    }
    MoveThresholds(kFollow * (pass.ratio - ratio_) / kCostSlope);
    return divergence / static_cast<double>(schedule_.tokens);
  }

  // Takes `gradient` through the block, which is packed, and moves its gains.
  Status Back(size_t layer, const Adapter& block, const Matrix<float>& hidden,
              SiteInputs& inputs, Matrix<float>& gradient) {
    if (inputs[Site::kAttentionInput].values.empty()) {
      inputs =
          Calibration::Continue(run_.model, hidden, window_, layer).NextBlock();
    }
    MaskGradients gradients;
    RANKFORGE_RETURN_IF_ERROR(
        BackThroughBlock(run_.model, run_.checkpoint, layer, window_, hidden,
                         inputs, gradient,
                         {.adapter = &block, .gradients = &gradients})
            .status());
    const double share = StepShare(step_, schedule_.steps);
    for (const Site site : kSites) {
      const auto found = gains_.find(run_.spec.blocks[layer][site].name);
      if (found == gains_.end()) continue;
      auto& [module, gains] = *found;
      const size_t tokens = schedule_.tokens;
      gains.gain.Step(gradients[site].gain, tokens, step_, share * kGainStep);
      gains.bias.Step(gradients[site].bias, tokens, step_, share * kBiasStep);
      for (float& gain : gains.gain.values()) {
        gain = std::clamp(gain, kLeastGain, kMostGain);
      }
      Install(module);
    }
    return {};
  }

  // The last tokens, among which are those that the bases of rotated blocks do
  // not see.
  size_t Measured() const {
    return adapter_.rotation.empty()
               ? std::min(
                     std::max(kMeasureTokens / window_, size_t{1}) * window_,
                     run_.sample.size())
               : UnseenTokens(run_);
  }
  // Moves thresholds until the cost is what it should be, and records how they
  // keep.
  Status Settle() {
    for (size_t left = kSettlings; left-- > 0;) {
      RANKFORGE_ASSIGN_OR_RETURN(
          Matrix<float> hidden,
          Embedded(run_.sample.size() - Measured(), Measured()));
      RANKFORGE_ASSIGN_OR_RETURN(
          const Pass pass,
          Forward(std::move(hidden), [&](size_t layer, Matrix<float>& values) {
            RecordMasks(layer, values);
          }));
      adapter_.linear_flops_ratio = pass.ratio;
      const double missed = pass.ratio - ratio_;
      if (std::fabs(missed) <= kSettled || left == 0) break;
      MoveThresholds(missed / kCostSlope);
    }
    return {};
  }
  // Takes hidden values through block `layer`, which is packed.
  void RecordMasks(size_t layer, Matrix<float>& hidden) {
    Calibration calibration =
        Calibration::Continue(run_.model, std::move(hidden), window_, layer);
    const SiteInputs inputs = calibration.NextBlock();
    hidden = calibration.hidden();
    for (const Site site : kSites) {
      const auto mask = adapter_.masks.find(run_.spec.blocks[layer][site].name);
      if (mask == adapter_.masks.end()) continue;
      const std::vector<size_t> ordinary =
          OrdinaryTokens({&inputs[site]}, window_, run_.options.SinksApart());
      RecordKept(RowsOf(inputs[site], ordinary), mask->second,
                 run_.model.executor());
    }
  }

  // The divergence on the tokens that no step learns from, nats per token.
  Result<double> HeldOut() {
    const size_t begin = run_.sample.size() - schedule_.held;
    RANKFORGE_ASSIGN_OR_RETURN(Matrix<float> hidden,
                               Embedded(begin, schedule_.held));
    RANKFORGE_ASSIGN_OR_RETURN(
        const Pass pass,
        Forward(std::move(hidden), [&](size_t layer, Matrix<float>& values) {
          RunBlock(run_.model, layer, window_, values);
        }));
    return Divergence(run_.model, pass.hidden,
                      Rows(dense_, begin, schedule_.held)) /
           static_cast<double>(schedule_.held);
  }

  const AdaptRun& run_;
  GainSchedule schedule_;
  size_t attempt_;
  double ratio_;
  Adapter& adapter_;
  size_t window_;
  size_t layers_;
  size_t step_ = 0;
  double divergence_before_ = 0;
  std::map<std::string, Gains> gains_;  // by module
  Matrix<float> dense_;  // (tokens, hidden): what its final norm reads
};

}  // namespace

GainSchedule GainSchedule::Of(const ModelConfig& config,
                              const AdaptOptions& options, size_t sample) {
  const size_t window = options.window;
  GainSchedule schedule;
  schedule.held = JudgeTokens::Of(config, window, sample).held;
  if (schedule.held >= sample) return {};
  const size_t windows = (sample - schedule.held) / window;
  schedule.tokens =
      std::clamp<size_t>(kStepTokens / window, 1, windows) * window;
  const double affordable = static_cast<double>(options.effort) *
                            kWorkPerEffort / StepMacs(config, schedule.tokens);
  schedule.steps = std::min({options.effort * kStepsPerEffort,
                             static_cast<size_t>(affordable),
                             kPasses * windows * window / schedule.tokens});
  if (schedule.steps < kLeastSteps) schedule.steps = 0;
  return schedule;
}

double GainSchedule::Work(const ModelConfig& config, size_t sample) const {
  if (steps == 0) return 0;
  return StepMacs(config, tokens) * static_cast<double>(steps) +
         MacsFrom(config, 0) * static_cast<double>(sample);
}

Status LearnGains(const AdaptRun& run, const GainSchedule& schedule,
                  size_t attempt, double ratio, Adapter& adapter) {
  if (schedule.steps == 0 || adapter.masks.empty()) return {};
  return GainLearner(run, schedule, attempt, ratio, adapter).Run();
}

}  // namespace rankforge
