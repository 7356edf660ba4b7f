#include "python/src/plan.h"

#include <fmt/format.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#include <algorithm>
#include <initializer_list>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "meta/types.h"
#include "meta/variants.h"
#include "python/src/weights.h"

namespace rankforge {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

constexpr std::align_val_t kScratchAlignment{RANKFORGE_SCRATCH_ALIGNMENT};

const BoundWeights& WeightsOf(const nb::object& object, const char* name) {
  if (nb::isinstance<BoundWeights>(object)) {
    return nb::cast<const BoundWeights&>(object);
  }
  throw nb::type_error(fmt::format("{}: is no Weights", name).c_str());
}

// The problem of `weights`, in which what is given takes the place of what they
// were packed for.
rankforge_problem ProblemOf(const BoundWeights& weights,
                            const std::optional<std::string>& operation,
                            const std::optional<uint32_t>& granularity,
                            const std::optional<uint32_t>& tokens,
                            const std::optional<uint32_t>& threads,
                            const std::optional<std::string>& activations) {
  rankforge_problem problem = RANKFORGE_PROBLEM_INIT;
  if (weights.problem) {
    problem = *weights.problem;
  } else {
    if (!operation) {
      throw BadArgument(
          "operation: weights of a file do not say theirs; give one of dense, "
          "row_mask, column_mask");
    }
    const rankforge_weights_info info = weights.Info();
    problem.rows = info.rows;
    problem.cols = info.cols;
    problem.weight_type = info.weight_type;
  }
  if (operation) problem.operation = OperationFromName(*operation);
  if (granularity) problem.granularity = *granularity;
  if (problem.operation == RANKFORGE_DENSE && !granularity) {
    problem.granularity = 1;
  }
  if (tokens) problem.tokens = *tokens;
  if (threads) problem.threads = *threads;
  if (activations) problem.activations = ActivationsFromName(activations);
  return problem;
}

std::unique_ptr<BoundPlan> MakeGemv(
    const nb::object& weights_object,
    const std::optional<std::string>& operation,
    const std::optional<uint32_t>& granularity,
    const std::optional<uint32_t>& tokens,
    const std::optional<uint32_t>& threads,
    const std::optional<std::string>& activations, const BoundTable* table,
    const BoundContext* context) {
  const BoundWeights& weights = WeightsOf(weights_object, "weights");
  const rankforge_problem problem =
      ProblemOf(weights, operation, granularity, tokens, threads, activations);
  rankforge_plan* made = nullptr;
  Check(rankforge_plan_gemv(HandleOf(context), HandleOf(table), &problem,
                            weights.handle.get(), &made));
  const size_t channels = problem.operation == RANKFORGE_DENSE ? 0
                          : problem.operation == RANKFORGE_ROW_MASK
                              ? problem.rows
                              : problem.cols;
  auto plan = std::make_unique<BoundPlan>(
      made, channels, problem.granularity == 0 ? 1 : problem.granularity);
  plan->Keep(weights_object);
  return plan;
}

const rankforge_weights* HandleOf(const BoundWeights* weights) {
  return weights == nullptr ? nullptr : weights->handle.get();
}

// A mask of a plan, over `count` channels.
const rankforge_mask* RuleOf(const BoundMask* rule, size_t count) {
  if (rule == nullptr) return nullptr;
  rule->CheckFits(count, 1);
  return &rule->mask();
}

size_t RowsOf(const BoundWeights& weights) { return weights.Info().rows; }

// A product of a layer.
struct LayerPart {
  const BoundWeights* weights;  // null: there is no such product
  const char* name;             // of the argument
  Operation operation;
};

// What the product does to its inputs if its layer asks for this.
Activations ActivationsOf(const LayerPart& part, int32_t asked) {
  const WeightType type =
      FromName(kWeightTypes,
               rankforge_weight_type_name(part.weights->Info().weight_type))
          .value();
  return ActivationsFor(part.operation, type,
                        FromName(kActivations, ActivationsName(asked))
                            .value_or(DefaultActivations(type)));
}

// What the layer asks of its products: what is given, or else what leaves each
// product what its weights were packed with. Weights of a file take anything.
int32_t LayerActivations(std::initializer_list<LayerPart> layer,
                         const std::optional<std::string>& given) {
  if (given) return ActivationsFromName(given);
  std::vector<LayerPart> told;
  std::string packed;
  for (const LayerPart& part : layer) {
    if (part.weights == nullptr || !part.weights->problem) continue;
    told.push_back(part);
    packed += fmt::format(
        "{}{} with {}", packed.empty() ? "" : ", ", part.name,
        Name(ActivationsOf(part, part.weights->problem->activations)));
  }
  for (int32_t asked = RANKFORGE_ACTIVATIONS_DEFAULT;
       asked <= RANKFORGE_ACTIVATIONS_I8; ++asked) {
    const bool all = std::ranges::all_of(told, [&](const LayerPart& part) {
      return ActivationsOf(part, asked) ==
             ActivationsOf(part, part.weights->problem->activations);
    });
    if (all) return asked;
  }
  throw BadArgument(fmt::format(
      "activations: are not given, and weights were packed with different ones "
      "({}); give the plan one for all",
      packed));
}

std::unique_ptr<BoundPlan> MakeRankAdapter(
    const BoundWeights& b, const BoundWeights& a, const BoundMask& rule,
    uint32_t tokens, uint32_t threads,
    const std::optional<std::string>& activations, const BoundTable* table,
    const BoundContext* context) {
  rankforge_rank_adapter adapter = RANKFORGE_RANK_ADAPTER_INIT;
  adapter.tokens = tokens;
  adapter.threads = threads;
  adapter.activations = LayerActivations(
      {{&b, "b", Operation::kDense}, {&a, "a", Operation::kColumnMask}},
      activations);
  adapter.b = b.handle.get();
  adapter.a = a.handle.get();
  adapter.rule = RuleOf(&rule, RowsOf(b));
  rankforge_plan* made = nullptr;
  Check(rankforge_plan_rank_adapter(HandleOf(context), HandleOf(table),
                                    &adapter, &made));
  return std::make_unique<BoundPlan>(made, 0, 1);
}

int32_t ActivationFromName(const std::string& name) {
  if (name == "silu") return RANKFORGE_SILU;
  if (name == "gelu") return RANKFORGE_GELU;
  if (name == "gelu_tanh") return RANKFORGE_GELU_TANH;
  throw BadArgument(fmt::format(
      "activation: '{:.64}' is none of silu, gelu, gelu_tanh", name));
}

std::unique_ptr<BoundPlan> MakeGatedMlp(
    const nb::object& gate_object, const nb::object& down_object,
    const nb::object& up_object, const std::string& activation,
    const BoundWeights* gate_a, const BoundMask* gate_a_rule,
    const BoundWeights* up_a, const BoundMask* up_a_rule,
    const BoundMask* gate_rule, const BoundMask* hidden_rule, uint32_t tokens,
    uint32_t threads, const std::optional<std::string>& activations,
    const BoundTable* table, const BoundContext* context) {
  const BoundWeights& gate = WeightsOf(gate_object, "gate");
  const BoundWeights& down = WeightsOf(down_object, "down");
  const BoundWeights* const up =
      up_object.is_none() ? nullptr : &WeightsOf(up_object, "up");
  const size_t hidden = down.Info().cols;
  rankforge_gated_mlp mlp = RANKFORGE_GATED_MLP_INIT;
  mlp.tokens = tokens;
  mlp.threads = threads;
  mlp.activations = LayerActivations(
      {{&gate, "gate", Operation::kDense},
       {gate_a, "gate_a", Operation::kColumnMask},
       {up, "up",
        gate_rule == nullptr ? Operation::kDense : Operation::kRowMask},
       {up_a, "up_a", Operation::kColumnMask},
       {&down, "down", Operation::kColumnMask}},
      activations);
  mlp.activation = ActivationFromName(activation);
  mlp.gate = gate.handle.get();
  mlp.gate_a = HandleOf(gate_a);
  mlp.gate_a_rule = RuleOf(gate_a_rule, RowsOf(gate));
  mlp.up = HandleOf(up);
  mlp.up_a = HandleOf(up_a);
  mlp.up_a_rule = RuleOf(up_a_rule, up == nullptr ? 0 : RowsOf(*up));
  mlp.down = down.handle.get();
  mlp.gate_rule = RuleOf(gate_rule, hidden);
  mlp.hidden_rule = RuleOf(hidden_rule, hidden);
  rankforge_plan* made = nullptr;
  Check(rankforge_plan_gated_mlp(HandleOf(context), HandleOf(table), &mlp,
                                 &made));
  auto plan = std::make_unique<BoundPlan>(made, 0, 1);
  for (const nb::object& weights : {gate_object, down_object, up_object}) {
    plan->Keep(weights);
  }
  return plan;
}

}  // namespace

