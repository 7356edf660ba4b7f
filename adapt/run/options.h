// What a user asks of a run of `adapt`: the options of all methods, and one
// visitor over them that the identity of a run, an adapter's metadata and the
// command line use.
#ifndef RANKFORGE_ADAPT_RUN_OPTIONS_H_
#define RANKFORGE_ADAPT_RUN_OPTIONS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "adapt/forms/cost_model.h"
#include "adapt/run/work_meter.h"

namespace rankforge {

// What a method does beyond its paper. Each can be left out, to see what it is
// worth (docs/rana.md, docs/a3.md).
enum class Refinement : uint8_t {
  // Of all methods that make adapters.
  kSinks,  // statistics without massive activations (ordinary_tokens.h)
  // Of method "rana".
  kFisher,        // bases by what errors do to predictions
  kRefit,         // A by least squares after the mask
  kBehind,        // calibrated on what the adapted layers before it compute
  kCrossLayer,    // one budget for all blocks, not the same share for each
  kRankAdapters,  // qkv and gate_up may become rank adapters
  kInputMasks,    // layers may become input masks
  kSearch,        // plans are measured and refined, not only predicted
  kRotation,      // blocks may hold the residual stream in another basis
  kGains,         // masks have learned gains and biases
  // Of method "a3".
  kRefitDown,     // down by least squares for the channels that are left
  kRefitO,        // o by least squares, all heads together
  kMixedRanks,    // layers share a budget, not each the same share
  kGroupOutputs,  // GQA: values by what the group's heads read of them
};
// Their names on the command line, in the order of Refinement.
const std::vector<std::string>& NamesOf(Refinement);

// The inner sizes that method "a3" makes smaller.
enum class Component : uint8_t {
  kQk,   // elements of queries and keys
  kOv,   // of values, which o reads
  kMlp,  // hidden channels
};
inline constexpr size_t kComponents = 3;
// "qk", "ov", "mlp", in the order of Component.
const std::vector<std::string>& NamesOf(Component);

template <class Enum>
const std::string& NameOf(Enum value) {
  return NamesOf(value)[static_cast<size_t>(value)];
}

struct AdaptOptions {
  std::string method = "rana";
  // The share, in (0, 1], of what the linear layers cost dense; of the
  // components' parameters with method "a3".
  double keep = 0.6;
  std::set<Refinement> without;
  size_t window = 256;                // calibration sequence length
  size_t calibration_tokens = 32000;  // hidden vectors per layer
  uint64_t seed = 0;
  // How the calibration text was told to begin: --bos; empty: it was ids.
  std::string bos;

  // The nanoseconds of a product by what it reads. None: it costs its
  // multiply-adds.
  std::optional<CostModel> times;
  bool round_d = true;         // multiple of 64 from 1024 on, of 16 below
  size_t split_tokens = 4096;  // calibration tokens for the MLP split search
  // Blocks whose divergence is measured, and on how many tokens at most; 0: see
  // docs/rana.md.
  size_t probe_blocks = 0;
  size_t probe_tokens = 0;
  size_t group_blocks = 2;  // of a group that shares a basis; 1 at least
  size_t skip = 0;          // how many layers decoding does without
  // How long to refine the plan of a whole model, and to learn gains of masks;
  // 0: not at all.
  size_t effort = 1;

  std::set<Component> components = {Component::kQk, Component::kOv,
                                    Component::kMlp};
  // For a component that has one, in place of `keep`.
  std::array<std::optional<double>, kComponents> component_keep;
  bool uniform = false;  // the same sizes in every layer
  // Sizes are rounded to multiples of these; 0: of 16 for heads of 64 elements
  // and more, of 4 below; of 64 for MLPs from 1024 channels on, of 32 below.
  size_t head_multiple = 0;
  size_t mlp_multiple = 0;

  // The result does not depend on the last three.
  size_t threads = 1;
  WorkMeter::Report progress;
  WorkMeter::Cancelled cancelled;

