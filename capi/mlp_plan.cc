// Plans of a gated MLP: y = D (m(h) * h), h = act(G x) * (U x).
#include <algorithm>
#include <array>

#include "capi/arguments.h"
#include "capi/plan.h"
#include "capi/rank_branch.h"
#include "runtime/plan/gated_mlp.h"

namespace rankforge::capi {
namespace {

constexpr std::array kActivationFunctions = {
    Activation::kSilu, Activation::kGelu, Activation::kGeluTanh};

// Everything of an MLP that a run reads.
struct MlpParts {
  Branch gate;
  std::optional<Branch> up;          // not where the gate decides
  std::optional<Product> masked_up;  // where the gate decides
  Product down;
  Activation activation;
  std::optional<OwnedRule> gate_rule;  // the gate decides
  std::optional<OwnedRule> hidden_rule;

  size_t hidden() const { return down.cols(); }
};

class MlpLayer final : public Plan {
 public:
  MlpLayer(std::shared_ptr<const Context> context, MlpParts parts,
           const Shape& shape)
      : Plan(std::move(context), shape), parts_(std::move(parts)) {
    set_scratch_bytes(
        ScratchBytes([&](ScratchCursor& memory) { Memory(*this, memory); }));
  }
  std::string Explain() const override {
    return parts_.gate.Explain() + (parts_.up ? parts_.up->Explain() : "") +
           (parts_.masked_up ? parts_.masked_up->Explain() : "") +
           parts_.down.Explain();
  }

 protected:
  void RunWith(Executor& executor, const RunArgs& args,
               ScratchCursor memory) const override {
    Memory own(*this, memory);
    const bool one = args.tokens == 1;
    if (parts_.gate_rule) {
      one ? RunGateFirst(executor, args, own)
          : RunGateFirstTokens(executor, args, own);
    } else {
      one ? RunHidden(executor, args, own)
          : RunHiddenTokens(executor, args, own);
    }
  }

 private:
  struct Memory {
    Memory(const MlpLayer& layer, ScratchCursor& memory)
        : gate(layer.TakeHidden(memory)),
          up(layer.TakeHidden(memory)),
          gate_z(TakeRanks(&layer.parts_.gate, layer, memory)),
          up_z(TakeRanks(layer.parts_.up ? &*layer.parts_.up : nullptr, layer,
                         memory)),
          inputs{TakeRoundedInput(memory, layer.shape().cols),
                 TakeRoundedInput(memory, layer.shape().cols)},
          ranks(layer.members(), layer.MostRanks(), memory),
          mlp(layer.members(), layer.parts_.hidden(), memory),
          values(layer.TakeHidden(memory)),
          gate_sums(layer.parts_.gate.TakeSums(memory)),
          up_sums(layer.parts_.up ? layer.parts_.up->TakeSums(memory)
                                  : PartialSums{}),
          down_sums(TakePartialSums(memory, layer.parts_.down.For(1))) {
      if (layer.shape().tokens == 1) return;
      const size_t most = std::max(layer.parts_.hidden(), layer.MostRanks());
      tokens = TokenMasks::Take(memory, layer.shape().tokens, most);
    }
    static float* TakeRanks(const Branch* branch, const MlpLayer& layer,
                            ScratchCursor& memory) {
      return branch != nullptr && branch->is_adapter()
                 ? branch->TakeRanks(memory, layer.shape().tokens)
                 : nullptr;
    }

    float* gate;  // (tokens, hidden), and so are up and values
    float* up;
    float* gate_z;
    float* up_z;
    std::array<RoundedStorage, 2> inputs;
    RankScratch ranks;
    GatedMlpScratch mlp;
    float* values;  // h of several tokens, zero where dropped
    PartialSums gate_sums;
    PartialSums up_sums;
    PartialSums down_sums;
    TokenMasks tokens{};  // null for one token
  };

  size_t HiddenStride() const {
    return TokenStride(RoundUp(parts_.hidden(), kBlock));
  }
  float* TakeHidden(ScratchCursor& memory) const {
    return memory.Take<float>(shape().tokens * HiddenStride());
  }
  size_t MostRanks() const {
    size_t most = 1;
    for (const Branch* branch :
         {&parts_.gate, parts_.up ? &*parts_.up : nullptr}) {
      if (branch != nullptr && branch->is_adapter()) {
        most = std::max(most, branch->ranks());
      }
    }
    return most;
  }
  // The default keeps all but NaN.
  ThresholdRule HiddenRule() const {
    return parts_.hidden_rule ? parts_.hidden_rule->rule() : ThresholdRule{};
  }

  static GemvOutput DownOutput(const RunArgs& args, const Memory& own) {
    GemvOutput output = args.output;
    output.partial = own.down_sums;
    return output;
  }

  // The first products, and the branches that read ranks.
  struct First {
    std::array<GemvCall, 2> calls;
    size_t call_count = 0;
    std::array<const Branch*, 2> adapters;
    std::array<BranchRun, 2> runs;
    size_t adapter_count = 0;