ScratchBlocks::~ScratchBlocks() {
  for (void* block : free_) ::operator delete(block, kScratchAlignment);
}

void* ScratchBlocks::Take() {
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      void* const block = free_.back();
      free_.pop_back();
      return block;
    }
    free_.reserve(++made_);  // so that Return needs no memory
  }
  return ::operator new(size_ == 0 ? 1 : size_, kScratchAlignment);
}

void ScratchBlocks::Return(void* block) {
  const std::lock_guard lock(mutex_);
  free_.push_back(block);
}

BoundPlan::BoundPlan(rankforge_plan* plan, size_t channels, size_t granularity)
    : handle_(plan), channels_(channels), granularity_(granularity) {
  size_t scratch = 0;
  Check(rankforge_plan_shape(plan, &rows_, &cols_, &tokens_));
  Check(rankforge_plan_scratch_size(plan, &scratch));
  scratch_ = std::make_unique<ScratchBlocks>(scratch);
}

std::string BoundPlan::Explain() const {
  return TextOf([&](char* text, size_t capacity, size_t* length) {
    return rankforge_plan_explain(handle_.get(), text, capacity, length);
  });
}

void BoundPlan::CheckInput(const FloatRows<const float>& x,
                           const ReadableArray& array) const {
  if (x.size == cols_ && x.count >= 1 && x.count <= tokens_) return;
  throw BadArgument(fmt::format(
      "x: shape {}, expected ({},) or (tokens, {}) with tokens from "
      "1 to {}",
      ShapeOf(array), cols_, cols_, tokens_));
}