  CostModel Costs() const { return times.value_or(CostModel{}); }
  bool SinksApart() const { return !without.contains(Refinement::kSinks); }
};

// What is known of an option.
struct OptionInfo {
  const char* name;  // "split_tokens"; on the command line --split-tokens
  const char* help = "";
  bool recorded = false;       // in the adapter's metadata
  bool decides = true;         // whether the result depends on it
  bool common = false;         // on the command line of all subcommands
  const char* flag = nullptr;  // the command-line flag that sets it to false
  bool may_be_zero = false;    // a number that is not 0 by default
};

// Calls visit(info, value) for every field of `options`, an AdaptOptions that
// may be const.
template <class Options, class Visit>
void VisitOptions(Options& options, Visit&& visit) {
  visit(OptionInfo{"method", "How to adapt"}, options.method);
  visit(OptionInfo{.name = "without",
                   .help = "What the method leaves out, to see what it is "
                           "worth",
                   .recorded = true},
        options.without);
  visit(OptionInfo{"keep"}, options.keep);
  visit(OptionInfo{"keep_of"}, options.times);
  visit(OptionInfo{"tokens", "Hidden vectors to calibrate each layer on"},
        options.calibration_tokens);
  visit(OptionInfo{.name = "split_tokens",
                   .help = "Of them, for the split of an MLP's budget",
                   .recorded = true},
        options.split_tokens);
  visit(OptionInfo{"probe_blocks",
                   "Blocks whose effect on predictions is measured; 0: all of "
                   "a small model, a few of a deep one"},
        options.probe_blocks);
  visit(OptionInfo{"probe_tokens",
                   "Tokens that it is measured on; 0: as many as are worth it"},
        options.probe_tokens);
  visit(OptionInfo{.name = "group_blocks",
                   .help = "Blocks that share a basis of the residual stream",
                   .recorded = true},
        options.group_blocks);
  visit(OptionInfo{"skip",
                   "Layers that decoding does without, in place of --keep"},
        options.skip);
  visit(OptionInfo{.name = "effort",
                   .help = "How long to refine the plan of the whole model, "
                           "and to learn gains of masks; 0: not at all",
                   .recorded = true,
                   .may_be_zero = true},
        options.effort);
  visit(OptionInfo{.name = "window",
                   .help = "Tokens of a calibration sequence",
                   .recorded = true},
        options.window);
  visit(OptionInfo{.name = "round_d",
                   .help = "Do not round inner dimensions to multiples of 64 "
                           "(16 below 1024)",
                   .recorded = true,
                   .flag = "exact_d"},
        options.round_d);
  visit(OptionInfo{"components",
                   "What is made smaller, separated by commas; not given: all"},
        options.components);
  visit(OptionInfo{"uniform", "The same sizes in every layer"},
        options.uniform);
  visit(OptionInfo{"head_multiple",
                   "Elements of heads are a multiple of this, an even number; "
                   "0: 16 for heads of 64 and more, 4 below"},
        options.head_multiple);
  visit(OptionInfo{"mlp_multiple",
                   "Channels of MLPs are a multiple of this; 0: 64 from 1024 "
                   "on, 32 below"},
        options.mlp_multiple);
  visit(OptionInfo{"component_keep", "--keep of this component alone"},
        options.component_keep);
  visit(OptionInfo{.name = "seed", .recorded = true, .common = true},
        options.seed);
  // The ids that it made decide.
  visit(
      OptionInfo{
          .name = "bos", .recorded = true, .decides = false, .common = true},
      options.bos);
  visit(OptionInfo{.name = "threads", .decides = false, .common = true},
        options.threads);
  visit(OptionInfo{.name = "progress", .decides = false}, options.progress);
  visit(OptionInfo{.name = "cancelled", .decides = false}, options.cancelled);
}

// What tells runs apart, by name.
using AdaptIdentity = std::map<std::string, std::string>;

// Everything that the result depends on, except this program.
AdaptIdentity IdentityOf(const std::string& checkpoint_hash,
                         std::span<const int> ids, const AdaptOptions& options);

// The options that an adapter's metadata holds, as text.
std::map<std::string, std::string> RecordedOptions(const AdaptOptions& options);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_RUN_OPTIONS_H_
