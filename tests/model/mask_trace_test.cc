// Every masked product of a model gets the masks that it runs with, whatever
// its family calls its modules.
#include "runtime/model/use/mask_trace.h"

#include <gtest/gtest.h>

#include <bit>
#include <random>

#include "model_testing.h"

namespace rankforge {
namespace {

// Thresholds from 1e-5 to 10, so that values of any size keep some channels and
// drop others.
std::vector<float> Thresholds(size_t count) {
  std::vector<float> tau(count);
  for (size_t i = 0; i < count; ++i) {
    tau[i] = std::pow(
        10.0f, -5 + 6 * static_cast<float>(i) / static_cast<float>(count));
  }
  return tau;
}

// A rank adapter on the projection of each of `sites` in every block.
Adapter RanksAt(const ModelConfig& config, std::span<const Site> sites) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.05f);
  Adapter adapter;
  for (const BlockSpec& block : DescribeModel(config, nullptr).blocks) {
    for (const Site site : sites) {
      const ProjectionSpec& projection = block[site];
      RankAdapter& rank = adapter.ranks[projection.name];
      rank.module = projection.name;
      rank.rows = projection.rows;
      rank.cols = projection.cols;
      rank.d = 70;
      rank.density = 0.5;
      rank.tau = Thresholds(rank.d);
      rank.a.resize(rank.d * rank.rows);
      rank.b.resize(rank.d * rank.cols);
      for (float& a : rank.a) a = normal(random);
      for (float& b : rank.b) b = normal(random);
    }
  }
  return adapter;
}

InputMask MaskOf(const std::string& module, size_t cols) {
  InputMask mask;
  mask.module = module;
  mask.cols = cols;
  mask.tau = Thresholds(cols);
  mask.density = 0.5;
  return mask;
}

// The masked products of `spec`, each with the module whose mask it reads.
std::map<std::string, std::string> MaskedProducts(const ModelSpec& spec) {
  std::map<std::string, std::string> modules;
  for (const BlockSpec& block : spec.blocks) {
    for (const ProjectionSpec& projection : block.projections) {
      if (projection.input_mask) {
        modules[projection.direct.front().layer] =
            projection.input_mask->module;
      }
      for (size_t i = 0; i < projection.a.size(); ++i) {
        modules[projection.a[i].layer] = projection.rank_masks[i].module;
      }
      if (projection.gate_mask) {
        const std::string& module = projection.gate_mask->module;
        modules[projection.direct.back().layer] = module;
        modules[block[Site::kMlpHidden].direct.front().layer] = module;
      }
    }
  }
  return modules;
}

double Kept(const std::vector<MaskTrace::Mask>& masks) {
  int kept = 0;
  for (const MaskTrace::Mask& mask : masks) {
    for (const uint64_t word : mask) kept += std::popcount(word);
  }
  return kept;
}

// Runs a few tokens and holds the trace of every masked product against what
// the model counted of its mask.
void ExpectTraced(const ModelConfig& config, const Adapter& adapter,
                  size_t products_a_block) {
  ASSERT_TRUE(CheckAdapter(config, adapter).ok());
  const SyntheticWeights weights(config, 3);
  const std::vector<int> ids = SyntheticIds(config, 24, 5);
  Model model = MakeModel(config, weights, &adapter);
  MaskTrace trace(config, adapter);
  model.set_observer(&trace);
  PrefillLogits(model, ids);
  const ForwardCounters counters = model.counters();

  const ModelSpec spec = DescribeModel(config, &adapter);
  const std::map<std::string, std::string> modules = MaskedProducts(spec);
  size_t traced = 0;
  for (const BlockSpec& block : spec.blocks) {
    ForEachProduct(block, [&](const ProductSpec& product) {
      if (product.operation == Operation::kDense) return;
      SCOPED_TRACE(product.layer);
      ASSERT_TRUE(modules.contains(product.layer));
      const auto& masks = trace.Of(product.layer);
      ASSERT_EQ(masks.size(), ids.size());
      const auto& counted = counters.density.at(modules.at(product.layer));
      EXPECT_GT(counted.kept, 0);
      EXPECT_LT(counted.kept, counted.total);
      // Ranks are summed in another order here: a value at its threshold.
      EXPECT_NEAR(Kept(masks), counted.kept, 2);
      ++traced;
    });
  }
  EXPECT_EQ(traced, products_a_block * config.layers);
  EXPECT_TRUE(trace.Of("lm_head").empty());
}

ModelConfig NeoX() {
  ModelConfig config = TinyConfig();
  config.family = "gpt_neox";
  config.kv_heads = config.heads;
  config.norm = NormKind::kLayer;
  config.parallel_blocks = true;
  config.qkv_by_head = true;
  config.activation = Activation::kGelu;
  config.gated_mlp = false;
  config.qkv_bias = config.o_bias = config.mlp_bias = true;
  return config;
}

TEST(MaskTraceTest, RanksOfEveryProjection) {
  for (const ModelConfig& config : {TinyConfig(), NeoX()}) {
    ExpectTraced(config, RanksAt(config, kSites), 4);
  }
}

TEST(MaskTraceTest, InputsOfEveryProjection) {
  for (const ModelConfig& config : {TinyConfig(), NeoX()}) {
    Adapter adapter;
    for (const BlockSpec& block : DescribeModel(config, nullptr).blocks) {
      for (const ProjectionSpec& projection : block.projections) {
        adapter.masks[projection.name] =
            MaskOf(projection.name, projection.cols);
      }
    }
    ExpectTraced(config, adapter, 4);
  }
}

// The gate's mask is one of rows of up and one of columns of down.
TEST(MaskTraceTest, GatesBesideRanks) {
  const ModelConfig config = TinyConfig();
  Adapter adapter = RanksAt(config, std::array{Site::kAttentionOutput});
  for (const BlockSpec& block : DescribeModel(config, nullptr).blocks) {
    const std::string& module = block[Site::kMlpInput].name;
    adapter.gates[module] = MaskOf(module, config.mlp);
  }
  ExpectTraced(config, adapter, 3);
}

// Gate and up with an adapter each share one B and have an A each.
TEST(MaskTraceTest, PartsOfAStack) {
  const ModelConfig config = TinyConfig();
  Adapter whole = RanksAt(config, std::array{Site::kMlpInput});
  Adapter adapter;
  for (const auto& [stack, rank] : whole.ranks) {
    for (const char* part : {"gate_proj", "up_proj"}) {
      RankAdapter half = rank;
      half.module = stack.substr(0, stack.rfind('.') + 1) + part;
      half.rows = config.mlp;
      half.a.resize(half.d * half.rows);
      adapter.ranks[half.module] = half;
    }
  }
  ExpectTraced(config, adapter, 2);
}

}  // namespace
}  // namespace rankforge
