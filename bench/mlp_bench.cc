// Gated MLPs y = W_down (m(h) * h), h = act(W_gate x) * (W_up x), as one plan
// and as their steps one after the other. Either gate and up are computed
// whole, or the gate decides which rows of up and columns of down take part.
// Weights come from memory unless --cached.
//
//   mlp_bench --hidden 4096 --mlp 11008 --kept 0.5 --threads 2
//
// All take turns in each round; ratios are medians over rounds.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/affinity.h"
#include "base/statistics.h"
#include "bench/gemv_case.h"
#include "bench/program.h"
#include "kernels/layer/activation.h"
#include "runtime/plan/gated_mlp.h"
#include "runtime/table/cpu.h"
#include "runtime/table/dispatch.h"
#include "tuner/measure/read_bandwidth.h"

namespace rankforge {
namespace {

using Clock = std::chrono::steady_clock;

struct Options : LayerOptions {
  size_t hidden = 4096;
  size_t mlp = 11008;
};

// One MLP with its four ways to run. Gate and up are stacked where both are
// computed whole, as the model packs them.
class Mlp {
 public:
  Mlp(const Options& options, const Dispatcher& dispatcher)
      : options_(options),
        size_(options.mlp),
        executor_(MakeDefaultExecutor(options.threads)),
        ranks_(options.threads, 1),
        scratch_(options.threads, size_),
        gate_up_(
            options.ProblemOf(Operation::kDense, 2 * size_, options.hidden),
            dispatcher, options.cached),
        gate_(options.ProblemOf(Operation::kDense, size_, options.hidden),
              dispatcher, options.cached),
        up_(options.ProblemOf(Operation::kRowMask, size_, options.hidden),
            dispatcher, options.cached),
        down_(options.ProblemOf(Operation::kColumnMask, options.hidden, size_),
              dispatcher, options.cached),
        x_(options.hidden),
        input_(options.hidden),
        up_input_(options.hidden),
        values_(2 * size_),
        h_(size_),
        y_(options.hidden) {
    std::mt19937 random(7);
    // Makes sums of `hidden` products with weights in [-1, 1] about 1, as they
    // are in a model.
    std::normal_distribution<float> normal(
        0, 1.7f / std::sqrt(static_cast<float>(options.hidden)));
    for (float& value : x_) value = normal(random);
  }

  // Thresholds that keep `share` of h, and of act(gate).
  void Keep(double share) {
    const GemvCall both =
        gate_up_.At(0).Dense(x_.data(), {.y = gate()}, {}, &input_);
    RunCalls({&both, 1}, *executor_);
    Activate(Activation::kSilu, gate(), up(), size_, h_.data());
    rule_.common_tau = ThresholdFor(h_, share);
    Activate(Activation::kSilu, gate(), nullptr, size_, h_.data());
    gate_rule_.common_tau = ThresholdFor(h_, share);
  }

  GatedMlpRun RunApart(size_t turn) {
    const GemvCall both =
        gate_up_.At(turn).Dense(x_.data(), {.y = gate()}, {}, &input_);
    RunCalls({&both, 1}, *executor_);
    GatedMlpRun run;
    run.up_done = Clock::now();
    Activate(Activation::kSilu, gate(), up(), size_, h_.data());
    const MaskView mask = MakeMask(h_.data(), size_, rule_, scratch_.storage(0),
                                   down_.At(turn).mask_arrays());
    run.mask_done = Clock::now();
    const GemvCall down = down_.At(turn).ColumnMask(mask, {.y = y_.data()});
    RunCalls({&down, 1}, *executor_);
    return run;
  }
  GatedMlpRun RunFused(size_t turn) {
    const GemvCall both =
        gate_up_.At(turn).Dense(x_.data(), {.y = gate()}, {}, &input_);
    return RunGatedMlp({{&both, 1},
                        {},
                        {gate(), up()},
                        rule_,
                        &down_.At(turn),
                        {.y = y_.data()}},
                       *executor_, ranks_, scratch_);
  }
  GatedMlpRun RunGateFirst(size_t turn, HandOver hand_over) {
    const GemvCall first =
        gate_.At(turn).Dense(x_.data(), {.y = gate()}, {}, &input_);
    return RunGateFirstMlp({{&first, 1},
                            gate(),
                            Activation::kSilu,
                            gate_rule_,
                            &up_.At(turn),
                            x_.data(),
                            up(),
                            nullptr,
                            &down_.At(turn),
                            {.y = y_.data()},
                            up_.At(turn).Round(x_.data(), &up_input_)},
                           *executor_, scratch_, hand_over);
  }

