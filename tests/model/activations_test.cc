// What products round their inputs to is stated by who runs a model: no table
// changes it, and prefill rounds as decode does.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "kernels/registry.h"
#include "runtime/model/weights/modules.h"
#include "runtime/table/dispatch.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

class ActivationsTest : public testing::Test {
 protected:
  // The problems of the model as a table whose choices `choose` makes.
  template <class Choose>
  DispatchTable TableOf(const ModelOptions& options, const Adapter* adapter,
                        Choose choose) const {
    DispatchTable table;
    table.cpu = CpuInfo::Detect();
    for (const Workload& workload : ModelWorkloads(config_, adapter, options)) {
      const Problem& problem = workload.problem;
      table.entries.push_back(
          {problem, workload.layers, Unmeasured(choose(problem), problem)});
    }
    table.Bind("table", Match::kCompatible);
    EXPECT_TRUE(table.usable());
    EXPECT_TRUE(table.notes().empty());
    return table;
  }
  Model MakeWith(const DispatchTable& table, const ModelOptions& options,
                 const Adapter* adapter) const {
    return Model::Create(config_, weights_, adapter, Dispatcher(&table),
                         options, MakeDefaultExecutor(options.threads))
        .value();
  }
  // Masks every projection, so that column masks are run too.
  Adapter Masked() const {
    Adapter adapter;
    AddMasks(config_, 0.2f, adapter);
    return adapter;
  }

  ModelConfig config_ = TinyConfig();
  SyntheticWeights weights_{config_, 11};
  std::vector<int> ids_ = SyntheticIds(config_, 24, 3);
};

std::vector<ModelOptions> AllOptions() {
  std::vector<ModelOptions> all;
  for (const WeightType type : kWeightTypes) {
    for (const Activations activations : kActivations) {
      if (!Takes(type, activations) || !CheckCpu(activations).ok()) continue;
      all.push_back({.type = type,
                     .lm_head_type = type,
                     .activations = activations,
                     .threads = 2});
    }
  }
  return all;
}

std::string NameOf(const ModelOptions& options) {
  return std::string(Name(options.type)) + " " +
         std::string(Name(*options.activations));
}

// Two tables, of which one has the default of each layout and the other the
// last candidate of that layout on another number of threads.
TEST_F(ActivationsTest, NoResultDiffersBetweenTables) {
  const Adapter adapter = Masked();
  for (const ModelOptions& options : AllOptions()) {
    for (const Adapter* const used :
         {static_cast<const Adapter*>(nullptr), &adapter}) {
      const DispatchTable first = TableOf(options, used, &DefaultChoice);
      const DispatchTable second =
          TableOf(options, used, [](const Problem& problem) {
            const Choice choice = DefaultChoice(problem);
            const auto candidates = Registry::Get().Candidates(
                problem.operation, problem.type, choice.layout,
                problem.granularity, problem.rows, problem.cols,
                problem.activations);
            return ChoiceOf(*candidates.back(), choice.layout, 1);
          });
      Model a = MakeWith(first, options, used);
      Model b = MakeWith(second, options, used);
      EXPECT_EQ(a.activations(), b.activations());
      EXPECT_EQ(DecodeLogits(a, ids_), DecodeLogits(b, ids_))
          << NameOf(options);
      EXPECT_EQ(PrefillLogits(a, ids_), PrefillLogits(b, ids_))
          << NameOf(options);
    }
  }
}

// Rounding changes what a model computes, and integers are rounded unless
// somebody says otherwise.
TEST_F(ActivationsTest, IntegersRoundByDefaultAndNothingElseDoes) {
  for (const WeightType type : kWeightTypes) {
    const auto logits = [&](std::optional<Activations> activations) {
      Model model = MakeModel(
          config_, weights_, nullptr,
          {.type = type, .lm_head_type = type, .activations = activations});
      EXPECT_EQ(model.activations(),
                (std::map<Activations, double>{
                    {activations.value_or(DefaultActivations(type)), 1.0}}));
      return DecodeLogits(model, ids_);
    };
    const std::vector<float> exact = logits(Activations::kF32);
    const std::vector<float> untold = logits({});
    if (!IsQuantized(type)) {
      EXPECT_EQ(untold, exact) << Name(type);
      continue;
    }
    EXPECT_EQ(untold, logits(Activations::kI8)) << Name(type);
    EXPECT_NE(untold, exact) << Name(type);
    EXPECT_LT(LargestDifference(untold, exact), 0.2f) << Name(type);
  }
}

