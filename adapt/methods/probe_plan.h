// Which blocks of a model method rana probes, at which costs, and on how many
// tokens. A probe measures the divergence of the model with one form in one
// layer, the others dense.
#ifndef RANKFORGE_ADAPT_METHODS_PROBE_PLAN_H_
#define RANKFORGE_ADAPT_METHODS_PROBE_PLAN_H_

#include <cstddef>
#include <span>
#include <vector>

#include "adapt/forms/linear_forms.h"
#include "adapt/run/options.h"
#include "runtime/model/format/config.h"

namespace rankforge {

// The blocks whose effect on the model's predictions is measured, ascending:
// `asked` of them, spread from the first to the last, or the middle one alone.
// `asked` 0: all of a model of up to 12 blocks, five of a deeper one.
std::vector<size_t> ProbedBlocks(size_t layers, size_t asked);

// The probes of one survey.
struct ProbePlan {
  std::vector<size_t> blocks;  // ascending
  bool sparse = false;         // not all blocks
  size_t tokens = 0;

  // Costs at which every form is probed.
  std::span<const double> costs() const;
  // Two kinds of masks with the same error move predictions alike: a sparse
  // plan measures only one of them.
  bool Probes(Form form) const { return !sparse || form != Form::kMagnitude; }
  // Probes per block: all forms at all costs.
  double probes() const { return sparse ? 10 : 28; }
};

// The plan for a calibration sample of `sample` tokens.
ProbePlan PlanProbes(const ModelConfig& config, const AdaptOptions& options,
                     size_t sample);

// Multiply-adds per token of block `layer` and all blocks after it.
double MacsFrom(const ModelConfig& config, size_t layer);

// More than 1e9 multiply-adds per token: what runs or packs all blocks again
// and again takes minutes each time.
bool IsLarge(const ModelConfig& config);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_PROBE_PLAN_H_