void BoundPlan::SetMasks(nb::handle mask, size_t tokens,
                         rankforge_run_args& args,
                         std::vector<rankforge_mask>& masks) const {
  if (mask.is_none()) {
    if (channels_ == 0) return;
    throw BadArgument("mask: is None, but the plan has a masked operation");
  }
  if (channels_ == 0) {
    throw BadArgument("mask: is given, but the plan takes none");
  }
  if (nb::isinstance<BoundMask>(mask)) {
    const auto& common = nb::cast<const BoundMask&>(mask);
    common.CheckFits(channels_, granularity_);
    args.masks = &common.mask();
    args.mask_count = 1;
    return;
  }
  if (!nb::isinstance<nb::sequence>(mask)) {
    throw BadArgument("mask: is neither a Mask nor a sequence of them");
  }
  for (const nb::handle item : nb::borrow<nb::sequence>(mask)) {
    if (!nb::isinstance<BoundMask>(item)) {
      throw BadArgument("mask: is neither a Mask nor a sequence of them");
    }
    const auto& own = nb::cast<const BoundMask&>(item);
    own.CheckFits(channels_, granularity_);
    masks.push_back(own.mask());
  }
  if (masks.size() != tokens && masks.size() != 1) {
    throw BadArgument(
        fmt::format("mask: has {} masks, expected 1 or {} (one for each token)",
                    masks.size(), tokens));
  }
  args.masks = masks.data();
  args.mask_count = static_cast<uint32_t>(masks.size());
}

