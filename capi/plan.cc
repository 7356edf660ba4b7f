// The entries of plans and runs.
#include "capi/plan.h"

#include "capi/arguments.h"
#include "capi/scratch_check.h"

namespace rankforge::capi {
namespace {

const std::shared_ptr<const Context>& ContextOf(
    const rankforge_context* context) {
  return ContextPool::Of(context, "context");
}

bool Overlap(const float* a, size_t a_size, const float* b, size_t b_size) {
  return a < b + b_size && b < a + a_size;
}

void CheckMemory(const rankforge_run_args& given, const Plan::Shape& shape,
                 const RunArgs& args) {
  CheckArray(given.x, "x");
  CheckArray(given.y, "y");
  CheckAligned(given.bias, "bias");
  if (args.tokens > 1 &&
      (args.x_stride < shape.cols || args.y_stride < shape.rows)) {
    throw ArgumentError("strides: {} and {} are below {} cols and {} rows",
                        args.x_stride, args.y_stride, shape.cols, shape.rows);
  }
  const size_t y_size = (args.tokens - 1) * args.y_stride + shape.rows;
  const size_t x_size = (args.tokens - 1) * args.x_stride + shape.cols;
  if (Overlap(args.y, y_size, args.x, x_size) ||
      (given.bias != nullptr &&
       Overlap(args.y, y_size, given.bias, shape.rows))) {
    throw ArgumentError("y: overlaps an input");
  }
}

RunArgs ReadArgs(const rankforge_run_args& given, const Plan& plan) {
  const Plan::Shape& shape = plan.shape();
  RunArgs args;
  args.tokens = given.tokens == 0 ? 1 : given.tokens;
  if (args.tokens > plan.most_tokens()) {
    throw ArgumentError("tokens: {}, but the plan takes {}", args.tokens,
                        plan.most_tokens());
  }
  args.x = given.x;
  args.y = given.y;
  args.x_stride = given.x_stride == 0 ? shape.cols : given.x_stride;
  args.y_stride = given.y_stride == 0 ? shape.rows : given.y_stride;
  CheckMemory(given, shape, args);
  if (given.accumulate != 0 && given.bias != nullptr) {
    throw ArgumentError("bias: is set, but accumulate too");
  }
  args.output = {given.y, given.bias, given.accumulate != 0};
  CheckAligned(given.kept, "kept");
  args.kept = given.kept;
  const bool fits = plan.takes_masks() ? given.mask_count == 1 ||
                                             given.mask_count == args.tokens
                                       : given.mask_count == 0;
  if (!fits) {
    throw ArgumentError("mask_count: {} for {} tokens of a plan {} masks",
                        given.mask_count, args.tokens,
                        plan.takes_masks() ? "with" : "without");
  }
  if (given.mask_count > 0 && given.masks == nullptr) {
    throw ArgumentError("masks: is null");
  }
  args.masks = given.masks;
  args.mask_count = given.mask_count;
  return args;
}

template <class Body>
rankforge_status RunGuarded(const rankforge_plan* plan,
                            const rankforge_run_args* args, void* scratch,
                            size_t scratch_size, const Body& body) {
  return Guarded([&] {
    const Plan& run = *PlanPool::Of(plan, "plan");
    const StructView given(args, "args");
    const RunArgs read = ReadArgs(*given, run);
    CheckScratch(scratch, scratch_size, run.scratch_bytes());
    const ScratchInUse in_use(scratch, run.scratch_bytes());
    body(run, read, ScratchCursor(static_cast<std::byte*>(scratch)));
  });
}

template <class Make>
rankforge_status Planned(const rankforge_context* context,
                         const rankforge_table* table, rankforge_plan** plan,
                         const Make& make) {
  return Guarded([&] {
    Checked(plan, "plan");
    const std::shared_ptr<const Context>& on = ContextOf(context);
    const Dispatcher dispatcher(TableOf(table));
    *plan = PlanPool::Make(std::shared_ptr<const Plan>(make(on, dispatcher)));
  });
}

}  // namespace

ProductsOf::ProductsOf(std::initializer_list<One> products, int32_t activations)
    : asked_(ReadActivations(activations)) {
  std::vector<WeightType> types;
  for (const One& product : products) {
    if (product.weights == nullptr) continue;
    const auto weights = WeightsOf(product.weights, product.name);
    types.push_back(weights->matrix.type());
    const Activations activations =
        ActivationsOf(*weights, product.operation, asked_);
    if (activations != Activations::kF32 ||
        SumsOf(weights->matrix.layout()) > 1) {
      one_by_one_ = true;
    }
  }
  CheckActivations(asked_, types);
}

}  // namespace rankforge::capi

