// Plans of a rank adapter: y = A (m(z) * z), z = B x.
#include "capi/arguments.h"
#include "capi/plan.h"
#include "capi/rank_branch.h"
#include "kernels/mask/mask.h"
#include "runtime/plan/rank_stages.h"

namespace rankforge::capi {
namespace {

class RankLayer final : public Plan {
 public:
  RankLayer(std::shared_ptr<const Context> context, Branch branch,
            const Shape& shape)
      : Plan(std::move(context), shape), branch_(std::move(branch)) {
    set_scratch_bytes(
        ScratchBytes([&](ScratchCursor& memory) { Memory(*this, memory); }));
  }
  std::string Explain() const override { return branch_.Explain(); }

 protected:
  void RunWith(Executor& executor, const RunArgs& args,
               ScratchCursor memory) const override {
    Memory own(*this, memory);
    InputScratch input(own.input);
    BranchRun branch = {own.z, args.output, args.y_stride};
    branch.output.partial = own.partial;
    const GemvCall first = branch_.First(args, branch, input);
    if (args.tokens > 1) {
      RunCalls({&first, 1}, executor);
      branch_.RunSecond(args, branch, own.tokens, executor);
      return;
    }
    const RankBranch second = branch_.Second(branch);
    const RankRun run =
        RunRankStages({&first, 1}, {&second, 1}, executor, own.ranks);
    args.Report(0, run.kept[0]);
  }

 private:
  struct Memory {
    Memory(const RankLayer& layer, ScratchCursor& memory)
        : z(layer.branch_.TakeRanks(memory, layer.shape().tokens)),
          input(TakeRoundedInput(memory, layer.shape().cols)),
          ranks(layer.members(), layer.branch_.ranks(), memory),
          partial(layer.branch_.TakeSums(memory)) {
      if (layer.shape().tokens > 1) {
        tokens = TokenMasks::Take(memory, layer.shape().tokens,
                                  layer.branch_.ranks());
      }
    }
    float* z;
    RoundedStorage input;
    RankScratch ranks;
    PartialSums partial;
    TokenMasks tokens{};
  };

  Branch branch_;
};

}  // namespace

Branch::Branch(const Dispatcher& dispatcher, const BranchWeights& weights,
               size_t tokens, size_t threads,
               std::optional<Activations> activations)
    : first_(dispatcher, WeightsOf(weights.first, weights.name),
             {Operation::kDense, 1, tokens, threads, activations},
             weights.name) {
  if (weights.a == nullptr) {
    if (weights.rule != nullptr) {
      throw ArgumentError("{}: has a rule, but no A", weights.name);
    }
    return;
  }
  second_.emplace(
      dispatcher, WeightsOf(weights.a, weights.a_name),
      Product::Demand{Operation::kColumnMask, 1, tokens, threads, activations},
      weights.a_name);
  if (second_->cols() != first_.rows()) {
    throw ArgumentError("{}: has {} cols, but {} has {} rows", weights.a_name,
                        second_->cols(), weights.name, first_.rows());
  }
  rule_.emplace(weights.rule, first_.rows(), weights.rule_name);
}

float* Branch::TakeRanks(ScratchCursor& memory, size_t tokens) const {
  return memory.Take<float>(tokens * RanksStride());
}

PartialSums Branch::TakeSums(ScratchCursor& memory) const {
  return second_ ? TakePartialSums(memory, second_->For(1)) : PartialSums{};
}

GemvCall Branch::First(const RunArgs& args, const BranchRun& run,
                       InputScratch& input) const {
  const bool to_ranks = second_.has_value();
  return first_.For(args.tokens)
      .Dense(
          args.x, to_ranks ? GemvOutput{run.z} : run.output,
          {args.tokens, args.x_stride, to_ranks ? RanksStride() : run.y_stride},
          &input);
}

RankBranch Branch::Second(const BranchRun& run) const {
  return {&second_->For(1), run.z, rule_->rule(), run.output};
}

void Branch::RunSecond(const RunArgs& args, const BranchRun& run,
                       const TokenMasks& masks, Executor& executor,
                       bool reports) const {
  for (size_t t = 0; t < args.tokens; ++t) {
    const MaskView view =
        MakeMask(run.z + t * RanksStride(), ranks(), rule_->rule(),
                 masks.Of(t, ranks()), {false, false, false});
    if (reports) args.Report(t, view.kept);
  }
  const MaskView mask =
      masks.Union(args.tokens, 1, run.z, RanksStride(), ranks());
  const GemvCall call =
      second_->For(args.tokens)
          .ColumnMask(mask, run.output,
                      {args.tokens, RanksStride(), run.y_stride});
  RunCalls({&call, 1}, executor);
}

std::string Branch::Explain() const {
  return first_.Explain() + (second_ ? second_->Explain() : "");
}

std::unique_ptr<Plan> MakeRankPlan(std::shared_ptr<const Context> context,
                                   const Dispatcher& dispatcher,
                                   const rankforge_rank_adapter& adapter) {
  CheckReserved(adapter.reserved, "adapter");
  CheckReserved(adapter.reserved_end, "adapter", "reserved_end");
  const size_t tokens = TokensOf(adapter.tokens);
  const size_t threads = ThreadsOf(adapter.threads, *context);
  if (adapter.a == nullptr) {
    throw Error(RANKFORGE_ERROR_HANDLE, "adapter: a: is null");
  }
  const ProductsOf products({{adapter.b, "adapter: b", Operation::kDense},
                             {adapter.a, "adapter: a", Operation::kColumnMask}},
                            adapter.activations);
  const size_t together = products.one_by_one() ? 1 : tokens;
  Branch branch(dispatcher,
                {adapter.b, adapter.a, adapter.rule, "adapter: b", "adapter: a",
                 "adapter: rule"},
                together, threads, products.activations());
  const Plan::Shape shape = {branch.rows(), branch.cols(), together};
  auto plan =
      std::make_unique<RankLayer>(std::move(context), std::move(branch), shape);
  plan->set_most_tokens(tokens);
  return plan;
}

}  // namespace rankforge::capi