void BoundPlan::RunWithScratch(const rankforge_run_args& args) {
  struct Block {
    explicit Block(ScratchBlocks& blocks)
        : blocks(blocks), memory(blocks.Take()) {}
    ~Block() { blocks.Return(memory); }
    ScratchBlocks& blocks;
    void* memory;
  };
  Block block(*scratch_);
  CheckWithoutGil([&] {
    return rankforge_run(handle_.get(), &args, block.memory, scratch_->size());
  });
}

BoundPlan::Output BoundPlan::OutputFor(
    nb::handle out, const FloatRows<const float>& input) const {
  const size_t shape[] = {input.count, rows_};
  if (out.is_none()) {
    const NewArray made =
        MakeNumPy(input.is_matrix ? std::span<const size_t>(shape)
                                  : std::span<const size_t>(shape).last(1));
    return {made.array, {}, made.data, rows_};
  }
  WritableArray array = ToWritable(out, "out");
  const FloatRows<float> rows = WriteRows(array, "out");
  if (rows.size != rows_ || rows.count != input.count ||
      rows.is_matrix != input.is_matrix) {
    throw BadArgument(fmt::format(
        "out: shape {}, expected {}", ShapeOf(array),
        input.is_matrix ? fmt::format("({}, {})", input.count, rows_)
                        : fmt::format("({},)", rows_)));
  }
  return {nb::borrow(out), std::move(array), rows.data, rows.stride};
}

nb::object BoundPlan::Run(nb::handle x, nb::handle mask, nb::handle out,
                          nb::handle bias, bool accumulate, nb::handle kept) {
  const ReadableArray x_array = ToReadable(x, "x");
  const FloatRows<const float> input = ReadRows(x_array, "x");
  CheckInput(input, x_array);
  rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
  args.tokens = static_cast<uint32_t>(input.count);
  args.x = input.data;
  args.x_stride = input.stride;
  args.accumulate = accumulate;
  if (accumulate && out.is_none()) {
    throw BadArgument("out: is None, nothing to add to");
  }
  Output output = OutputFor(out, input);
  args.y = output.data;
  args.y_stride = output.stride;

  ReadableArray bias_array;
  if (!bias.is_none()) {
    bias_array = ToReadable(bias, "bias");
    args.bias = ReadVector(bias_array, "bias", rows_).data();
  }
  WritableArray kept_array;
  if (!kept.is_none()) {
    kept_array = ToWritable(kept, "kept");
    const auto counts =
        ReadIntegers<uint64_t>(ReadableArray(kept_array), "kept");
    CheckCount("kept", counts.size(), input.count, "one for each token");
    args.kept = static_cast<size_t*>(kept_array.data());
  }
  std::vector<rankforge_mask> masks;
  SetMasks(mask, input.count, args, masks);
  RunWithScratch(args);
  return std::move(output.result);
}

void BoundPlan::RunAt(uintptr_t x, uintptr_t y, size_t tokens, nb::handle mask,
                      uintptr_t bias) {
  if (x == 0 || y == 0) throw BadArgument("x, y: an address is 0");
  rankforge_run_args args = RANKFORGE_RUN_ARGS_INIT;
  std::vector<rankforge_mask> masks;
  SetMasks(mask, 1, args, masks);
  args.bias = reinterpret_cast<const float*>(bias);
  for (size_t first = 0; first < tokens; first += tokens_) {
    args.tokens =
        static_cast<uint32_t>(std::min<size_t>(tokens_, tokens - first));
    args.x = reinterpret_cast<const float*>(x) + first * cols_;
    args.y = reinterpret_cast<float*>(y) + first * rows_;
    RunWithScratch(args);
  }
}

