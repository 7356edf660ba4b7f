#include "adapt/methods/probe_plan.h"

#include <algorithm>

namespace rankforge {
namespace {

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

std::span<const double> ProbePlan::costs() const {
  return sparse ? std::span<const double>(kSparseProbeCosts)
                : std::span<const double>(kProbeCosts);
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

double MacsFrom(const ModelConfig& config, size_t layer) {
  double macs = 0;
  for (; layer < config.layers; ++layer) {
    macs += static_cast<double>(config.BlockMacs(layer));
  }
  return macs;
}

bool IsLarge(const ModelConfig& config) { return MacsFrom(config, 0) > 1e9; }

}  // namespace rankforge
