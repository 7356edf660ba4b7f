// Adapters on graphs of llama.cpp against this project's own runtime, on tiny
// random models (scripts/gguf_fixtures.py).
#include <gtest/gtest.h>
#include <llama.h>

#include <array>
#include <cmath>
#include <cstring>
#include <memory>

#include "integrations/llama/adapter_layers.h"
#include "integrations/llama/llama_layers.h"
#include "integrations/llama/reference_model.h"
#include "tests/integrations/random_adapter.h"

namespace {

namespace rf = rankforge;
using Logits = std::vector<float>;

constexpr std::array<llama_token, 9> kTokens = {5, 17, 60, 3, 3, 42, 9, 30, 11};

std::string FixtureFile(const std::string& name) {
  return RANKFORGE_SOURCE_DIR "/tests/model/data/gguf/" + name + ".gguf";
}

// Those models have no tokenizer, and 64 tokens.
std::vector<llama_model_kv_override> Overrides() {
  std::vector<llama_model_kv_override> overrides(4);  // the last one is empty
  const auto name = [](auto& field, const char* text) {
    std::strncpy(field, text, sizeof(field) - 1);
  };
  overrides[0].tag = LLAMA_KV_OVERRIDE_TYPE_STR;
  name(overrides[0].key, "tokenizer.ggml.model");
  name(overrides[0].val_str, "no_vocab");
  const char* sizes[] = {"llama.vocab_size", "qwen2.vocab_size"};
  for (size_t i = 0; i < 2; ++i) {
    overrides[i + 1].tag = LLAMA_KV_OVERRIDE_TYPE_INT;
    name(overrides[i + 1].key, sizes[i]);
    overrides[i + 1].val_i64 = 64;
  }
  return overrides;
}

class Llama {
 public:
  explicit Llama(const std::string& file, rf::ggml::GraphPatch* patch) {
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    const std::vector<llama_model_kv_override> overrides = Overrides();
    llama_model_params model = llama_model_default_params();
    model.n_gpu_layers = 0;
    model.kv_overrides = overrides.data();
    model_.reset(llama_model_load_from_file(file.c_str(), model));
    if (model_ == nullptr) return;
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 64;
    params.n_threads = params.n_threads_batch = 2;
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    if (patch != nullptr) {
      params.cb_eval = rf::ggml::GraphPatch::Visit;
      params.cb_eval_user_data = patch;
    }
    context_.reset(llama_init_from_model(model_.get(), params));
  }
  bool loaded() const { return context_ != nullptr; }

  // Logits after the last of `count` tokens, in one call.
  Logits Next(const llama_token* tokens, size_t count, size_t vocab) {
    std::vector<llama_token> batch(tokens, tokens + count);
    EXPECT_EQ(llama_decode(
                  context_.get(),
                  llama_batch_get_one(batch.data(), static_cast<int>(count))),
              0);
    const float* logits = llama_get_logits_ith(context_.get(), -1);
    return {logits, logits + vocab};
  }

 private:
  struct Free {
    void operator()(llama_model* model) const { llama_model_free(model); }
    void operator()(llama_context* context) const { llama_free(context); }
  };
  std::unique_ptr<llama_model, Free> model_;
  std::unique_ptr<llama_context, Free> context_;
};

// The root of the sum of squared differences, relative to b.
double Distance(const Logits& a, const Logits& b) {
  EXPECT_EQ(a.size(), b.size());
  double squares = 0, all = 0;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
    squares += std::pow(double{a[i]} - b[i], 2);
    all += std::pow(double{b[i]}, 2);
  }
  return std::sqrt(squares / all);
}

class LlamaTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const std::string written = rf::WriteRandomAdapter(
        FixtureFile(GetParam()), rf::RandomAdapter::kRanksAndMasks, adapter_);
    ASSERT_EQ(written, "");
  }
  std::unique_ptr<rf::llama::ReferenceModel> Reference(
      const std::string& adapter) {
    std::string error;
    auto reference = rf::llama::ReferenceModel::Open(
        FixtureFile(GetParam()), adapter, "f32", kTokens.size(), &error);
    EXPECT_EQ(error, "");
    return reference;
  }
  void Patch(rf::ggml::GraphPatch& patch) {
    std::string error;
    ASSERT_TRUE(rf::llama::ReadAdapterLayers(FixtureFile(GetParam()), adapter_,
                                             &layers_, &error))
        << error;
    rf::ContextOptions one;
    one.threads = 1;
    const auto added = rf::llama::AddLayers(
        rf::Context::Create(one).value(), {}, layers_, RANKFORGE_F32, 4, patch);
    ASSERT_TRUE(added) << added.error().message;
  }

  const std::string adapter_ =
      testing::TempDir() + "llama_test_" + GetParam() + ".safetensors";
  rf::llama::AdapterLayers layers_;
};

TEST_P(LlamaTest, LogitsAreThoseOfTheRuntime) {
  rf::ggml::GraphPatch patch;
  ASSERT_NO_FATAL_FAILURE(Patch(patch));
  Llama decoding(FixtureFile(GetParam()), &patch);
  ASSERT_TRUE(decoding.loaded());
  const auto adapted = Reference(adapter_);
  const auto dense = Reference("");
  Logits last;
  for (const llama_token token : kTokens) {
    const Logits expected = adapted->Next(token);
    last = decoding.Next(&token, 1, expected.size());
    // llama.cpp rounds the inputs of the layers that stay its own.
    EXPECT_LT(Distance(last, expected), 0.01);
    EXPECT_GT(Distance(dense->Next(token), expected), 0.1);
  }
  EXPECT_EQ(patch.error(), "");
  EXPECT_EQ(patch.Unseen(), std::vector<std::string>{});

  // All tokens at once, in a graph of its own: three turns of four.
  rf::ggml::GraphPatch other;
  ASSERT_NO_FATAL_FAILURE(Patch(other));
  Llama prefilling(FixtureFile(GetParam()), &other);
  const Logits all =
      prefilling.Next(kTokens.data(), kTokens.size(), last.size());
  EXPECT_LT(Distance(all, last), 0.01);
  EXPECT_EQ(other.error(), "");
}

// Heads in another order than the adapter's, biases, and heads that are not.
INSTANTIATE_TEST_SUITE_P(All, LlamaTest,
                         testing::Values("llama3", "llama_biases", "qwen2"),
                         [](const auto& info) { return info.param; });

TEST(LlamaLayers, MasksOverNeuronsAreRefused) {
  const std::string file = FixtureFile("llama3");
  const std::string adapter = testing::TempDir() + "llama_gates.safetensors";
  ASSERT_EQ(rf::WriteRandomAdapter(file, rf::RandomAdapter::kGates, adapter),
            "");
  std::string error;
  rf::llama::AdapterLayers layers;
  EXPECT_FALSE(rf::llama::ReadAdapterLayers(file, adapter, &layers, &error));
  EXPECT_NE(error.find("neurons"), std::string::npos) << error;
  EXPECT_FALSE(rf::llama::ReadAdapterLayers(file, "/absent", &layers, &error));
  EXPECT_NE(error.find("/absent"), std::string::npos) << error;
}

TEST(LlamaLayers, LearnedMasksAreRefused) {
  const std::string file = FixtureFile("llama3");
  const std::string adapter = testing::TempDir() + "llama_gains.safetensors";
  ASSERT_EQ(rf::WriteRandomAdapter(file, rf::RandomAdapter::kBiases, adapter),
            "");
  std::string error;
  rf::llama::AdapterLayers layers;
  EXPECT_FALSE(rf::llama::ReadAdapterLayers(file, adapter, &layers, &error));
  EXPECT_NE(error.find("--without gains"), std::string::npos) << error;
}

}  // namespace
