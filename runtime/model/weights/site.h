// The places of a block where linear layers read: THE list of its projections.
#ifndef RANKFORGE_RUNTIME_MODEL_WEIGHTS_SITE_H_
#define RANKFORGE_RUNTIME_MODEL_WEIGHTS_SITE_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "runtime/model/format/config.h"

namespace rankforge {

// Where linear layers read, in the order in which a block runs them. Every site
// has one projection, which is a stack where several layers share the input.
enum class Site : uint8_t {
  kAttentionInput,   // q, k, v read here: (tokens, hidden)
  kAttentionOutput,  // o: (tokens, o_cols)
  kMlpInput,         // gate and up, or up alone: (tokens, hidden)
  kMlpHidden,        // down reads act(gate) * up: (tokens, mlp)
};

inline constexpr std::array kSites = {Site::kAttentionInput,
                                      Site::kAttentionOutput, Site::kMlpInput,
                                      Site::kMlpHidden};

// Whether layers read the residual stream there, after a norm. What layers of
// the other sites compute is added to it.
constexpr bool ReadsStream(Site site) {
  return site == Site::kAttentionInput || site == Site::kMlpInput;
}

// One value for each site.
template <class Value>
struct BySite : std::array<Value, kSites.size()> {
  using Values = std::array<Value, kSites.size()>;

  constexpr Value& operator[](Site site) {
    return Values::operator[](static_cast<size_t>(site));
  }
  constexpr const Value& operator[](Site site) const {
    return Values::operator[](static_cast<size_t>(site));
  }
};

// How many values per token the projection reads at `site`.
size_t SiteWidth(const ModelConfig& config, size_t layer, Site site);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_WEIGHTS_SITE_H_