  // Bytes of the weights that one call reads.
  double bytes(double share) const {
    return gate_up_.useful_bytes() + share * down_.useful_bytes();
  }
  double gate_first_bytes(double share) const {
    return gate_.useful_bytes() +
           share * (up_.useful_bytes() + down_.useful_bytes());
  }

 private:
  float* gate() { return values_.data(); }
  float* up() { return values_.data() + size_; }

  const Options& options_;
  size_t size_;
  std::unique_ptr<Executor> executor_;
  RankScratch ranks_;
  GatedMlpScratch scratch_;
  LayerCopies gate_up_, gate_, up_, down_;
  std::vector<float> x_;
  InputScratch input_, up_input_;  // x_, rounded
  std::vector<float> values_, h_, y_;
  ThresholdRule rule_, gate_rule_;
};

// Nanoseconds of a way to run, by round: of whole calls and of what lies
// between up and down.
struct Times {
  std::vector<double> call, between;
};

void TakeTurn(size_t& turn, const std::function<GatedMlpRun(size_t)>& run,
              Times& times) {
  std::vector<double> between;
  times.call.push_back(TurnNs(turn, [&](size_t i) {
    const GatedMlpRun done = run(i);
    between.push_back(
        std::chrono::duration<double, std::nano>(done.mask_done - done.up_done)
            .count());
  }));
  times.between.push_back(Median(std::move(between)));
}

// One line for two ways to run the same; the share of the read bandwidth.
double Report(const char* name, double kept, const Times& apart,
              const Times& fused, double bytes, double read_gbps) {
  const auto us = [](const std::vector<double>& ns) {
    return Summarise(ns).median / 1e3;
  };
  const Timing gain = PairedRatio(apart.call, fused.call);
  const double share = bytes / (1e3 * us(fused.call)) / read_gbps;
  fmt::print(
      "  {:<10} {:>5.2f} {:>9.1f} {:>9.1f} {:>6.3f} +-{:.3f} {:>8.1f} {:>8.1f} "
      "{:>6.2f}\n",
      name, kept, us(apart.call), us(fused.call), gain.median, gain.mad,
      us(apart.between), us(fused.between), share);
  std::fflush(stdout);
  return share;
}

Status Run(const Options& options) {
  RANKFORGE_RETURN_IF_ERROR(options.CheckActivations());
  RANKFORGE_ASSIGN_OR_RETURN(const auto table, OpenTable(options));
  const Dispatcher dispatcher(table ? &*table : nullptr);
  const PinnedHere pin(UsableCpus().front());
  ReadBandwidthMeter read(options.threads, ColdBytes());
  Mlp mlp(options, dispatcher);
  fmt::print("{} hidden {}, mlp {}, {} threads, {}\n", options.type,
             options.hidden, options.mlp, options.threads,
             ResidenceName(options.cached));
  fmt::print("  {:<10} {:>5} {:>9} {:>9} {:>14} {:>17} {:>6}\n", "", "kept",
             "apart us", "fused us", "apart/fused", "between, fused us",
             "share");
  double largest_share = 0;
  for (const double kept : options.kept) {
    mlp.Keep(kept);
    Times apart, fused, gate_apart, gate_fused;
    size_t turn = 0;
    for (size_t round = 0; round < options.rounds; ++round) {
      read.Round();
      TakeTurn(
          turn, [&](size_t i) { return mlp.RunApart(i); }, apart);
      TakeTurn(
          turn, [&](size_t i) { return mlp.RunFused(i); }, fused);
      const auto gate_first = [&](HandOver hand_over, Times& times) {
        TakeTurn(
            turn, [&](size_t i) { return mlp.RunGateFirst(i, hand_over); },
            times);
      };
      gate_first(HandOver::kOneEach, gate_apart);
      gate_first(HandOver::kOne, gate_fused);
    }
    const double gbps = read.Best().gbps;
    largest_share =
        std::max({largest_share,
                  Report("whole", kept, apart, fused, mlp.bytes(kept), gbps),
                  Report("gate first", kept, gate_apart, gate_fused,
                         mlp.gate_first_bytes(kept), gbps)});
  }
  return CheckLargestShare(options.cached, largest_share);
}

void AddOptions(CLI::App& program, Options& options) {
  options.kept = {0.5};
  AddLayerOptions(program, options);
  AddActivations(program, options);
  program.add_option("--hidden", options.hidden, "Inputs of gate and up")
      ->check(SideRange());
  program.add_option("--mlp", options.mlp, "Outputs of gate and up")
      ->check(SideRange());
}

}  // namespace
}  // namespace rankforge

int main(int argc, char** argv) {
  return rankforge::RunBenchProgram<rankforge::Options>(
      "mlp_bench", "Gated MLPs as one plan against their steps.",
      rankforge::AddOptions, rankforge::Run, argc, argv);
}
