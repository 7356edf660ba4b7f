// The frequencies of rotary angles.
#ifndef RANKFORGE_RUNTIME_MODEL_FORWARD_ROPE_H_
#define RANKFORGE_RUNTIME_MODEL_FORWARD_ROPE_H_

#include <vector>

#include "runtime/model/format/config.h"

namespace rankforge {

// (rotary_dim / 2,) radians per position. In f32, as in the models' training
// code: at position 4096 the rounded angle differs from the exact one by 1e-4.
std::vector<float> RotaryFrequencies(const ModelConfig& config);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORWARD_ROPE_H_
