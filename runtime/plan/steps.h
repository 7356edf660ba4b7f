// Steps of products: each step reads what the earlier steps wrote.
#ifndef RANKFORGE_RUNTIME_PLAN_STEPS_H_
#define RANKFORGE_RUNTIME_PLAN_STEPS_H_

#include <cstddef>
#include <span>

#include "runtime/plan/plan.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// How threads get the steps: all in one hand-over with barriers between them
// (kOne), or one hand-over per step (kOneEach). kOne needs an executor with a
// team and a first step with work for more than one thread; without them
// RunSteps does as for kOneEach.
enum class HandOver { kOne, kOneEach };

// Runs `first`, then the calls that each of `steps` returns: step(member) ->
// std::span<const GemvCall>, called when all earlier calls are done. A step
// without calls costs no barrier. In one hand-over, every member of the team
// calls the step. It must return the same calls to each member, and keep what
// it makes for them in memory of that member. With one hand-over per step, only
// member 0, the caller, calls it. Results do not depend on the choice.
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