using namespace rankforge;        // NOLINT: the entries of the library
using namespace rankforge::capi;  // NOLINT

rankforge_status rankforge_plan_gemv(const rankforge_context* context,
                                     const rankforge_table* table,
                                     const rankforge_problem* problem,
                                     const rankforge_weights* weights,
                                     rankforge_plan** plan) {
  return Planned(context, table, plan, [&](auto& on, auto& dispatcher) {
    const CallProblem call =
        ReadProblem(ReadStruct(problem, "problem"), on->threads());
    return MakeGemvPlan(on, dispatcher, call, WeightsOf(weights, "weights"));
  });
}

rankforge_status rankforge_plan_rank_adapter(
    const rankforge_context* context, const rankforge_table* table,
    const rankforge_rank_adapter* adapter, rankforge_plan** plan) {
  return Planned(context, table, plan, [&](auto& on, auto& dispatcher) {
    return MakeRankPlan(on, dispatcher, ReadStruct(adapter, "adapter"));
  });
}

rankforge_status rankforge_plan_gated_mlp(const rankforge_context* context,
                                          const rankforge_table* table,
                                          const rankforge_gated_mlp* mlp,
                                          rankforge_plan** plan) {
  return Planned(context, table, plan, [&](auto& on, auto& dispatcher) {
    return MakeMlpPlan(on, dispatcher, ReadStruct(mlp, "mlp"));
  });
}

rankforge_status rankforge_plan_destroy(rankforge_plan* plan) {
  return Guarded([&] { PlanPool::Destroy(plan, "plan"); });
}

rankforge_status rankforge_plan_explain(const rankforge_plan* plan, char* text,
                                        size_t capacity, size_t* length) {
  return Guarded([&] {
    WriteText(PlanPool::Of(plan, "plan")->Explain(), text, capacity, length);
  });
}

rankforge_status rankforge_plan_shape(const rankforge_plan* plan, size_t* rows,
                                      size_t* cols, uint32_t* tokens) {
  return Guarded([&] {
    const Plan& described = *PlanPool::Of(plan, "plan");
    if (rows != nullptr) *rows = described.shape().rows;
    if (cols != nullptr) *cols = described.shape().cols;
    if (tokens != nullptr) {
      *tokens = static_cast<uint32_t>(described.most_tokens());
    }
  });
}

rankforge_status rankforge_plan_scratch_size(const rankforge_plan* plan,
                                             size_t* bytes) {
  return Guarded([&] {
    *Checked(bytes, "bytes") = PlanPool::Of(plan, "plan")->scratch_bytes();
  });
}

rankforge_status rankforge_run(const rankforge_plan* plan,
                               const rankforge_run_args* args, void* scratch,
                               size_t scratch_size) {
  return RunGuarded(plan, args, scratch, scratch_size,
                    [](const Plan& run, const RunArgs& read,
                       ScratchCursor memory) { run.Run(read, memory); });
}

rankforge_status rankforge_run_share(const rankforge_plan* plan,
                                     const rankforge_run_args* args,
                                     size_t share, size_t shares, void* scratch,
                                     size_t scratch_size) {
  return RunGuarded(
      plan, args, scratch, scratch_size,
      [&](const Plan& run, const RunArgs& read, ScratchCursor memory) {
        if (share >= shares) {
          throw ArgumentError("share: {} is not below {}", share, shares);
        }
        run.RunShare(read, share, shares, memory);
      });
}
