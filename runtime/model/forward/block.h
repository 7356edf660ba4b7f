// One block of a transformer: its norms, its four projections, and THE order in
// which they run.
#ifndef RANKFORGE_RUNTIME_MODEL_FORWARD_BLOCK_H_
#define RANKFORGE_RUNTIME_MODEL_FORWARD_BLOCK_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/status.h"
#include "runtime/model/format/config.h"
#include "runtime/model/forward/activation_observer.h"
#include "runtime/model/forward/attention.h"
#include "runtime/model/forward/kv_cache.h"
#include "runtime/model/forward/norm.h"
#include "runtime/model/forward/projection.h"
#include "runtime/model/weights/modules.h"
#include "runtime/model/weights/site.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// Values between the products of a block, (tokens, width) each.
struct Activity {
  std::vector<float> normed;   // hidden: q, k, v or gate and up read it
  std::vector<float> qkv;      // qkv_rows
  std::vector<float> heads;    // o_cols: attention's output, which o reads
  std::vector<float> gate_up;  // mlp_in_rows
  std::vector<float> mlp;      // mlp: act(gate) * up, which down reads
  std::vector<float> output;   // hidden: of o or down
  size_t tokens = 0;           // how many there is room for

  // Makes room for every layer of `config`.
  void Reserve(const ModelConfig& config, size_t count);
};

// What a forward pass needs beside weights. All blocks share it, because they
// run one after another.
struct ForwardContext {
  const ModelConfig& config;
  Executor& executor;
  Activity activity = {};
  AttentionScratch attention = {};
  ProductScratch products;
  ActivationObserver* observer = nullptr;
  bool fitting = false;  // whether thresholds are fitted to the values of a run
  // Whether several tokens are decoded, each with the bits of a run of its own,
  // and are no prompt. Nobody observes such a run.
  bool decoding = false;
};

// x (tokens, hidden) to out (tokens, hidden), which may be x.
void RunNorm(const Norm& norm, const float* x, size_t tokens, float* out,
             ForwardContext& context);

// What a run of a block reads and writes.
struct BlockRun {
  ForwardContext& context;
  size_t tokens;
  KvCache& cache;  // appended to at cache.length(), which stays
  float* hidden;   // (tokens, hidden), in and out
};

class Block {
 public:
  static Result<Block> Create(size_t layer, const BlockSpec& spec,
                              const ModelConfig& config, WeightType type,
                              ProductFactory& factory);

  void Run(const BlockRun& run);
  // In place of Run where a sequence does without the block: the hidden values
  // change their basis alone, where Run changes it.
  void PassBy(const BlockRun& run);

  // Run in pieces. AttentionInput turns `hidden` (tokens, hidden) into the
  // basis of the block, if it has one, and writes x (tokens, hidden), the norm
  // of it, which q, k and v read. RunSite runs the projection that reads x
  // at `site`, adds to run.hidden what the block adds there, and writes `next`
  // (tokens, SiteWidth of the next site), which the next site reads.
  // kMlpHidden, the last, has no `next`. AttentionInput and the four sites in
  // order give the same result as Run, bit for bit.
  void AttentionInput(float* hidden, size_t tokens, float* x,
                      ForwardContext& context);
  void RunSite(Site site, const float* x, float* next, const BlockRun& run);

  BySite<Projection>& projections() { return projections_; }
  // Calls function(projection) for all of them, those that turn hidden values
  // included.
  template <class Function>
  void ForEachProjection(Function function) {
    for (auto* turn : {&enter_, &leave_}) {
      if (*turn) function(**turn);
    }
    for (Projection& projection : projections_) function(projection);
  }
  template <class Function>
  void ForEachProjection(Function function) const {
    for (const auto* turn : {&enter_, &leave_}) {
      if (*turn) function(**turn);
    }
    for (const Projection& projection : projections_) function(projection);
  }

 private:
  // y (tokens, rows) = W x. The observer sees both.
  void Project(Site site, const float* x, float* y, const BlockRun& run);
  // Normalises q and k of `qkv` (tokens, qkv_rows), where the model does.
  void NormHeads(float* qkv, const BlockRun& run) const;
  // run.hidden += norm(x), where the block has that norm; x is overwritten.
  void AddToHidden(const Norm& norm, float* x, const BlockRun& run) const;
  // hidden (tokens, hidden) = W hidden, if there is such a product.
  static void Turn(std::optional<Projection>& turn, float* hidden,
                   size_t tokens, ForwardContext& context);
  // mlp (tokens, mlp) = act(W_gate x) * W_up x, or act(W_up x).
  void GateAndUp(const float* x, float* mlp, const BlockRun& run);
  // y (tokens, hidden) = W_down mlp.
  void Down(const float* mlp, float* y, const BlockRun& run);
  // GateAndUp and Down as one call, for decoding with an MLP that drops
  // neurons. Returns false, and does nothing, if they have to run one after the
  // other.
  bool FusedMlp(const float* x, float* y, const BlockRun& run);

  Norm attention_norm_;
  Norm mlp_norm_;
  Norm attention_out_norm_;
  Norm mlp_out_norm_;
  Norm q_norm_;
  Norm k_norm_;
  BySite<Projection> projections_;
  std::optional<Projection> enter_;  // BlockSpec
  std::optional<Projection> leave_;
  size_t layer_ = 0;
  // Where the gate decides: how many neurons it kept, over the tokens that down
  // has not read yet.
  uint64_t kept_by_gate_ = 0;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORWARD_BLOCK_H_