namespace {

void BindMakers(nb::class_<BoundPlan>& plans) {
  plans
      .def_static(
          "gemv", &MakeGemv, "weights"_a, "operation"_a = nb::none(),
          nb::kw_only(), "granularity"_a = nb::none(), "tokens"_a = nb::none(),
          "threads"_a = nb::none(), "activations"_a = nb::none(),
          "table"_a = nb::none(), "context"_a = nb::none(),
          "y = w @ x, with the mask that a call brings unless the operation is "
          "'dense'. What is None is as the weights were packed.")
      .def_static("rank_adapter", &MakeRankAdapter, "b"_a, "a"_a, "rule"_a,
                  nb::kw_only(), "tokens"_a = 1, "threads"_a = 0,
                  "activations"_a = nb::none(), "table"_a = nb::none(),
                  "context"_a = nb::none(),
                  "y = A (m(z) * z), z = B x. b: (ranks, cols), packed for "
                  "'dense'; a: (rows, ranks), packed for 'column_mask'; rule: "
                  "m, a threshold over z, whose arrays are copied. "
                  "activations: None: those that b and a were packed with.")
      .def_static(
          "gated_mlp", &MakeGatedMlp, "gate"_a, "down"_a, "up"_a = nb::none(),
          nb::kw_only(), "activation"_a = "silu", "gate_a"_a = nb::none(),
          "gate_a_rule"_a = nb::none(), "up_a"_a = nb::none(),
          "up_a_rule"_a = nb::none(), "gate_rule"_a = nb::none(),
          "hidden_rule"_a = nb::none(), "tokens"_a = 1, "threads"_a = 0,
          "activations"_a = nb::none(), "table"_a = nb::none(),
          "context"_a = nb::none(),
          "y = D (m(h) * h), h = act(G x) * (U x). gate, up: (hidden, cols), "
          "packed for 'dense', or B of a rank adapter with its A in gate_a, "
          "up_a; with gate_rule, up is packed for 'row_mask'. down: (rows, "
          "hidden), packed for 'column_mask'. hidden_rule: m. activations: "
          "None: those that the weights were packed with.");
}

void BindRuns(nb::class_<BoundPlan>& plans) {
  plans
      .def("__call__", &BoundPlan::Run, "x"_a.none(), nb::kw_only(),
           "mask"_a = nb::none(), "out"_a = nb::none(), "bias"_a = nb::none(),
           "accumulate"_a = false, "kept"_a = nb::none(),
           "Runs the plan. x: float32 (cols,) or (tokens, cols). mask: a Mask, "
           "or one for each token. out: float32 of x's dimensions with rows in "
           "place of cols, returned; None: a new NumPy array. bias: float32 "
           "(rows,), added. accumulate: adds to what out has. kept: uint64 "
           "(tokens,), gets what each token kept. Nothing is ever copied: an "
           "array of another type, shape or order is an Error.")
      .def("run_at", &BoundPlan::RunAt, "x"_a, "y"_a, "tokens"_a,
           "mask"_a = nb::none(), "bias"_a = 0)
      .def("explain", &BoundPlan::Explain,
           "Lines for people: the products of the plan and their kernels.")
      .def_prop_ro("rows", &BoundPlan::rows)
      .def_prop_ro("cols", &BoundPlan::cols)
      .def_prop_ro("tokens", &BoundPlan::tokens, "Most tokens of one run.");
}

}  // namespace

void BindPlans(nb::module_& module) {
  nb::class_<BoundPlan> plans(
      module, "Plan",
      "One layer, bound to its weights and to the kernels for every density. "
      "Threads may call one plan at the same time. The GIL is released while "
      "it runs.");
  BindMakers(plans);
  BindRuns(plans);
}

}  // namespace rankforge
