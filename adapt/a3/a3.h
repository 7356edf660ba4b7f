// Method "a3": makes a smaller checkpoint. Heads get fewer elements and MLPs
// fewer channels, by the closed-form solutions of adapt/a3/shrink.h; the
// products of a layer stay the same, none is added.
#ifndef RANKFORGE_ADAPT_A3_A3_H_
#define RANKFORGE_ADAPT_A3_A3_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/model/format/checkpoint.h"

namespace rankforge {

// The inner sizes that are made smaller.
enum class Component : uint8_t {
  kQk,   // elements of queries and keys
  kOv,   // of values, which o reads
  kMlp,  // hidden channels
};
inline constexpr size_t kComponents = 3;
// "qk", "ov", "mlp", in the order of Component.
const std::vector<std::string>& ComponentNames();

// What goes beyond the paper, each of which can be left out (docs/a3.md).
enum class A3Refinement : uint8_t {
  kRefitDown,     // down by least squares behind the channels that are left
  kRefitO,        // o by least squares, all heads together
  kMixedRanks,    // layers share a budget, not each the same share
  kGroupOutputs,  // GQA: values by what the group's heads read of them
};
const std::vector<std::string>& A3RefinementNames();

struct A3Options {
  // The share of the components' parameters that is kept, in (0, 1].
  double keep = 0.9;
  std::array<std::optional<double>, kComponents> component_keep;  // instead
  std::set<Component> components = {Component::kQk, Component::kOv,
                                    Component::kMlp};
  bool uniform = false;  // the same sizes in every layer
  std::set<A3Refinement> without;
  // Sizes are rounded to multiples of these; 0: of 16 for heads of 64 elements
  // and more, of 4 below; of 64 for MLPs from 1024 channels on, of 32 below.
  size_t head_multiple = 0;
  size_t mlp_multiple = 0;
  size_t window = 256;                // calibration sequence length
  size_t calibration_tokens = 32000;  // that moments are taken over
  size_t threads = 1;
  uint64_t seed = 0;
  std::function<void(size_t done, size_t total, const std::string& what)>
      progress;
  std::function<bool()> cancelled;  // asked before every layer
};

struct A3Summary {
  ModelConfig config;
  double linear_flops_ratio = 1;  // of the linear layers' multiply-adds
  size_t calibration_tokens = 0;
  // By layer and component: the share of what the paper's objective measures
  // that is lost, before refinements.
  std::vector<std::array<double, kComponents>> losses;
};

// Writes the folder `out`, which must not exist or be empty: config.json,
// model.safetensors in the type of `checkpoint`, and its other files. Errors:
// options out of range, too few ids, `out` taken or not writable, cancelled. On
// an error nothing is left behind.
Result<A3Summary> ShrinkCheckpoint(const Checkpoint& checkpoint,
                                   std::span<const int> ids,
                                   const A3Options& options,
                                   const std::string& out);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_A3_A3_H_
