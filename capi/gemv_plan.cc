// Products: weights and kernels, and plans of one product.
#include <algorithm>
#include <bit>
#include <cassert>

#include "capi/arguments.h"
#include "capi/mask.h"
#include "capi/plan.h"
#include "kernels/registry.h"
#include "meta/packing.h"

namespace rankforge::capi {
namespace {

// A kernel for weights of `layout` where it is not the one that was chosen.
// Throws where only the scalar reference computes this, but other layouts have
// kernels.
const KernelEntry* KernelFor(const Problem& problem, Layout layout,
                             const char* name) {
  const KernelEntry* kernel = DefaultKernel(problem, layout);
  if (kernel != nullptr && !kernel->is_reference()) return kernel;
  for (const Layout other : kLayouts) {
    const KernelEntry* better = DefaultKernel(problem, other);
    if (better == nullptr || better->is_reference()) continue;
    throw UnsupportedError(
        "{}: weights in layout {} have no kernels for {}; pack them for that "
        "problem (layout {})",
        name, Name(layout), problem.ToString(), Name(other));
  }
  if (kernel == nullptr) {
    throw UnsupportedError("{}: layout {} has no kernels for {}", name,
                           Name(layout), problem.ToString());
  }
  return kernel;
}

Choice ChoiceFor(const Dispatcher& dispatcher, const Weights& weights,
                 const Problem& problem, const char* name) {
  const PackedMatrix& matrix = weights.matrix;
  Choice choice = dispatcher.Decide(problem).choice;
  if (choice.layout != matrix.layout()) {
    return ChoiceOf(*KernelFor(problem, matrix.layout(), name), matrix.layout(),
                    choice.threads);
  }
  // Kernels of one shape know how far apart packed rows are.
  const bool apart =
      matrix.stride() != PackedStride(matrix.layout(), matrix.type(),
                                      matrix.rows(), matrix.cols());
  for (DensityKernel& part : choice.by_density) {
    if (apart && part.kernel->static_rows != 0) {
      part.kernel = KernelFor(problem, matrix.layout(), name);
    }
  }
  return choice;
}

class GemvLayer final : public Plan {
 public:
  GemvLayer(std::shared_ptr<const Context> context,
            const Dispatcher& dispatcher, const CallProblem& call,
            std::shared_ptr<const Weights> weights)
      : Plan(std::move(context),
             {call.problem.rows, call.problem.cols, call.problem.batch}),
        granularity_(call.granularity),
        product_(dispatcher, std::move(weights),
                 {call.problem.operation, call.granularity, call.problem.batch,
                  call.problem.threads, call.problem.activations},
                 "weights") {
    set_scratch_bytes(
        ScratchBytes([&](ScratchCursor& memory) { Take(memory); }));
  }

  bool takes_masks() const override { return operation() != Operation::kDense; }
  std::string Explain() const override { return product_.Explain(); }

 protected:
  void RunWith(Executor& executor, const RunArgs& args,
               ScratchCursor memory) const override {
    InputScratch input(RoundedStorage{});
    const GemvCall call = CallOf(args, memory, input);
    RunCalls({&call, 1}, executor);
  }
  void RunShareWith(const RunArgs& args, size_t share, size_t shares,
                    ScratchCursor memory) const override {
    InputScratch input(RoundedStorage{});
    RunArgs own = args;
    if (share > 0) own.kept = nullptr;  // one share reports
    GemvCall call = CallOf(own, memory, input);
    CutOutputs(call, shares);
    RunPart(call, share);
  }

 private:
  struct Memory {
    MaskStorage mask{};
    TokenMasks tokens{};
    RoundedStorage input{};
    PartialSums partial{};
  };