    std::span<const GemvCall> all() const { return {calls.data(), call_count}; }
  };
  First FirstOf(const RunArgs& args, const Memory& own,
                std::array<InputScratch, 2>& inputs) const {
    First first;
    const auto add = [&](const Branch& branch, float* z, float* values,
                         const PartialSums& sums) {
      const BranchRun run = {z, {.y = values, .partial = sums}, HiddenStride()};
      first.calls[first.call_count] =
          branch.First(args, run, inputs[first.call_count]);
      ++first.call_count;
      if (!branch.is_adapter()) return;
      first.adapters[first.adapter_count] = &branch;
      first.runs[first.adapter_count++] = run;
    };
    add(parts_.gate, own.gate_z, own.gate, own.gate_sums);
    if (parts_.up) add(*parts_.up, own.up_z, own.up, own.up_sums);
    return first;
  }

  void RunHidden(Executor& executor, const RunArgs& args, Memory& own) const {
    std::array<InputScratch, 2> inputs = InputsOf(own);
    const First first = FirstOf(args, own, inputs);
    std::array<RankBranch, 2> branches;
    for (size_t i = 0; i < first.adapter_count; ++i) {
      branches[i] = first.adapters[i]->Second(first.runs[i]);
    }
    const GatedMlpPlan plan = {
        first.all(),
        {branches.data(), first.adapter_count},
        {own.gate, parts_.up ? own.up : nullptr, parts_.activation},
        HiddenRule(),
        &parts_.down.For(1),
        DownOutput(args, own)};
    args.Report(0, RunGatedMlp(plan, executor, own.ranks, own.mlp).kept);
  }

  void RunGateFirst(Executor& executor, const RunArgs& args,
                    Memory& own) const {
    std::array<InputScratch, 2> inputs = InputsOf(own);
    const First first = FirstOf(args, own, inputs);
    const ThresholdRule hidden = HiddenRule();
    const GateFirstMlpPlan plan = {
        first.all(),
        own.gate,
        parts_.activation,
        parts_.gate_rule->rule(),
        &parts_.masked_up->For(1),
        args.x,
        own.up,
        parts_.hidden_rule ? &hidden : nullptr,
        &parts_.down.For(1),
        DownOutput(args, own),
        parts_.masked_up->For(1).Round(args.x, &inputs.back())};
    args.Report(0, RunGateFirstMlp(plan, executor, own.mlp).kept);
  }

  void RunHiddenTokens(Executor& executor, const RunArgs& args,
                       Memory& own) const {
    std::array<InputScratch, 2> inputs = InputsOf(own);
    const First first = FirstOf(args, own, inputs);
    RunCalls(first.all(), executor);
    for (size_t i = 0; i < first.adapter_count; ++i) {
      first.adapters[i]->RunSecond(args, first.runs[i], own.tokens, executor,
                                   false);
    }
    for (size_t t = 0; t < args.tokens; ++t) {
      MaskHidden(args, own, t, parts_.up ? own.up : nullptr, HiddenRule());
    }
    RunDown(executor, args, own);
  }

  void RunGateFirstTokens(Executor& executor, const RunArgs& args,
                          Memory& own) const {
    std::array<InputScratch, 2> inputs = InputsOf(own);
    const First first = FirstOf(args, own, inputs);
    RunCalls(first.all(), executor);
    for (size_t t = 0; t < args.tokens; ++t) {
      MaskHidden(args, own, t, nullptr, parts_.gate_rule->rule());
    }
    const MaskView mask =
        own.tokens.Union(args.tokens, 1, nullptr, 0, parts_.hidden());
    const GemvCall up =
        parts_.masked_up->For(args.tokens)
            .RowMask(args.x, mask, {.y = own.up},
                     {args.tokens, args.x_stride, HiddenStride()});
    RunCalls({&up, 1}, executor);
    for (size_t t = 0; t < args.tokens; ++t) {
      if (parts_.hidden_rule) {
        MaskHidden(args, own, t, own.up, HiddenRule());
        continue;
      }
      float* values = own.values + t * HiddenStride();
      const float* factors = own.up + t * HiddenStride();
      for (size_t i = 0; i < parts_.hidden(); ++i) values[i] *= factors[i];
    }
    RunDown(executor, args, own);
  }

  // The mask of token t over act(gate) * up, or over act(gate) where `up` is
  // null, and its values.
  void MaskHidden(const RunArgs& args, const Memory& own, size_t t,
                  const float* up, const ThresholdRule& rule) const {
    const size_t at = t * HiddenStride();
    MaskStorage storage = own.tokens.Of(t, parts_.hidden());
    storage.zeroed = own.values + at;
    const MaskView view = MakeGatedMask(
        {own.gate + at, up == nullptr ? nullptr : up + at, parts_.activation},
        parts_.hidden(), rule, storage, {false, false, true});
    args.Report(t, view.kept);
  }

