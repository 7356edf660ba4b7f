// The interface of the methods of `adapt`. To add one that makes adapters,
// write a Planner in a file of its own in adapt/methods and add a row to
// Methods() in adapt/adapt.cc.
#ifndef RANKFORGE_ADAPT_RUN_METHOD_H_
#define RANKFORGE_ADAPT_RUN_METHOD_H_

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adapt/calibrate/calibration.h"
#include "adapt/calibrate/load_weights.h"
#include "adapt/forms/linear_forms.h"
#include "adapt/math/linear_algebra.h"
#include "adapt/run/adapt_state.h"
#include "adapt/run/options.h"
#include "adapt/run/work_meter.h"
#include "base/status.h"
#include "runtime/model/format/adapter.h"
#include "runtime/model/format/config.h"
#include "runtime/model/forward/model.h"
#include "runtime/model/weights/modules.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// What a planner works on.
struct AdaptRun {
  const Checkpoint& checkpoint;
  const ModelSpec& spec;        // dense: names and shapes
  Model& model;                 // no block is packed unless it is worked on
  std::span<const int> sample;  // whole windows of calibration
  const AdaptOptions& options;
  AdaptState& state;
  WorkMeter& meter;
};

// What a projection becomes, and what it costs relative to the dense one.
struct FormChoice {
  Form form = Form::kDense;
  double cost = 1;

  friend bool operator==(const FormChoice&, const FormChoice&) = default;
};
using BlockChoices = BySite<FormChoice>;

// Makes an adapter of one checkpoint for one calibration sample, block by
// block.
class Planner {
 public:
  virtual ~Planner() = default;
  // Plans all blocks so that the linear layers cost `keep` of what they cost
  // dense. Called again, with another `keep`, if the adapted model costs more
  // or less. Adds parameters to `adapter`, and its steps to the meter.
  virtual Status Prepare(double keep, Adapter& adapter) = 0;
  // Adapts the block that `calibration` is at, which is packed, dense. Adds its
  // layers to `adapter`, which is of this block alone, or says why they stay
  // dense. Runs calibration through the block.
  virtual Status AdaptBlock(Calibration& calibration, Adapter& adapter) = 0;
  // Whether AdaptBlock runs calibration through the adapted block; else through
  // the dense one.
  virtual bool behind() const = 0;
  // What BuildBlock (adapt/methods/block_builder.h) makes of each block, known
  // when all blocks are adapted. None: the planner does not use it.
  virtual std::vector<BlockChoices> choices() const { return {}; }
  // The bases of the residual stream in which it adapts blocks, known when it
  // is prepared. Null: it leaves the stream as it is.
  virtual Rotation* rotation() { return nullptr; }
};

// Gives the bases of a whole model, which may be a gigabyte, to the adapter of
// one block, and takes them back at the end of its life. Null: there are none.
class LentRotation {
 public:
  LentRotation(Rotation* rotation, Adapter& block)
      : rotation_(rotation), block_(block) {
    if (rotation_ != nullptr) block_.rotation = std::move(*rotation_);
  }
  ~LentRotation() {
    if (rotation_ != nullptr) {
      *rotation_ = std::exchange(block_.rotation, Rotation());
    }
  }
  LentRotation(const LentRotation&) = delete;
  LentRotation& operator=(const LentRotation&) = delete;

 private:
  Rotation* rotation_;
  Adapter& block_;
};

// What a choice of layers works on.
struct LayerChoiceRun {
  const Checkpoint& checkpoint;
  Model* model;                 // its blocks are not packed; null: no text
  std::span<const int> sample;  // whole windows of calibration; none: no text
  const AdaptOptions& options;
  WorkMeter& meter;
};

// Layers that decoding does without, ascending, and what an adapter's metadata
// says of how they were chosen.
struct LayerChoice {
  std::vector<size_t> layers;
  std::map<std::string, std::string> parameters = {};
};

// What a method writes.
enum class Makes : uint8_t {
  kAdapter,     // a file that goes with the checkpoint
  kLayers,      // the same, which names options.skip layers to leave out
  kCheckpoint,  // a smaller checkpoint, in a folder of its own
};

struct Method {
  const char* name;
  Makes makes;
  // Names of options (VisitOptions) that not all methods read.
  std::vector<std::string> options;
  std::set<Refinement> refinements;  // that can be left out
  // The smallest keep that can be planned.
  double (*smallest_keep)(const ModelConfig& config,
                          const AdaptOptions& options);
  // Null: the method makes a checkpoint, by ShrinkCheckpoint, or kLayers.
  std::unique_ptr<Planner> (*make)(const AdaptRun& run);
  // Whether it adapts gate and up apart, and so needs a tensor of each.
  bool splits_gate_and_up = false;
  // Whether it turns the residual stream into other bases.
  bool rotates = false;
  // Of kLayers: chooses options.skip of them. Null elsewhere.
  Result<LayerChoice> (*choose)(const LayerChoiceRun& run) = nullptr;
  // Whether it calibrates on a text.
  bool needs_text = true;

  // Whether it reads the option of this name (VisitOptions, or one that all of
  // adapt has).
  bool Reads(std::string_view option) const {
    if (option == "keep" || option == "state") return makes != Makes::kLayers;
    if (option == "tokens" || option == "window") return needs_text;
    if (option == "seed" && needs_text) return true;  // windows are drawn
    return std::ranges::count(options, option) > 0;
  }
};

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_RUN_METHOD_H_