  Operation operation() const { return product_.For(1).problem().operation; }
  // Channels that the mask is over.
  size_t count() const {
    return operation() == Operation::kRowMask ? shape().rows : shape().cols;
  }
  Memory Take(ScratchCursor& memory) const {
    Memory taken;
    if (takes_masks()) taken.mask = TakeMask(memory, count());
    if (takes_masks() && shape().tokens > 1) {
      taken.tokens = TokenMasks::Take(memory, shape().tokens, count());
    }
    // Column masks round nothing beforehand.
    if (operation() != Operation::kColumnMask) {
      taken.input = TakeRoundedInput(memory, shape().cols);
    }
    taken.partial = TakePartialSums(memory, product_.For(1));
    return taken;
  }

  // Makes the masks. `input` must outlive the call.
  GemvCall CallOf(const RunArgs& args, ScratchCursor& memory,
                  InputScratch& input) const {
    const Memory taken = Take(memory);
    input = InputScratch(taken.input);
    const GemvPlan& plan = product_.For(args.tokens);
    if (operation() == Operation::kDense) {
      for (size_t t = 0; t < args.tokens; ++t) args.Report(t, shape().rows);
      return plan.Dense(args.x, args.output, args.batch(), &input);
    }
    const MaskView mask = args.tokens == 1 ? OneMask(args, plan, taken.mask)
                                           : JoinedMask(args, taken.tokens);
    GemvOutput output = args.output;
    output.partial = taken.partial;
    return operation() == Operation::kColumnMask
               ? plan.ColumnMask(mask, output, args.batch())
               : plan.RowMask(args.x, mask, output, args.batch(), &input);
  }
  const float* MaskedInput(const RunArgs& args, size_t token) const {
    return operation() == Operation::kColumnMask ? args.InputOf(token)
                                                 : nullptr;
  }
  MaskView OneMask(const RunArgs& args, const GemvPlan& plan,
                   const MaskStorage& storage) const {
    const MaskView view =
        MakeCallMask(args.masks, MaskedInput(args, 0), count(), granularity_,
                     storage, plan.mask_arrays());
    args.Report(0, view.kept);
    return view;
  }
  MaskView JoinedMask(const RunArgs& args, const TokenMasks& masks) const {
    for (size_t t = 0; t < args.tokens; ++t) {
      const MaskView view = MakeCallMask(
          ElementOf(args.masks, args.mask_count == 1 ? 0 : t, "masks"),
          MaskedInput(args, t), count(), granularity_, masks.Of(t, count()),
          {false, false, false});
      args.Report(t, view.kept);
    }
    return masks.Union(args.tokens, granularity_, MaskedInput(args, 0),
                       args.x_stride, count());
  }

