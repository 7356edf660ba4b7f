// A rank adapter y = A (m(z) * z), z = B x, as one call: the products with B,
// the masks over z, and the products with the columns of A that the masks keep.
#ifndef RANKFORGE_RUNTIME_PLAN_RANK_STAGES_H_
#define RANKFORGE_RUNTIME_PLAN_RANK_STAGES_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <span>
#include <vector>

#include "kernels/mask/mask.h"
#include "runtime/plan/plan.h"
#include "runtime/plan/steps.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// The most adapters that share one concatenated B (gate and up).
inline constexpr size_t kMaxRankBranches = 2;

// y = A (m(z) * z) for one of the adapters whose B's are concatenated.
struct RankBranch {
  const GemvPlan* a;   // column mask
  const float* z;      // (a's cols,), its part of what the B product writes
  ThresholdRule rule;  // m
  GemvOutput output;
};

// Masks of each branch for each member of a team. Every member makes all masks:
// for thousands of ranks that takes a microsecond and saves a barrier.
class RankScratch {
 public:
  RankScratch(size_t threads, size_t mask_size);
  // In memory of the caller.
  RankScratch(size_t threads, size_t mask_size, ScratchCursor& memory);
  MaskStorage storage(size_t member, size_t branch) {
    ScratchCursor memory(memory_ +
                         (member * kMaxRankBranches + branch) * mask_bytes_);
    return TakeMask(memory, mask_size_);
  }

 private:
  size_t mask_size_;
  size_t mask_bytes_;
  PageBuffer owned_;  // empty: the caller's
  std::byte* memory_;
};

struct RankRun {
  std::array<size_t, kMaxRankBranches> kept{};  // of each branch
  // When the first products were done, for measurements.
  std::chrono::steady_clock::time_point first_done;
};

// Runs `first` (B, and products that run beside it), then all branches.
RankRun RunRankStages(std::span<const GemvCall> first,
                      std::span<const RankBranch> branches, Executor& executor,
                      RankScratch& scratch,
                      HandOver hand_over = HandOver::kOne);

// The second step of RunRankStages, for callers with more steps (RunSteps): the
// masks of one member and the products that read them.
class RankBranchCalls {
 public:
  RankBranchCalls(std::span<const RankBranch> branches, size_t member,
                  RankScratch& scratch);
  operator std::span<const GemvCall>() const {  // NOLINT: what a step returns
    return {calls_.data(), count_};
  }
  // What the branches kept.
  std::array<size_t, kMaxRankBranches> kept() const;

 private:
  std::array<GemvCall, kMaxRankBranches> calls_;
  size_t count_ = 0;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_PLAN_RANK_STAGES_H_
