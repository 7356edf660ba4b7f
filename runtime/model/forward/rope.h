// The frequencies of rotary angles.
#ifndef RANKFORGE_RUNTIME_MODEL_FORWARD_ROPE_H_
#define RANKFORGE_RUNTIME_MODEL_FORWARD_ROPE_H_

#include <cstdint>
#include <vector>

#include "runtime/model/format/config.h"

namespace rankforge {

// Which of a model's rotary frequencies.
enum class RopeSet : uint8_t {
  kModel,   // those of every layer, or of layers without a window
  kLong,    // in their place in long sequences (RopeScaling::Type::kLong)
  kWindow,  // of layers with a window, if they have their own
};

// (rotary_dim / 2,) radians per position. In f32, as in the models' training
// code: at position 4096 the rounded angle differs from the exact one by 1e-4.
std::vector<float> RotaryFrequencies(const ModelConfig& config,
                                     RopeSet set = RopeSet::kModel);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORWARD_ROPE_H_
