// `--dtype stored`: the types that lose nothing, or least, of a file, on models
// in GGUF files (scripts/gguf_fixtures.py).
#include "runtime/model/weights/stored_types.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "runtime/model/format/safetensors.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

Checkpoint Fixture(const std::string& name) {
  return Checkpoint::Open(RANKFORGE_SOURCE_DIR "/tests/model/data/gguf/" +
                          name + ".gguf")
      .value();
}

TEST(StoredType, IsTheOneOfFewestBitsThatHoldsTheBlocks) {
  const std::pair<GgmlType, WeightType> cases[] = {
      {GgmlType::kF32, WeightType::kF32},
      {GgmlType::kF16, WeightType::kF16},
      {GgmlType::kBf16, WeightType::kBf16},
      {GgmlType::kQ4_0, WeightType::kI4Group32},
      {GgmlType::kQ4_1, WeightType::kI4mGroup32},
      {GgmlType::kQ5_0, WeightType::kI8Group32},
      {GgmlType::kQ5_1, WeightType::kI8Group32},
      {GgmlType::kQ8_0, WeightType::kI8Group32},
      {GgmlType::kQ2K, WeightType::kI8Group32},
      {GgmlType::kQ3K, WeightType::kI8Group32},
      {GgmlType::kQ4K, WeightType::kI4mGroup32},
      {GgmlType::kQ5K, WeightType::kI8Group32},
      {GgmlType::kQ6K, WeightType::kI8Group32},
      {GgmlType::kIq4Nl, WeightType::kI8Group32}};
  EXPECT_EQ(std::size(cases), GgmlFormats().size());
  for (const auto& [source, type] : cases) {
    EXPECT_EQ(StoredType(source), type) << FormatOf(source).name;
  }
}

TEST(TypeOf, StacksWhatDiffersInATypeThatHoldsBoth) {
  StoredTypes stored = {{{"bf16", WeightType::kBf16},
                         {"i8", WeightType::kI8Group32},
                         {"i4", WeightType::kI4Group32},
                         {"i4m", WeightType::kI4mGroup32}}};
  const auto type_of = [&](const std::vector<std::string>& tensors,
                           Operation operation = Operation::kDense) {
    ProductSpec product;
    product.operation = operation;
    for (const std::string& name : tensors) {
      product.tensors.push_back({name, 8, 8});
    }
    return TypeOf(product, WeightType::kF16, &stored);
  };
  EXPECT_EQ(type_of({"i4", "i4"}), WeightType::kI4Group32);
  EXPECT_EQ(type_of({"i4", "i4m"}), WeightType::kI8Group32);
  EXPECT_EQ(type_of({"i4m", "i4m", "i8"}), WeightType::kI8Group32);
  EXPECT_EQ(type_of({"i8", "bf16"}), WeightType::kF32);
  EXPECT_EQ(type_of({"bf16", "none"}), WeightType::kF16);
  EXPECT_EQ(type_of({"i4m"}, Operation::kColumnMask), WeightType::kI8Group32);
  EXPECT_EQ(type_of({"bf16"}, Operation::kColumnMask), WeightType::kBf16);
  stored.chosen = true;
  EXPECT_EQ(type_of({"i4m"}, Operation::kColumnMask), WeightType::kI4mGroup32);
  ProductSpec product;
  product.tensors = {{"i4", 8, 8}};
  EXPECT_EQ(TypeOf(product, WeightType::kF16, nullptr), WeightType::kF16);
}

struct StoredCase {
  std::string name;
  WeightType type;  // of the blocks
  bool exact;
};
void PrintTo(const StoredCase& c, std::ostream* out) { *out << c.name; }

class StoredModelTest : public testing::TestWithParam<StoredCase> {};

// What is exact has the logits of the same weights in f32, which are compared
// with Transformers elsewhere.
TEST_P(StoredModelTest, LosesNothingOrLittle) {
  const Checkpoint checkpoint = Fixture(GetParam().name);
  const ModelConfig& config = checkpoint.config();
  const auto types = StoredTypesOf(checkpoint, true, true);
  ASSERT_TRUE(types.ok()) << types.status().message();
  for (const auto& [tensor, type] : types->by_tensor) {
    EXPECT_TRUE(type == GetParam().type || type == WeightType::kF32) << tensor;
  }
  const std::vector<int> ids = {1, 5, 9, 2, 44, 7, 3};
  Model exact = MakeModel(config, checkpoint, nullptr, {});
  // Of all that no file stores: as far from exact as can be.
  ModelOptions options = {.type = WeightType::kI4Group64,
                          .lm_head_type = WeightType::kI4Group64,
                          .activations = Activations::kF32};
  options.stored_types = std::make_shared<const StoredTypes>(*types);
  Model stored = MakeModel(config, checkpoint, nullptr, options);
  const double error = stored.quantization_error().Relative();
  if (GetParam().exact) {
    EXPECT_EQ(error, 0);
  } else {
    EXPECT_GT(error, 0);
    EXPECT_LT(error, 0.01);
  }
  const std::vector<float> logits = DecodeLogits(exact, ids);
  EXPECT_LT(LargestDifference(DecodeLogits(stored, ids), logits),
            GetParam().exact ? 1e-4f : 0.1f);
  EXPECT_LT(LargestDifference(PrefillLogits(stored, ids), logits),
            GetParam().exact ? 1e-4f : 0.1f);
}

INSTANTIATE_TEST_SUITE_P(
    Gguf, StoredModelTest,
    testing::Values(StoredCase{"llama3", WeightType::kI8Group32, true},
                    StoredCase{"llama_biases", WeightType::kF16, true},
                    StoredCase{"mistral", WeightType::kI8Group32, false},
                    StoredCase{"qwen2", WeightType::kI4Group32, true},
                    StoredCase{"gemma", WeightType::kI8Group32, true},
                    StoredCase{"gpt_neox", WeightType::kI4mGroup32, true}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace rankforge
