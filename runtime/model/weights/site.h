// The places of a block where linear layers read.
#ifndef RANKFORGE_RUNTIME_MODEL_WEIGHTS_SITE_H_
#define RANKFORGE_RUNTIME_MODEL_WEIGHTS_SITE_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "runtime/model/format/config.h"

namespace rankforge {

// Where an input of linear layers, and what they make of it, can be observed.
enum class Site : uint8_t {
  kAttentionInput,   // of q, k, v: (tokens, hidden)
  kAttentionOutput,  // of o: (tokens, o_cols)
  kMlpInput,         // of gate and up: (tokens, hidden)
  kMlpHidden,        // of down, act(gate) * up: (tokens, mlp)
};

inline constexpr Site kSites[] = {Site::kAttentionInput, Site::kAttentionOutput,
                                  Site::kMlpInput, Site::kMlpHidden};

// Values of a token that are read there.
size_t SiteWidth(const ModelConfig& config, size_t layer, Site site);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_WEIGHTS_SITE_H_
