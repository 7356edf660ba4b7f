// A transformer's forward pass over packed weights: decode runs plans, prefill
// widens tiles of the same packed weights for a library GEMM, and both apply
// the same masks to every token.
#ifndef RANKFORGE_RUNTIME_MODEL_FORWARD_MODEL_H_
#define RANKFORGE_RUNTIME_MODEL_FORWARD_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/model/format/adapter.h"
#include "runtime/model/format/config.h"
#include "runtime/model/format/weight_source.h"
#include "runtime/model/forward/activation_observer.h"
#include "runtime/model/forward/forward_counters.h"
#include "runtime/model/forward/kv_cache.h"
#include "runtime/model/weights/model_options.h"
#include "runtime/model/weights/site.h"
#include "runtime/plan/packed_matrix.h"
#include "runtime/table/dispatch.h"
#include "runtime/table/problem.h"
#include "runtime/threads/executor.h"

namespace rankforge {

class Model {
 public:
  // Packs every weight in the layout that `dispatcher` decides. `adapter` may
  // be null; its tensors are packed too and the replaced weights are not.
  // Layers that sequences may do without are those of the adapter and
  // options.skip. `source` must outlive the model (embeddings stay there), the
  // adapter and the dispatcher need not. Models that share an executor must not
  // run at the same time.
  static Result<Model> Create(const ModelConfig& config,
                              const WeightSource& source,
                              const Adapter* adapter,
                              const Dispatcher& dispatcher,
                              const ModelOptions& options,
                              std::shared_ptr<Executor> executor);
  ~Model();
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;

  // An empty cache for `capacity` positions. Error: the model was made for
  // fewer, or the memory is not there.
  Result<KvCache> NewCache(size_t capacity) const;

  // Appends `ids` to the sequence in `cache`. `logits` receives (vocab,) of the
  // last token, or (ids.size(), vocab) when `all_logits`; may be empty. One
  // token runs the decode path, several the prefill path.
  Status Forward(std::span<const int> ids, KvCache& cache,
                 std::span<float> logits, bool all_logits = false);

  // Appends up to kMostTokens ids as Forward does one at a time: `logits` (ids.
  // size(), vocab) are those of such calls, bit for bit but for signs of zeros,
  // also after the end of a prompt. Weights are read once for all of them where
  // their layout has kernels for several tokens (docs/architecture.md).
  Status Decode(std::span<const int> ids, KvCache& cache,
                std::span<float> logits);

  // Whether sequences may do without layers once their prompts have run
  // (docs/first.md).
  bool skips_layers() const;
  // Ends the prompt of the sequence in `cache`, which all layers have run, and
  // decides which of them it does without. Then Forward runs the others, for
  // one token at a time: more are an error, because a prompt needs all layers.
  // KvCache::Clear begins a sequence anew. Does nothing where !skips_layers().
  Status EndPrompt(KvCache& cache);
  // The same for sequences that are decoded together: all do without the same
  // layers, by the means of their rho.
  Status EndPrompts(std::span<KvCache* const> caches);

  // The same in pieces, for calibration that streams layer by layer.
  Status Embed(std::span<const int> ids, float* hidden) const;
  // hidden (tokens, config().hidden) in and out; appends to layer `layer` of
  // the cache at position cache.length() and does not advance it. The cache
  // must be of this model's shape and have room.
  void ForwardLayer(size_t layer, float* hidden, size_t tokens, KvCache& cache);
  void FinalLogits(const float* hidden, size_t tokens, float* logits);
  // An error that names the first layer since the last Forward whose output was
  // NaN or infinite. Forward ends with it; whoever runs layers one by one asks.
  Status CheckFinite() const;

  // A block in pieces, for calibration that adapts one projection after the
  // other. AttentionInput: `x` (tokens, hidden), what q, k and v read of
  // `hidden`, which it turns into the basis of the block. ForwardSite: runs the
  // projection that reads `x` at `site`, adds to `hidden` what the block adds
  // there, and writes what the next site reads to `next` (null at kMlpHidden,
  // the last). Only kAttentionInput uses `cache`, as ForwardLayer does. The
  // four sites in order give the same as ForwardLayer, bit for bit.
  void AttentionInput(size_t layer, float* hidden, size_t tokens, float* x);
  void ForwardSite(size_t layer, Site site, const float* x, size_t tokens,
                   KvCache& cache, float* hidden, float* next);

  // Packs the weights of block `layer` anew, as Create would with `adapter`
  // (null: dense), for calibration that adapts block after block. `weights`
  // must have been the model's source. Plans are those of no table.
  Status AdaptBlock(size_t layer, const WeightSource& weights,
                    const Adapter* adapter);
  // The same of the projection that reads at `site` alone; the block must have
  // been packed before.
  Status AdaptSite(size_t layer, Site site, const WeightSource& weights,
                   const Adapter* adapter);
  // Frees the weights of block `layer`, which must not run until AdaptBlock has
  // packed them again.
  void DropBlock(size_t layer);

  void set_observer(ActivationObserver* observer);
  const ModelConfig& config() const;
  Executor& executor();
  const ModelOptions& options() const;
  ForwardCounters counters() const;
  void ResetCounters();

  // Sets every threshold to the value at which `ids`, run as one sequence, keep
  // the share of inputs that the adapter states. For synthetic adapters, which
  // state densities and have no thresholds.
  Status FitThresholds(std::span<const int> ids);

  // Useful bytes of the weights that decoding one dense token reads (adapted
  // layers: of what would be read if nothing were masked).
  size_t packed_bytes() const;

  // What rounding the checkpoint's weights to integers cost, over all of them.
  QuantizationError quantization_error() const;

  // What its products do to their inputs, and the share of all weights that
  // belong to such products. The shares add up to 1.
  std::map<Activations, double> activations() const;

 private:
  Status Run(std::span<const int> ids, KvCache& cache, std::span<float> logits,
             bool all_logits);

  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORWARD_MODEL_H_