  void RunDown(Executor& executor, const RunArgs& args,
               const Memory& own) const {
    const MaskView mask = own.tokens.Union(args.tokens, 1, own.values,
                                           HiddenStride(), parts_.hidden());
    const GemvCall down =
        parts_.down.For(args.tokens)
            .ColumnMask(mask, args.output,
                        {args.tokens, HiddenStride(), args.y_stride});
    RunCalls({&down, 1}, executor);
  }

  static std::array<InputScratch, 2> InputsOf(const Memory& own) {
    return {InputScratch(own.inputs[0]), InputScratch(own.inputs[1])};
  }

  MlpParts parts_;
};

void CheckRows(size_t rows, const char* name, size_t hidden) {
  if (rows == hidden) return;
  throw ArgumentError("mlp: {} gives {} values, but down has {} cols", name,
                      rows, hidden);
}

void CheckGateFirst(const rankforge_gated_mlp& mlp) {
  if (mlp.up == nullptr || mlp.up_a != nullptr || mlp.gate_a != nullptr) {
    throw UnsupportedError(
        "mlp: gate_rule needs up, and a gate and an up that are no adapters");
  }
}

MlpParts PartsOf(const Dispatcher& dispatcher, const rankforge_gated_mlp& mlp,
                 size_t tokens, size_t threads,
                 std::optional<Activations> activations) {
  if (mlp.activation < 0 ||
      static_cast<size_t>(mlp.activation) >= kActivationFunctions.size()) {
    throw ArgumentError("mlp: activation {} is not known", mlp.activation);
  }
  const bool gate_decides = mlp.gate_rule != nullptr;
  if (gate_decides) CheckGateFirst(mlp);
  Product down(dispatcher, WeightsOf(mlp.down, "mlp: down"),
               {Operation::kColumnMask, 1, tokens, threads, activations},
               "mlp: down");
  MlpParts parts{Branch(dispatcher,
                        {mlp.gate, mlp.gate_a, mlp.gate_a_rule, "mlp: gate",
                         "mlp: gate_a", "mlp: gate_a_rule"},
                        tokens, threads, activations),
                 {},
                 {},
                 std::move(down),
                 kActivationFunctions[static_cast<size_t>(mlp.activation)],
                 {},
                 {}};
  const size_t hidden = parts.hidden();
  CheckRows(parts.gate.rows(), "gate", hidden);
  if (gate_decides) {
    parts.masked_up.emplace(
        dispatcher, WeightsOf(mlp.up, "mlp: up"),
        Product::Demand{Operation::kRowMask, 1, tokens, threads, activations},
        "mlp: up");
    CheckRows(parts.masked_up->rows(), "up", hidden);
    parts.gate_rule.emplace(mlp.gate_rule, hidden, "mlp: gate_rule");
  } else if (mlp.up != nullptr) {
    parts.up.emplace(dispatcher,
                     BranchWeights{mlp.up, mlp.up_a, mlp.up_a_rule, "mlp: up",
                                   "mlp: up_a", "mlp: up_a_rule"},
                     tokens, threads, activations);
    CheckRows(parts.up->rows(), "up", hidden);
  } else if (mlp.up_a != nullptr || mlp.up_a_rule != nullptr) {
    throw ArgumentError("mlp: up_a is set, but up is null");
  }
  if (mlp.hidden_rule != nullptr) {
    parts.hidden_rule.emplace(mlp.hidden_rule, hidden, "mlp: hidden_rule");
  }
  const size_t up_cols = parts.up          ? parts.up->cols()
                         : parts.masked_up ? parts.masked_up->cols()
                                           : parts.gate.cols();
  if (up_cols != parts.gate.cols()) {
    throw ArgumentError("mlp: up has {} cols, but gate has {}", up_cols,
                        parts.gate.cols());
  }
  return parts;
}

}  // namespace

std::unique_ptr<Plan> MakeMlpPlan(std::shared_ptr<const Context> context,
                                  const Dispatcher& dispatcher,
                                  const rankforge_gated_mlp& mlp) {
  CheckReserved(mlp.reserved, "mlp");
  const size_t tokens = TokensOf(mlp.tokens);
  const Operation up =
      mlp.gate_rule == nullptr ? Operation::kDense : Operation::kRowMask;
  const ProductsOf products(
      {{mlp.down, "mlp: down", Operation::kColumnMask},
       {mlp.gate, "mlp: gate", Operation::kDense},
       {mlp.gate_a, "mlp: gate_a", Operation::kColumnMask},
       {mlp.up, "mlp: up", up},
       {mlp.up_a, "mlp: up_a", Operation::kColumnMask}},
      mlp.activations);
  const size_t together = products.one_by_one() ? 1 : tokens;
  MlpParts parts =
      PartsOf(dispatcher, mlp, together, ThreadsOf(mlp.threads, *context),
              products.activations());
  const Plan::Shape shape = {parts.down.rows(), parts.gate.cols(), together};
  auto plan =
      std::make_unique<MlpLayer>(std::move(context), std::move(parts), shape);
  plan->set_most_tokens(tokens);
  return plan;
}

}  // namespace rankforge::capi
