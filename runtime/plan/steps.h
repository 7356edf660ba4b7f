// Steps of products, each of which reads what those before it wrote.
#ifndef RANKFORGE_RUNTIME_PLAN_STEPS_H_
#define RANKFORGE_RUNTIME_PLAN_STEPS_H_

#include <cstddef>
#include <span>

#include "runtime/plan/plan.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// How the steps come to the threads: in one hand-over with barriers between
// them, where the executor has a team and the first step has work for more than
// one thread, or in one hand-over each.
enum class HandOver { kOne, kOneEach };

// Runs `first`, then what each of `steps` returns, step(member) ->
// std::span<const GemvCall>, asked when everything before it is done; without
// calls it costs no barrier. In one hand-over every member of the team asks,
// and must get the same calls, with what it made for them in memory of its own;
// in one each, only member 0, the caller, asks. Results do not depend on it.
template <class... Steps>
void RunSteps(HandOver hand_over, Executor& executor,
              std::span<const GemvCall> first, const Steps&... steps) {
  const auto run_member = [&](size_t member) {
    const auto run = [&](std::span<const GemvCall> calls) {
      if (calls.empty()) return;
      executor.TeamParts(member, PartsOf(calls), [&](size_t part) {
        for (const GemvCall& call : calls) RunPart(call, part);
      });
    };
    run(first);
    (run(steps(member)), ...);
  };
  const bool fused = hand_over == HandOver::kOne && PartsOf(first) > 1;
  if (fused && executor.RunTeam(run_member)) return;
  const auto run = [&](std::span<const GemvCall> calls) {
    if (!calls.empty()) RunCalls(calls, executor);
  };
  run(first);
  (run(steps(0)), ...);
}

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_PLAN_STEPS_H_
