#include "runtime/rank_stages.h"

#include <algorithm>
#include <cassert>

namespace rankforge {
namespace {

using BranchCalls = std::array<GemvCall, kMaxRankBranches>;

// The masked products, with masks in the scratch of `member`.
BranchCalls MakeCalls(std::span<const RankBranch> branches, size_t member,
                      RankScratch& scratch) {
  BranchCalls calls;
  for (size_t i = 0; i < branches.size(); ++i) {
    const RankBranch& branch = branches[i];
    const MaskView mask = MakeMask(branch.z, branch.a->problem().cols,
                                   branch.rule, scratch.storage(member, i));
    calls[i] = branch.a->ColumnMask(mask, branch.output);
  }
  return calls;
}

void CountKept(const BranchCalls& calls, RankRun& run) {
  for (size_t i = 0; i < calls.size(); ++i) {
    run.kept[i] = calls[i].args.mask.kept;
  }
}

}  // namespace

RankScratch::RankScratch(size_t threads, size_t mask_size) {
  for (size_t i = 0; i < threads * kMaxRankBranches; ++i) {
    masks_.emplace_back(mask_size);
  }
}

RankRun RunRankStages(std::span<const GemvCall> first,
                      std::span<const RankBranch> branches, Executor& executor,
                      RankScratch& scratch) {
  assert(branches.size() <= kMaxRankBranches);
  RankRun run;
  const bool small = PartsOf(first) <= 1;
  const auto run_member = [&](size_t member) {
    const auto run_parts = [&](std::span<const GemvCall> calls) {
      executor.TeamParts(member, PartsOf(calls), [&](size_t part) {
        for (const GemvCall& call : calls) RunPart(call, part);
      });
    };
    run_parts(first);
    if (member == 0) run.first_done = std::chrono::steady_clock::now();
    const BranchCalls calls = MakeCalls(branches, member, scratch);
    if (member == 0) CountKept(calls, run);
    run_parts({calls.data(), branches.size()});
  };
  if (!small && executor.RunTeam(run_member)) return run;
  return RunRankStagesApart(first, branches, executor, scratch);
}

RankRun RunRankStagesApart(std::span<const GemvCall> first,
                           std::span<const RankBranch> branches,
                           Executor& executor, RankScratch& scratch) {
  RankRun run;
  RunCalls(first, executor);
  run.first_done = std::chrono::steady_clock::now();
  const BranchCalls calls = MakeCalls(branches, 0, scratch);
  CountKept(calls, run);
  RunCalls({calls.data(), branches.size()}, executor);
  return run;
}

}  // namespace rankforge
