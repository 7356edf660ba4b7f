// Which layers a sequence does without once its prompt has run (docs/first.md):
// FiRST (arXiv 2410.12513), or a fixed list.
#ifndef RANKFORGE_RUNTIME_MODEL_FORWARD_LAYER_SKIPPER_H_
#define RANKFORGE_RUNTIME_MODEL_FORWARD_LAYER_SKIPPER_H_

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "runtime/model/format/adapter.h"
#include "runtime/model/format/config.h"
#include "runtime/model/forward/kv_cache.h"
#include "runtime/model/weights/model_options.h"
#include "runtime/threads/executor.h"

namespace rankforge {

class LayerSkipper {
 public:
  LayerSkipper() = default;  // never skips
  // What `adapter` (may be null), which fits the model (CheckAdapter), and
  // `options` say together. Errors: an option that changes nothing, or layers
  // that are not there or always run.
  static Result<LayerSkipper> Create(const ModelConfig& config,
                                     const Adapter* adapter,
                                     const SkipOptions& options);

  bool skips() const { return !routers_.empty() || !fixed_.empty(); }

  // hidden (tokens, hidden) is what the layer is about to read, of the
  // positions from cache.length() on. Keeps what its router says of each.
  void Judge(size_t layer, const float* hidden, size_t tokens,
             Executor& executor, KvCache& cache) const;
  // About the layers of sequences whose prompts have run, and which are decoded
  // together.
  Result<LayerDecision> Decide(std::span<KvCache* const> caches) const;

 private:
  bool AlwaysOn(size_t layer) const {
    return layer < first_on_ || layer >= layers_ - last_on_;
  }
  Status SetAlwaysOn(const ModelConfig& config, const SkipOptions& options);
  Status SetFixed(const std::vector<size_t>& layers);
  Status SetRouters(const Adapter& adapter, const SkipOptions& options);
  // rho of a layer; none: a position that no router has judged.
  static std::optional<double> Rho(size_t layer,
                                   std::span<KvCache* const> caches);

  size_t layers_ = 0;
  size_t hidden_ = 0;
  size_t first_on_ = 1;
  size_t last_on_ = 1;
  double threshold_ = 0.5;
  std::optional<size_t> most_;
  // By layer, (hidden,), in the basis in which the layer finds the stream.
  std::map<size_t, std::vector<float>> routers_;
  std::vector<size_t> fixed_;  // ascending
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORWARD_LAYER_SKIPPER_H_
