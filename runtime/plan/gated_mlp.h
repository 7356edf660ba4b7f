// A gated MLP y = W_down (m(h) * h), h = act(W_gate x) * (W_up x), as one call:
// one hand-over to a team of threads, without extra passes over values or
// masks. An MLP without gate, h = act(W_up x), has a null `up`.
#ifndef RANKFORGE_RUNTIME_PLAN_GATED_MLP_H_
#define RANKFORGE_RUNTIME_PLAN_GATED_MLP_H_

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>

#include "kernels/mask/mask.h"
#include "runtime/plan/plan.h"
#include "runtime/plan/rank_stages.h"
#include "runtime/plan/steps.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// Computes all of gate and up, dense or through rank adapters. One pass then
// does activation, product, threshold and compaction; down reads its kept
// columns.
struct GatedMlpPlan {
  // What writes gate and up, or the ranks that `branches` read.
  std::span<const GemvCall> first;
  std::span<const RankBranch> branches;  // may be none
  GatedValues hidden;                    // gate and up (down's cols,)
  ThresholdRule rule;                    // m, over h
  const GemvPlan* down;                  // column mask
  GemvOutput output;
};

// The gate decides (CATS, CHESS): computes all of gate and a mask over
// act(gate). That mask selects the rows of up and the columns of down.
struct GateFirstMlpPlan {
  std::span<const GemvCall> gate;  // what writes gate_values
  const float* gate_values;        // (down's cols,)
  Activation activation = Activation::kSilu;
  ThresholdRule gate_rule;  // over act(gate)
  const GemvPlan* up;       // row mask
  const float* x;           // (up's cols,)
  float* up_values;         // (down's cols,) zero where dropped
  // A second threshold, over h = act(gate) * up; null: none. h is zero in
  // channels that the gate drops, so a threshold of zero keeps them, as zeros.
  const ThresholdRule* hidden_rule;
  const GemvPlan* down;  // column mask
  GemvOutput output;
  RoundedInput rounded = {};  // up->Round(x)
};

struct GatedMlpRun {
  RankRun first;       // the first products, and what the branches kept
  size_t up_kept = 0;  // rows of up, where the gate decides
  size_t kept = 0;     // columns of down
  // When gate and up were done, and when the mask was done, for measurements.
  std::chrono::steady_clock::time_point up_done;
  std::chrono::steady_clock::time_point mask_done;
};

// Memory of the calls, for up to `size` values (down's cols). Every member of a
// team makes the whole mask for itself: 11008 values take 7 to 10 us. A slice
// of h per member, a barrier and then the mask took 10.3 us instead of 9.7 on
// two threads (Zen 3, mlp_bench --cached). Besides, a barrier waits for the
// slowest member.
class GatedMlpScratch {
 public:
  GatedMlpScratch(size_t threads, size_t size)
      : size_(size),
        mask_bytes_(MaskBytes(size)),
        owned_(ScratchBytes(
            [&](ScratchCursor& memory) { Take(threads, memory); })) {
    ScratchCursor memory(owned_.data());
    Take(threads, memory);
  }
  // In memory of the caller.
  GatedMlpScratch(size_t threads, size_t size, ScratchCursor& memory)
      : size_(size), mask_bytes_(MaskBytes(size)) {
    Take(threads, memory);
  }
  MaskStorage storage(size_t member) {
    ScratchCursor memory(masks_ + member * mask_bytes_);
    return TakeMask(memory, size_);
  }
  // The mask of a member between two steps.
  MaskView& view(size_t member) { return views_[member]; }

 private:
  void Take(size_t threads, ScratchCursor& memory) {
    masks_ = memory.Take<std::byte>(threads * mask_bytes_);
    views_ = memory.Take<MaskView>(threads);
    if (views_ != nullptr)
      std::uninitialized_default_construct_n(views_, threads);
  }

  size_t size_;
  size_t mask_bytes_;
  PageBuffer owned_;  // empty: the caller's
  std::byte* masks_;
  MaskView* views_;  // (threads,)
};

// `ranks` serves the branches, `scratch` the rest.
GatedMlpRun RunGatedMlp(const GatedMlpPlan& plan, Executor& executor,
                        RankScratch& ranks, GatedMlpScratch& scratch,
                        HandOver hand_over = HandOver::kOne);
GatedMlpRun RunGateFirstMlp(const GateFirstMlpPlan& plan, Executor& executor,
                            GatedMlpScratch& scratch,
                            HandOver hand_over = HandOver::kOne);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_PLAN_GATED_MLP_H_
