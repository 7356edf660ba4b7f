#include "runtime/plan/gated_mlp.h"

namespace rankforge {
namespace {

using Clock = std::chrono::steady_clock;

// One call, in the form that a step returns.
struct OneCall {
  operator std::span<const GemvCall>() const {  // NOLINT: what a step returns
    return {&call, 1};
  }
  GemvCall call;
};

OneCall MaskedDown(const GemvPlan& down, const MaskView& mask,
                   const GemvOutput& output, size_t member, GatedMlpRun& run) {
  if (member == 0) {
    run.kept = mask.kept;
    run.mask_done = Clock::now();
  }
  return {down.ColumnMask(mask, output)};
}

}  // namespace

GatedMlpRun RunGatedMlp(const GatedMlpPlan& plan, Executor& executor,
                        RankScratch& ranks, GatedMlpScratch& scratch,
                        HandOver hand_over) {
  GatedMlpRun run;
  const auto branches = [&](size_t member) {
    if (member == 0) run.first.first_done = Clock::now();
    const RankBranchCalls calls(plan.branches, member, ranks);
    if (member == 0) run.first.kept = calls.kept();
    return calls;
  };
  const auto down = [&](size_t member) {
    if (member == 0) run.up_done = Clock::now();
    const MaskView mask =
        MakeGatedMask(plan.hidden, plan.down->problem().cols, plan.rule,
                      scratch.storage(member), plan.down->mask_arrays());
    return MaskedDown(*plan.down, mask, plan.output, member, run);
  };
  RunSteps(hand_over, executor, plan.first, branches, down);
  return run;
}

GatedMlpRun RunGateFirstMlp(const GateFirstMlpPlan& plan, Executor& executor,
                            GatedMlpScratch& scratch, HandOver hand_over) {
  GatedMlpRun run;
  const size_t size = plan.down->problem().cols;
  const auto up = [&](size_t member) {
    if (member == 0) run.first.first_done = Clock::now();
    MaskView& mask = scratch.view(member);
    mask = MakeGatedMask({plan.gate_values, nullptr, plan.activation}, size,
                         plan.gate_rule, scratch.storage(member),
                         plan.up->mask_arrays() | plan.down->mask_arrays());
    if (member == 0) run.up_kept = mask.kept;
    return OneCall{
        plan.up->RowMask(plan.x, plan.rounded, mask, {.y = plan.up_values})};
  };
  const auto down = [&](size_t member) {
    if (member == 0) run.up_done = Clock::now();
    MaskView& mask = scratch.view(member);
    if (plan.hidden_rule == nullptr) {
      MultiplyKept(mask, plan.up_values, scratch.storage(member));
    } else {
      mask = MakeGatedMask({plan.gate_values, plan.up_values, plan.activation},
                           size, *plan.hidden_rule, scratch.storage(member),
                           plan.down->mask_arrays());
    }
    return MaskedDown(*plan.down, mask, plan.output, member, run);
  };
  RunSteps(hand_over, executor, plan.gate, up, down);
  return run;
}

}  // namespace rankforge