  size_t granularity_;
  Product product_;
};

}  // namespace

Product::Product(const Dispatcher& dispatcher,
                 std::shared_ptr<const Weights> weights, const Demand& demand,
                 const char* name)
    : name_(name), weights_(std::move(weights)) {
  const PackedMatrix& matrix = weights_->matrix;
  // A group of rows is read as a whole, but no row of the caller's follows the
  // last one.
  if (weights_->adopted && demand.operation == Operation::kRowMask &&
      matrix.rows() % demand.granularity != 0) {
    throw UnsupportedError(
        "{}: {} rows in place are no whole groups of {}; pack them", name,
        matrix.rows(), demand.granularity);
  }
  Problem problem{
      demand.operation,
      matrix.rows(),
      matrix.cols(),
      matrix.type(),
      demand.granularity,
      1,
      demand.threads,
      ActivationsOf(*weights_, demand.operation, demand.activations)};
  one_ = GemvPlan::Bind(matrix, problem,
                        ChoiceFor(dispatcher, *weights_, problem, name));
  if (demand.tokens == 1) return;
  assert(problem.activations == Activations::kF32);
  problem.batch = demand.tokens;
  problem.granularity = 1;
  several_ = GemvPlan::Bind(matrix, problem,
                            ChoiceFor(dispatcher, *weights_, problem, name));
}

std::string Product::Explain() const {
  std::string lines;
  for (const GemvPlan* plan : {&one_, several_ ? &*several_ : nullptr}) {
    if (plan == nullptr) continue;
    lines +=
        fmt::format("{}: {}, layout {}\n", name_, plan->problem().ToString(),
                    Name(weights_->matrix.layout()));
    std::string last;
    for (const double density : {1.0, 0.75, 0.5, 0.25, 0.1}) {
      const std::string kernel = plan->EntryAt(density).FullName();
      if (kernel == last) continue;
      lines += fmt::format("  density {}: {}\n", density, kernel);
      last = kernel;
    }
  }
  return lines;
}

RunArgs RunArgs::Of(size_t token) const {
  RunArgs one = *this;
  one.tokens = 1;
  one.x = InputOf(token);
  one.y += token * y_stride;
  one.output.y = one.y;
  if (mask_count > 1) one.masks = ElementOf(masks, token, "masks");
  one.mask_count = std::min<size_t>(mask_count, 1);
  if (kept != nullptr) one.kept = kept + token;
  return one;
}

void Plan::RunShareWith(const RunArgs&, size_t, size_t, ScratchCursor) const {
  throw UnsupportedError(
      "plan: shares are of one product; make plans of B and of A, or of gate, "
      "up and down (rankforge_plan_gemv)");
}

OwnedRule::OwnedRule(const rankforge_mask* rule, size_t count, const char* name)
    : rule_(ReadRule(rule, name)) {
  const auto own = [&](const float*& array, std::vector<float>& copy) {
    if (array == nullptr) return;
    copy.assign(array, array + count);
    array = copy.data();
  };
  own(rule_.tau, tau_);
  own(rule_.mu, mu_);
}

TokenMasks TokenMasks::Take(ScratchCursor& memory, size_t tokens,
                            size_t count) {
  return {TakeMask(memory, count),
          memory.Take<uint64_t>(tokens * MaskWords(count)),
          TakeUnion(memory, tokens, count)};
}

MaskView TokenMasks::Union(size_t tokens, size_t granularity, const float* x,
                           size_t x_stride, size_t count) const {
  const uint64_t* of_tokens[kMostTokens];
  for (size_t t = 0; t < tokens; ++t)
    of_tokens[t] = bits + t * MaskWords(count);
  return UnionOfMasks({of_tokens, tokens}, granularity, x, x_stride, count,
                      joined);
}

std::unique_ptr<Plan> MakeGemvPlan(std::shared_ptr<const Context> context,
                                   const Dispatcher& dispatcher,
                                   const CallProblem& call,
                                   std::shared_ptr<const Weights> weights) {
  const Problem& problem = call.problem;
  const PackedMatrix& matrix = weights->matrix;
  if (matrix.rows() != problem.rows || matrix.cols() != problem.cols ||
      matrix.type() != problem.type) {
    throw ArgumentError("weights: are {}x{} {}, but the problem is {}x{} {}",
                        matrix.rows(), matrix.cols(), Name(matrix.type()),
                        problem.rows, problem.cols, Name(problem.type));
  }
  CallProblem together = call;
  // No kernel adds several tokens in several sums.
  if (SumsOf(matrix.layout()) > 1) together.problem.batch = 1;
  auto plan = std::make_unique<GemvLayer>(std::move(context), dispatcher,
                                          together, std::move(weights));
  plan->set_most_tokens(call.tokens);
  return plan;
}

size_t TokensOf(uint32_t tokens) {
  if (tokens > kMostTokens) {
    throw ArgumentError("tokens: {} is above {}; run several times", tokens,
                        kMostTokens);
  }
  return std::max<size_t>(tokens, 1);
}

size_t ThreadsOf(uint32_t threads, const Context& context) {
  if (threads > context.threads()) {
    throw ArgumentError("threads: {} is above the {} of the context", threads,
                        context.threads());
  }
  return threads == 0 ? context.threads() : threads;
}

}  // namespace rankforge::capi
