#include "runtime/plan/rank_stages.h"

#include <cassert>

namespace rankforge {

RankScratch::RankScratch(size_t threads, size_t mask_size)
    : mask_size_(mask_size),
      mask_bytes_(MaskBytes(mask_size)),
      owned_(threads * kMaxRankBranches * mask_bytes_),
      memory_(owned_.data()) {}

RankScratch::RankScratch(size_t threads, size_t mask_size,
                         ScratchCursor& memory)
    : mask_size_(mask_size),
      mask_bytes_(MaskBytes(mask_size)),
      memory_(
          memory.Take<std::byte>(threads * kMaxRankBranches * mask_bytes_)) {}

RankBranchCalls::RankBranchCalls(std::span<const RankBranch> branches,
                                 size_t member, RankScratch& scratch)
    : count_(branches.size()) {
  assert(count_ <= kMaxRankBranches);
  for (size_t i = 0; i < count_; ++i) {
    const RankBranch& branch = branches[i];
    const MaskView mask =
        MakeMask(branch.z, branch.a->problem().cols, branch.rule,
                 scratch.storage(member, i), branch.a->mask_arrays());
    calls_[i] = branch.a->ColumnMask(mask, branch.output);
  }
}

std::array<size_t, kMaxRankBranches> RankBranchCalls::kept() const {
  std::array<size_t, kMaxRankBranches> kept{};
  for (size_t i = 0; i < count_; ++i) kept[i] = calls_[i].args.mask.kept;
  return kept;
}

RankRun RunRankStages(std::span<const GemvCall> first,
                      std::span<const RankBranch> branches, Executor& executor,
                      RankScratch& scratch, HandOver hand_over) {
  RankRun run;
  RunSteps(hand_over, executor, first, [&](size_t member) {
    if (member == 0) run.first_done = std::chrono::steady_clock::now();
    const RankBranchCalls calls(branches, member, scratch);
    if (member == 0) run.kept = calls.kept();
    return calls;
  });
  return run;
}

}  // namespace rankforge