// The median over tokens of the largest difference between their logits.
float MedianDifference(std::span<const float> a, std::span<const float> b,
                       size_t vocab) {
  std::vector<float> differences;
  for (size_t at = 0; at < a.size(); at += vocab) {
    differences.push_back(
        LargestDifference(a.subspan(at, vocab), b.subspan(at, vocab)));
  }
  std::ranges::sort(differences);
  return differences[differences.size() / 2];
}

// Logits of `logits_of` for prompts of three of these ids each.
std::vector<float> ShortPrompts(
    Model& model, std::span<const int> ids,
    std::vector<float> (*logits_of)(Model&, std::span<const int>)) {
  std::vector<float> all;
  for (; ids.size() >= 3; ids = ids.subspan(3)) {
    const std::vector<float> logits = logits_of(model, ids.first(3));
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}

// Sums in another order move the inputs of later products by 1e-6. One that
// crosses the middle between two integers is a step off, which moves others
// across theirs: that token, and all that read its keys, end as far apart as
// rounding anew would bring them. One token in twenty begins this, so that most
// tokens of short prompts are 1e-6 apart.
TEST_F(ActivationsTest, PrefillRoundsAsDecodeDoes) {
  Adapter gates;
  for (size_t layer = 0; layer < config_.layers; ++layer) {
    const std::string module =
        "model.layers." + std::to_string(layer) + ".mlp.gate_up";
    GateMask& gate = gates.gates[module];
    gate.module = module;
    gate.cols = config_.mlp;
    gate.tau.assign(config_.mlp, 0.05f);
    gate.density = 0.5;
  }
  const Adapter masked = Masked();
  for (const ModelOptions& options : AllOptions()) {
    for (const Adapter* const adapter :
         {static_cast<const Adapter*>(nullptr), &masked,
          static_cast<const Adapter*>(&gates)}) {
      Model model = MakeModel(config_, weights_, adapter, options);
      const std::vector<float> decode =
          ShortPrompts(model, ids_, &DecodeLogits);
      EXPECT_LT(MedianDifference(ShortPrompts(model, ids_, &PrefillLogits),
                                 decode, config_.vocab),
                1e-4f)
          << NameOf(options);
      if (options.activations == Activations::kF32) continue;
      ModelOptions exact = options;
      exact.activations = Activations::kF32;
      Model other = MakeModel(config_, weights_, adapter, exact);
      EXPECT_GT(MedianDifference(ShortPrompts(other, ids_, &DecodeLogits),
                                 decode, config_.vocab),
                2e-3f)
          << NameOf(options);
    }
  }
}

// q, k, v of the first block, whose inputs are the same bits in prefill and in
// decode: no product runs before it.
class FirstOutputs : public ActivationObserver {
 public:
  static std::vector<float> OfPrefill(Model& model, std::span<const int> ids) {
    FirstOutputs outputs(model);
    PrefillLogits(model, ids);
    return outputs.values_;
  }
  static std::vector<float> OfDecode(Model& model, std::span<const int> ids) {
    FirstOutputs outputs(model);
    DecodeLogits(model, ids);
    return outputs.values_;
  }
  ~FirstOutputs() override { model_.set_observer(nullptr); }

  void Observe(size_t, Site, const float*, size_t, size_t) override {}
  void ObserveOutput(size_t layer, Site site, const float* y, size_t tokens,
                     size_t width) override {
    if (layer != 0 || site != Site::kAttentionInput) return;
    values_.insert(values_.end(), y, y + tokens * width);
  }

 private:
  explicit FirstOutputs(Model& model) : model_(model) {
    model.set_observer(this);
  }

  Model& model_;
  std::vector<float> values_;
};

TEST_F(ActivationsTest, RowsDifferInTheOrderOfSumsInPrefill) {
  for (const ModelOptions& options : AllOptions()) {
    Model model = MakeModel(config_, weights_, nullptr, options);
    const std::vector<float> decode = FirstOutputs::OfDecode(model, ids_);
    const float difference =
        LargestDifference(FirstOutputs::OfPrefill(model, ids_), decode);
    EXPECT_LT(difference, 1e-5f) << NameOf(options);
    if (options.activations == Activations::kF32) continue;
    ModelOptions exact = options;
    exact.activations = Activations::kF32;
    Model other = MakeModel(config_, weights_, nullptr, exact);
    EXPECT_GT(LargestDifference(FirstOutputs::OfDecode(other, ids_), decode),
              1e-3f)
        << NameOf(options);
  }
}

TEST_F(ActivationsTest, KeptColumnsAreTheSameBitsInPrefill) {
  Adapter adapter;
  AddMasks(config_, 0.5f, adapter);
  for (const WeightType type : kWeightTypes) {
    if (!IsQuantized(type)) continue;
    for (const size_t threads : {1, 3}) {
      Model model = MakeModel(config_, weights_, &adapter,
                              {.type = type, .threads = threads});
      const std::vector<float> prefill = FirstOutputs::OfPrefill(model, ids_);
      EXPECT_EQ(prefill, FirstOutputs::OfDecode(model, ids_)) << Name(type);
      EXPECT_FALSE(prefill.empty());
    }
  }
}

TEST_F(ActivationsTest, NeedWeightsThatTakeThem) {
  const auto message = [&](const ModelOptions& options,
                           const Adapter* adapter = nullptr) {
    return CheckActivations(config_, adapter, options).message();
  };
  EXPECT_EQ(message({}), "");
  EXPECT_EQ(message({.activations = Activations::kF32}), "");
  EXPECT_EQ(message({.type = WeightType::kI4Group32,
                     .activations = Activations::kI8}),
            "");
  EXPECT_EQ(message({.type = WeightType::kBf16,
                     .lm_head_type = WeightType::kI8,
                     .activations = Activations::kI8}),
            "");
  const ModelOptions all_bf16 = {.type = WeightType::kBf16,
                                 .lm_head_type = WeightType::kBf16,
                                 .activations = Activations::kI8};
  const std::string refused = "activations i8: are for weights of i8 and i4";
  EXPECT_NE(message(all_bf16).find(refused), std::string::npos);
  EXPECT_NE(message({.type = WeightType::kI8,
                     .lm_head_type = WeightType::kI8,
                     .activations = Activations::kBf16})
                .find("activations bf16: are for weights of bf16"),
            std::string::npos);

  // Adapters that do not fit are found first.
  Adapter wide;
  wide.gates["model.layers.0.mlp.gate_up"].cols = config_.mlp + 1;
  wide.gates["model.layers.0.mlp.gate_up"].tau.assign(config_.mlp + 1, 0.1f);
  EXPECT_NE(
      message({.type = WeightType::kI8, .activations = Activations::kI8}, &wide)
          .find("neurons"),
      std::string::npos);

  // What no tensor of the model has does not count, as --dtype stored has a
  // type for the matrices of adapters.
  ModelOptions stored = {.type = WeightType::kI8Group32,
                         .lm_head_type = WeightType::kI8Group32,
                         .activations = Activations::kI8};
  auto types = std::make_shared<StoredTypes>();
  for (const TensorShape& tensor : CheckpointTensors(config_)) {
    types->by_tensor[tensor.name] = WeightType::kBf16;
  }
  stored.stored_types = types;
  EXPECT_NE(message(stored).find(refused), std::string::npos);
}

// All that reads the residual stream would read its rounding.
TEST(ProblemOfTest, ProductsThatTurnTheStreamKeepTheirInput) {
  ProductSpec product;
  product.tensors = {{"w", 64, 64}};
  for (const auto asked :
       {std::optional<Activations>(), std::optional(Activations::kI8)}) {
    product.turns_stream = false;
    EXPECT_EQ(ProblemOf(product, WeightType::kI8, asked, 1).activations,
              Activations::kI8);
    product.turns_stream = true;
    EXPECT_EQ(ProblemOf(product, WeightType::kI8, asked, 1).activations,
              Activations::kF32);
  }
}

}  // namespace
}  // namespace rankforge
