#include "runtime/model/weights/types_file.h"

#include <gtest/gtest.h>

#include <string>

#include "model_testing.h"

namespace rankforge {
namespace {

constexpr char kDown[] = "model.layers.1.mlp.down_proj.weight";
constexpr char kGate[] = "model.layers.0.mlp.gate_proj.weight";

class TypesFileTest : public testing::Test {
 protected:
  void SetUp() override {
    types_.chosen = true;
    for (const ProductSpec& product : TypedProducts(config_, nullptr)) {
      for (const TensorShape& tensor : product.tensors) {
        types_.by_tensor[tensor.name] = WeightType::kI8Group32;
      }
    }
    types_.by_tensor[kDown] = WeightType::kI4mGroup32;
    const Status saved = SaveTypes(types_, origin_, path_);
    ASSERT_TRUE(saved.ok()) << saved.message();
  }

  // The file with the first `from` in it replaced.
  void Replace(const std::string& from, const std::string& to) {
    std::string text = ReadAll(path_);
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    WriteAll(path_, text.replace(at, from.size(), to));
  }
  std::string ErrorOf(const TypesOrigin& origin) const {
    const auto loaded = LoadTypes(path_, config_, nullptr, origin);
    EXPECT_FALSE(loaded.ok());
    return loaded.status().message();
  }
  void ExpectError(const std::string& part) const {
    const std::string error = ErrorOf(origin_);
    EXPECT_NE(error.find(part), std::string::npos) << error;
    EXPECT_EQ(error.find(path_), 0u) << error;
    EXPECT_NE(error.find("rankforge optimize"), std::string::npos) << error;
  }

  const ModelConfig config_ = TinyConfig();
  const TypesOrigin origin_ = {"0123abc", ""};
  const TemporaryFolder folder_;
  const std::string path_ = folder_.File("types.json");
  StoredTypes types_;
};

TEST_F(TypesFileTest, RoundTrip) {
  const auto loaded = LoadTypes(path_, config_, nullptr, origin_);
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_EQ(loaded->by_tensor, types_.by_tensor);
  EXPECT_TRUE(loaded->chosen);
  // q, k, v, o, gate, up, down of three blocks, and the lm_head.
  EXPECT_EQ(loaded->by_tensor.size(), 3 * 7 + 1u);
}

// Files of builds before activations were chosen are of exact inputs.
TEST_F(TypesFileTest, ActivationsAreKept) {
  EXPECT_EQ(LoadTypes(path_, config_, nullptr, origin_)->activations,
            Activations::kF32);
  for (const Activations activations : kActivations) {
    types_.activations = activations;
    ASSERT_TRUE(SaveTypes(types_, origin_, path_).ok());
    EXPECT_EQ(LoadTypes(path_, config_, nullptr, origin_)->activations,
              activations);
  }
  Replace("\"activations\": \"i8\"", "\"activations\": \"i4\"");
  ExpectError("field 'activations' is \"i4\"");
}

TEST_F(TypesFileTest, WrongFieldsAreErrors) {
  const std::string whole = ReadAll(path_);
  const auto expect = [&](const std::string& from, const std::string& to,
                          const std::string& error) {
    WriteAll(path_, whole);
    Replace(from, to);
    ExpectError(error);
  };
  expect("\"i4m_group32\"", "\"i5\"", kDown);
  expect("\"i4m_group32\"", "\"i5\"", "\"i5\"");
  expect("\"i4m_group32\"", "7", "expected a name this build knows");
  expect(kDown, "model.layers.9.mlp.down_proj.weight", kDown);
  expect(kDown, "model.layers.9.mlp.down_proj.weight", "is missing");
  expect("\"tensors\": {", "\"tensors\": {\"x\": \"bf16\",",
         "field 'tensors.x' is \"bf16\", expected a matrix of this model");
  expect(std::string(kGate) + "\": \"i8_group32\"",
         std::string(kGate) + "\": \"bf16\"", "which is read with it");
  expect("rankforge.types.1", "rankforge.types.2", "field 'schema'");
  expect("\"schema\"", "\"scheme\"", "field 'schema' is");
  expect("\"adapter\"", "\"more\": 1, \"adapter\"", "field 'more' is 1");
  expect("\"adapter\"", "\"" + std::string(1 << 20, 'x') + "\": 1, \"adapter\"",
         "xxx...' is 1");
  expect("\"adapter\"", "\"\\u001b\": 1, \"adapter\"", "'\"\\u001b\"' is 1");
  expect("\"adapter\": \"\"", "\"adapter\": null", "field 'adapter' is null");
  expect("\"adapter\": \"\"", "\"adapter\": \"\", \"adapter\": \"\"",
         "occurs twice");
}

TEST_F(TypesFileTest, WhatIsNoTypesFileIsAnError) {
  for (const std::string text :
       {"", "{", "[]", "7", "null", "{}", "{\"schema\": 1}",
        "{\"schema\": \"rankforge.types.1\"}"}) {
    WriteAll(path_, text);
    ExpectError("");
  }
  std::string nested;
  for (size_t i = 0; i < 100000; ++i) nested += "[";
  WriteAll(path_, nested);
  ExpectError("nested deeper");
  // Cut anywhere, it is an error, never a crash.
  ASSERT_TRUE(SaveTypes(types_, origin_, path_).ok());
  const std::string whole = ReadAll(path_);
  for (size_t size = 0; size + 2 < whole.size(); size += 13) {
    WriteAll(path_, whole.substr(0, size));
    ExpectError("");
  }
}

TEST_F(TypesFileTest, OfAnotherModelOrAdapterIsAnError) {
  EXPECT_NE(
      ErrorOf({"456", ""}).find("'checkpoint' is 0123abc, here it is 456"),
      std::string::npos);
  EXPECT_NE(
      ErrorOf({"0123abc", "789"}).find("'adapter' is none, here it is 789"),
      std::string::npos);
}

TEST_F(TypesFileTest, NamesTheMatricesOfRankAdapters) {
  Adapter adapter;
  RankAdapter& rank = adapter.ranks["model.layers.0.mlp.up_proj"];
  rank.module = "model.layers.0.mlp.up_proj";
  rank.rows = config_.mlp;
  rank.cols = config_.hidden;
  rank.d = 32;
  // The dense file lacks A and B.
  const auto lacking = LoadTypes(path_, config_, &adapter, origin_);
  ASSERT_FALSE(lacking.ok());
  EXPECT_NE(lacking.status().message().find("rank."), std::string::npos);
  for (const ProductSpec& product : TypedProducts(config_, &adapter)) {
    for (const TensorShape& tensor : product.tensors) {
      types_.by_tensor.try_emplace(tensor.name, WeightType::kI8Group32);
    }
  }
  ASSERT_TRUE(SaveTypes(types_, origin_, path_).ok());
  const auto loaded = LoadTypes(path_, config_, &adapter, origin_);
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_EQ(loaded->by_tensor.size(), 3 * 7 + 1 + 2u);
}

}  // namespace
}  // namespace rankforge
