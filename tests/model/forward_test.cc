// The forward pass: its two paths, adapters, counters, and what must not
// change a bit.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <map>
#include <mutex>
#include <random>
#include <set>

#include "bench/allocations.h"
#include "kernels/registry.h"
#include "runtime/model/format/checkpoint.h"
#include "runtime/model/weights/modules.h"
#include "runtime/table/dispatch.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

// A synthetic model of the tiny shape and its dense weights by name.
class ForwardTest : public testing::Test {
 protected:
  std::vector<float> Tensor(const std::string& name, size_t rows,
                            size_t cols) const {
    const std::vector<std::string> names = {name};
    const std::vector<size_t> heights = {rows};
    const auto packed =
        weights_.Pack(names, heights, cols, WeightType::kF32, Layout::kOutIn);
    EXPECT_TRUE(packed.ok());
    std::vector<float> values(rows * cols);
    for (size_t row = 0; row < rows; ++row) {
      for (size_t col = 0; col < cols; ++col) {
        values[row * cols + col] = packed->At(row, col);
      }
    }
    return values;
  }
  // The stacked rows of q, k, v or of one MLP projection of a layer.
  std::vector<float> Stack(const std::vector<TensorShape>& tensors) const {
    std::vector<float> stack;
    for (const TensorShape& tensor : tensors) {
      const auto part = Tensor(tensor.name, tensor.rows, tensor.cols);
      stack.insert(stack.end(), part.begin(), part.end());
    }
    return stack;
  }

  // body(threads), for each activation on one thread and on several.
  template <class Body>
  void ForEachActivation(Body body) {
    for (const Activation activation :
         {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh}) {
      config_.activation = activation;
      for (const size_t threads : {1, 3}) body(threads);
    }
  }

  ModelConfig config_ = TinyConfig();
  SyntheticWeights weights_{config_, 11};
  std::vector<int> ids_ = SyntheticIds(config_, 40, 3);
};

// Until RANKFORGE_FORCE is unset.
void Force(const KernelEntry& entry, Layout layout) {
  const std::string forced = entry.FullName() + "@" + std::string(Name(layout));
  setenv("RANKFORGE_FORCE", forced.c_str(), 1);
}

// Keeps x_j iff |x_j| >= tau.
InputMask UniformMask(const std::string& module, size_t cols, float tau,
                      double density) {
  InputMask mask;
  mask.module = module;
  mask.cols = cols;
  mask.tau.assign(cols, tau);
  mask.density = density;
  return mask;
}

// A full-rank adapter of `w` (rows, cols) with rows >= cols: A has the
// orthonormal columns of a Gram-Schmidt basis of col(W), B = A^T W, and no
// threshold drops anything.
RankAdapter FullRank(const std::string& module, const std::vector<float>& w,
                     size_t rows, size_t cols) {
  RankAdapter rank;
  rank.module = module;
  rank.rows = rows;
  rank.cols = rank.d = cols;
  rank.a.resize(cols * rows);
  rank.b.resize(cols * cols);
  rank.tau.assign(cols, 0.0f);
  rank.density = 1;
  std::vector<std::vector<double>> basis;
  for (size_t col = 0; col < cols; ++col) {
    std::vector<double> vector(rows);
    for (size_t row = 0; row < rows; ++row) vector[row] = w[row * cols + col];
    for (int pass = 0; pass < 2; ++pass) {
      for (const auto& other : basis) {
        double dot = 0;
        for (size_t row = 0; row < rows; ++row) dot += vector[row] * other[row];
        for (size_t row = 0; row < rows; ++row) vector[row] -= dot * other[row];
      }
    }
    double norm = 0;
    for (const double value : vector) norm += value * value;
    for (double& value : vector) value /= std::sqrt(norm);
    basis.push_back(vector);
  }
  for (size_t i = 0; i < cols; ++i) {
    for (size_t row = 0; row < rows; ++row) {
      rank.a[i * rows + row] = static_cast<float>(basis[i][row]);
    }
    for (size_t col = 0; col < cols; ++col) {
      double dot = 0;
      for (size_t row = 0; row < rows; ++row) {
        dot += basis[i][row] * w[row * cols + col];
      }
      rank.b[i * cols + col] = static_cast<float>(dot);
    }
  }
  return rank;
}

TEST_F(ForwardTest, PrefillAgreesWithDecode) {
  for (const WeightType kv : kKvTypes) {
    for (const WeightType type : kWeightTypes) {
      // ActivationsTest has rounded inputs.
      Model model = MakeModel(
          config_, weights_, nullptr,
          {.type = type, .kv_type = kv, .activations = Activations::kF32});
      EXPECT_LT(LargestDifference(PrefillLogits(model, ids_),
                                  DecodeLogits(model, ids_)),
                kv == WeightType::kF32 ? 1e-4f : 2e-2f);
    }
  }
}

// More tokens than go through the layers at once, in pieces of odd sizes.
TEST_F(ForwardTest, PiecesOfAPromptContinueEachOther) {
  Model model = MakeModel(config_, weights_);
  const std::vector<int> ids = SyntheticIds(config_, 600, 9);
  const std::vector<float> whole = PrefillLogits(model, ids);
  KvCache cache(config_, WeightType::kF32, ids.size());
  std::vector<float> last(config_.vocab);
  size_t begin = 0;
  for (const size_t count : {1, 63, 1, 300, 235}) {
    ASSERT_TRUE(
        model.Forward(std::span(ids).subspan(begin, count), cache, last).ok());
    begin += count;
    EXPECT_EQ(cache.length(), begin);
    EXPECT_LT(LargestDifference(
                  last, std::span(whole).subspan((begin - 1) * config_.vocab,
                                                 config_.vocab)),
              2e-4f);
  }
  ASSERT_EQ(begin, ids.size());
}

// Thresholds in the middle of the values, on every kind of module.
Adapter MixedAdapter(const ModelConfig& config, const SyntheticWeights&) {
  Adapter adapter;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  const auto rank = [&](const std::string& module, size_t rows, size_t d) {
    RankAdapter result;
    result.module = module;
    result.rows = rows;
    result.cols = config.hidden;
    result.d = d;
    for (size_t i = 0; i < d * rows; ++i) {
      result.a.push_back(normal(random) / std::sqrt(static_cast<float>(d)));
    }
    for (size_t i = 0; i < d * config.hidden; ++i) {
      result.b.push_back(normal(random) /
                         std::sqrt(static_cast<float>(config.hidden)));
    }
    for (size_t i = 0; i < d; ++i) {
      result.tau.push_back(0.3f + 0.01f * static_cast<float>(i % 50));
    }
    result.density = 0.5;
    adapter.ranks[module] = result;
  };
  const auto mask = [&](const std::string& module, size_t cols, float tau) {
    adapter.masks[module] = UniformMask(module, cols, tau, 0.5);
    adapter.masks[module].keep_frequency.assign(cols, 0.5f);
  };
  rank("model.layers.0.self_attn.qkv", config.qkv_rows(0), 70);
  rank("model.layers.0.mlp.up_proj", config.mlp, 80);
  rank("model.layers.0.mlp.gate_proj", config.mlp, 49);
  mask("model.layers.0.self_attn.o_proj", config.q_rows(0), 0.2f);
  mask("model.layers.0.mlp.down_proj", config.mlp, 0.1f);
  rank("model.layers.1.mlp.gate_up", 2 * config.mlp, 90);
  mask("model.layers.1.self_attn.qkv", config.hidden, 0.5f);
  rank("model.layers.2.mlp.up_proj", config.mlp, 64);
  return adapter;
}

TEST_F(ForwardTest, AdaptedPrefillAgreesWithDecode) {
  const Adapter adapter = MixedAdapter(config_, weights_);
  Model model = MakeModel(config_, weights_, &adapter);
  const std::vector<int> one = {ids_[0]};
  // A value next to its threshold may fall on either side, so most rows agree
  // closely and all of them roughly.
  const std::vector<float> prefill = PrefillLogits(model, ids_);
  const ForwardCounters prefilled = model.counters();
  model.ResetCounters();
  const std::vector<float> decode = DecodeLogits(model, ids_);
  const ForwardCounters decoded = model.counters();
  size_t close = 0;
  for (size_t i = 0; i < ids_.size(); ++i) {
    const auto row = [&](const std::vector<float>& logits) {
      return std::span(logits).subspan(i * config_.vocab, config_.vocab);
    };
    close += LargestDifference(row(prefill), row(decode)) < 1e-4f;
  }
  EXPECT_GE(close, ids_.size() / 2);
  EXPECT_LT(LargestDifference(prefill, decode), 0.5f);

  // Prefill counts what decode reads.
  EXPECT_EQ(prefilled.tokens, decoded.tokens);
  EXPECT_NEAR(prefilled.block_macs / decoded.block_macs, 1, 1e-3);
  EXPECT_NEAR(prefilled.weight_bytes / decoded.weight_bytes, 1, 1e-3);
  ASSERT_EQ(prefilled.density.size(), decoded.density.size());
  for (const auto& [module, density] : decoded.density) {
    EXPECT_NEAR(prefilled.density.at(module).kept, density.kept, 3) << module;
    EXPECT_EQ(prefilled.density.at(module).total, density.total) << module;
    EXPECT_GT(density.kept, 0.05 * density.total) << module;
    EXPECT_LT(density.kept, 0.95 * density.total) << module;
  }
}

TEST_F(ForwardTest, CountersAddUp) {
  const Adapter adapter = MixedAdapter(config_, weights_);
  Model model = MakeModel(config_, weights_, &adapter,
                          {.lm_head_type = WeightType::kBf16});
  DecodeLogits(model, ids_);
  const ForwardCounters counters = model.counters();
  const auto tokens = static_cast<double>(ids_.size());
  double macs = static_cast<double>(config_.BlockMacs(0)) *
                static_cast<double>(config_.layers) * tokens;
  const std::map<std::string, size_t> mask_rows = {
      {"model.layers.0.self_attn.o_proj", config_.hidden},
      {"model.layers.0.mlp.down_proj", config_.hidden},
      {"model.layers.1.self_attn.qkv", config_.qkv_rows(0)}};
  for (const auto& [module, density] : counters.density) {
    const auto rank = adapter.ranks.find(module);
    if (rank != adapter.ranks.end()) {
      const RankAdapter& r = rank->second;
      EXPECT_EQ(density.total, tokens * static_cast<double>(r.d));
      macs += static_cast<double>(r.d * r.cols) * tokens +
              density.kept * static_cast<double>(r.rows) -
              static_cast<double>(r.rows * r.cols) * tokens;
    } else {
      macs -= (density.total - density.kept) *
              static_cast<double>(mask_rows.at(module));
    }
  }
  EXPECT_NEAR(counters.block_macs, macs, 1e-6 * macs);
  const double lm_head =
      static_cast<double>(config_.vocab * config_.hidden * 2) * tokens;
  EXPECT_NEAR(counters.weight_bytes, 4 * macs + lm_head, 1e-6 * macs);
  model.ResetCounters();
  EXPECT_EQ(model.counters().tokens, 0);
  EXPECT_EQ(model.counters().block_macs, 0);
  EXPECT_EQ(model.counters().weight_bytes, 0);
}

TEST_F(ForwardTest, FullRankAdaptersEqualDense) {
  Adapter adapter;
  const ModelSpec spec = DescribeModel(config_, nullptr);
  const auto add = [&](const std::string& module,
                       const std::vector<TensorShape>& tensors) {
    const std::vector<float> w = Stack(tensors);
    adapter.ranks[module] =
        FullRank(module, w, w.size() / config_.hidden, config_.hidden);
  };
  for (size_t layer = 0; layer < config_.layers; ++layer) {
    const std::string name = "model.layers." + std::to_string(layer);
    const auto& qkv =
        spec.blocks[layer][Site::kAttentionInput].direct[0].tensors;
    const auto& gate_up = spec.blocks[layer][Site::kMlpInput].direct[0].tensors;
    add(name + ".self_attn.qkv", qkv);
    if (layer == 0) add(name + ".mlp.gate_up", gate_up);
    if (layer > 0) add(name + ".mlp.up_proj", {gate_up[1]});
    if (layer > 1) add(name + ".mlp.gate_proj", {gate_up[0]});
    const std::string down = name + ".mlp.down_proj";
    adapter.masks[down] = UniformMask(down, config_.mlp, 0, 1);
  }
  Model dense = MakeModel(config_, weights_);
  Model adapted = MakeModel(config_, weights_, &adapter);
  const std::vector<float> expected = DecodeLogits(dense, ids_);
  EXPECT_LT(LargestDifference(DecodeLogits(adapted, ids_), expected), 5e-4f);
  EXPECT_LT(LargestDifference(PrefillLogits(adapted, ids_), expected), 5e-4f);
  for (const auto& [module, density] : adapted.counters().density) {
    EXPECT_EQ(density.kept, density.total) << module;
  }
}

TEST_F(ForwardTest, InfiniteThresholdsDropEverything) {
  Adapter adapter;
  for (size_t layer = 0; layer < config_.layers; ++layer) {
    for (const auto& [module, cols] :
         {std::pair("self_attn.o_proj", config_.q_rows(0)),
          std::pair("mlp.down_proj", config_.mlp)}) {
      const std::string name =
          "model.layers." + std::to_string(layer) + "." + module;
      adapter.masks[name] = UniformMask(name, cols, INFINITY, 0);
    }
  }
  Model model = MakeModel(config_, weights_, &adapter);
  // Nothing is added to the residual stream: only the last token matters.
  const std::vector<int> other = {5, ids_[1]};
  const auto last = [&](std::span<const int> ids) {
    const auto logits = DecodeLogits(model, ids);
    return std::vector<float>(logits.end() - config_.vocab, logits.end());
  };
  EXPECT_EQ(last(std::span(ids_).first(2)), last(other));
  EXPECT_LT(
      LargestDifference(PrefillLogits(model, ids_), DecodeLogits(model, ids_)),
      1e-5f);
}

TEST_F(ForwardTest, TauScale) {
  const Adapter adapter = MixedAdapter(config_, weights_);
  const auto kept = [&](double scale) {
    Model model = MakeModel(config_, weights_, &adapter, {.tau_scale = scale});
    DecodeLogits(model, ids_);
    double sum = 0, total = 0;
    for (const auto& [module, density] : model.counters().density) {
      sum += density.kept;
      total += density.total;
    }
    return sum / total;
  };
  EXPECT_EQ(kept(0), 1);
  EXPECT_GT(kept(0.5), kept(1) + 0.05);
  EXPECT_GT(kept(1), kept(2) + 0.05);
}

// The same bits for one thread and two, in both paths.
TEST_F(ForwardTest, ThreadsDoNotChangeABit) {
  const Adapter mixed = MixedAdapter(config_, weights_);
  for (const Adapter* adapter :
       {static_cast<const Adapter*>(nullptr), &mixed}) {
    for (const WeightType type : kWeightTypes) {
      std::vector<std::vector<float>> decode, prefill;
      for (const size_t threads : {1, 2, 3}) {
        Model model = MakeModel(config_, weights_, adapter,
                                {.type = type, .threads = threads});
        decode.push_back(DecodeLogits(model, ids_));
        prefill.push_back(PrefillLogits(model, ids_));
      }
      for (size_t i = 1; i < decode.size(); ++i) {
        EXPECT_EQ(decode[i], decode[0]);
        EXPECT_EQ(prefill[i], prefill[0]);
      }
    }
  }
}

// The same bits with every variant of a layout, forced one after the other.
// Variants of one layout agree; between layouts sums may round differently.
TEST_F(ForwardTest, VariantsDoNotChangeABit) {
  const Adapter adapter = MixedAdapter(config_, weights_);
  const std::span<const int> ids = std::span(ids_).first(6);
  std::map<std::pair<Operation, Layout>, std::vector<float>> expected;
  size_t forced = 0;
  const Registry& registry = Registry::Get();
  for (const Layout layout : kLayouts) {
    for (const Operation operation :
         {Operation::kDense, Operation::kColumnMask}) {
      for (const KernelEntry& entry : registry.entries()) {
        const VariantSpec& spec = entry.spec;
        if (spec.operation != operation || spec.type != WeightType::kF32 ||
            !Accepts(spec, layout) || entry.reassociates ||
            entry.static_rows != 0 || TakesTokens(spec) ||
            (operation == Operation::kColumnMask && spec.granularity != 1)) {
          continue;
        }
        Force(entry, layout);
        Model model = MakeModel(config_, weights_, &adapter);
        unsetenv("RANKFORGE_FORCE");
        const std::vector<float> logits = DecodeLogits(model, ids);
        const auto [first, added] =
            expected.try_emplace({operation, layout}, logits);
        if (!added) {
          EXPECT_EQ(logits, first->second) << entry.FullName();
        }
        ++forced;
      }
    }
  }
  EXPECT_GT(forced, 10);
}

TEST_F(ForwardTest, AdaptedBlocksAreThoseOfAnAdaptedModel) {
  const Adapter adapter = MixedAdapter(config_, weights_);
  Model adapted = MakeModel(config_, weights_, &adapter);
  Model dense = MakeModel(config_, weights_, nullptr);
  const std::vector<float> before = DecodeLogits(dense, ids_);
  for (size_t layer = 0; layer < config_.layers; ++layer) {
    ASSERT_TRUE(dense.AdaptBlock(layer, weights_, &adapter).ok());
  }
  EXPECT_EQ(DecodeLogits(dense, ids_), DecodeLogits(adapted, ids_));
  EXPECT_EQ(PrefillLogits(dense, ids_), PrefillLogits(adapted, ids_));
  for (size_t layer = 0; layer < config_.layers; ++layer) {
    ASSERT_TRUE(dense.AdaptBlock(layer, weights_, nullptr).ok());
  }
  EXPECT_EQ(DecodeLogits(dense, ids_), before);
  EXPECT_FALSE(dense.AdaptBlock(config_.layers, weights_, nullptr).ok());
}

// Gates of every layer decide, with thresholds in the middle of their values.
Adapter GateAdapter(const ModelConfig& config, float tau) {
  Adapter adapter;
  for (size_t layer = 0; layer < config.layers; ++layer) {
    const std::string module =
        "model.layers." + std::to_string(layer) + ".mlp.gate_up";
    adapter.gates[module] = UniformMask(module, config.mlp, tau, 0.5);
  }
  return adapter;
}

// Blocks one at a time, and sites one after the other, dense and adapted
// (gates too), sequential and parallel.
TEST_F(ForwardTest, SitesInOrderAreTheBlock) {
  for (const bool parallel : {false, true}) {
    config_.parallel_blocks = parallel;
    const Adapter adapter = MixedAdapter(config_, weights_);
    const Adapter gates = GateAdapter(config_, 0.1f);
    for (const Adapter* adapted :
         std::initializer_list<const Adapter*>{nullptr, &adapter, &gates}) {
      Model whole = MakeModel(config_, weights_, adapted);
      Model pieces =
          MakeModel(config_, weights_, nullptr, {.blocks_on_demand = true});
      std::vector<float> expected(ids_.size() * config_.hidden);
      ASSERT_TRUE(whole.Embed(ids_, expected.data()).ok());
      std::vector<float> hidden = expected;
      KvCache cache(config_, WeightType::kF32, ids_.size());
      KvCache other(config_, WeightType::kF32, ids_.size());
      whole.ResetCounters();
      double macs = 0;
      for (size_t layer = 0; layer < config_.layers; ++layer) {
        whole.ForwardLayer(layer, expected.data(), ids_.size(), cache);
        ASSERT_TRUE(pieces.AdaptBlock(layer, weights_, nullptr).ok());
        std::vector<float> x(ids_.size() * config_.hidden);
        pieces.AttentionInput(layer, hidden.data(), ids_.size(), x.data());
        for (const Site site : kSites) {
          ASSERT_TRUE(pieces.AdaptSite(layer, site, weights_, adapted).ok());
          const Site behind = site == Site::kMlpHidden
                                  ? site
                                  : kSites[static_cast<size_t>(site) + 1];
          std::vector<float> next(ids_.size() *
                                  SiteWidth(config_, layer, behind));
          pieces.ForwardSite(layer, site, x.data(), ids_.size(), other,
                             hidden.data(), next.data());
          x = std::move(next);
        }
        macs += pieces.counters().block_macs;
        pieces.DropBlock(layer);
        EXPECT_EQ(hidden, expected) << parallel << " " << layer;
      }
      EXPECT_EQ(macs, whole.counters().block_macs);
      EXPECT_EQ(pieces.counters().tokens, ids_.size());
    }
  }
}

TEST_F(ForwardTest, DecodeAllocatesNothing) {
  const Adapter adapter = MixedAdapter(config_, weights_);
  for (const WeightType kv : kKvTypes) {
    Model model =
        MakeModel(config_, weights_, &adapter, {.kv_type = kv, .threads = 2});
    KvCache cache(config_, kv, ids_.size());
    std::vector<float> logits(config_.vocab);
    const size_t before = Allocations();
    for (size_t i = 0; i < ids_.size(); ++i) {
      const Status status =
          model.Forward(std::span(ids_).subspan(i, 1), cache, logits);
      if (!status.ok()) FAIL() << status.message();
    }
    EXPECT_GT(before, 0);
    EXPECT_EQ(Allocations() - before, 0);
  }
}

class Recorder : public ActivationObserver {
 public:
  void Observe(size_t layer, Site site, const float* x, size_t tokens,
               size_t width) override {
    auto& seen = values[{layer, site}];
    seen.insert(seen.end(), x, x + tokens * width);
  }
  std::map<std::pair<size_t, Site>, std::vector<float>> values;
};

TEST_F(ForwardTest, ObserverSeesTheSameInBothPaths) {
  Model model = MakeModel(config_, weights_);
  Recorder prefill, decode;
  model.set_observer(&prefill);
  PrefillLogits(model, ids_);
  model.set_observer(&decode);
  DecodeLogits(model, ids_);
  model.set_observer(nullptr);
  DecodeLogits(model, ids_);  // unseen
  ASSERT_EQ(prefill.values.size(), 4 * config_.layers);
  const std::map<Site, size_t> widths = {
      {Site::kAttentionInput, config_.hidden},
      {Site::kAttentionOutput, config_.o_cols(0)},
      {Site::kMlpInput, config_.hidden},
      {Site::kMlpHidden, config_.mlp}};
  for (const auto& [key, values] : prefill.values) {
    EXPECT_EQ(values.size(), ids_.size() * widths.at(key.second));
    EXPECT_LT(LargestDifference(values, decode.values.at(key)), 1e-4f);
  }
}

// An observer sees act(gate) * up, so that an MLP runs its steps one by one.
TEST_F(ForwardTest, MlpsInOneCallAreTheirSteps) {
  Adapter masks_only;
  for (size_t layer = 0; layer < config_.layers; ++layer) {
    const std::string mlp = "model.layers." + std::to_string(layer) + ".mlp.";
    masks_only.masks[mlp + "down_proj"] =
        UniformMask(mlp + "down_proj", config_.mlp, 0.1f, 0.5);
  }
  // Gate and up read their input by a mask, too.
  masks_only.masks["model.layers.1.mlp.gate_up"] =
      UniformMask("model.layers.1.mlp.gate_up", config_.hidden, 0.5f, 0.5);
  const Adapter mixed = MixedAdapter(config_, weights_);
  for (const Adapter* adapter :
       std::initializer_list<const Adapter*>{&masks_only, &mixed}) {
    ForEachActivation([&](size_t threads) {
      Model model = MakeModel(config_, weights_, adapter, {.threads = threads});
      Recorder recorder;
      model.set_observer(&recorder);
      const std::vector<float> apart = DecodeLogits(model, ids_);
      const ForwardCounters expected = model.counters();
      model.set_observer(nullptr);
      model.ResetCounters();
      EXPECT_EQ(DecodeLogits(model, ids_), apart);
      const ForwardCounters counters = model.counters();
      EXPECT_EQ(counters.block_macs, expected.block_macs);
      EXPECT_EQ(counters.weight_bytes, expected.weight_bytes);
      for (const auto& [module, density] : expected.density) {
        EXPECT_EQ(counters.density.at(module).kept, density.kept) << module;
        EXPECT_EQ(counters.density.at(module).total, density.total) << module;
        EXPECT_GT(density.kept, 0) << module;
        EXPECT_LT(density.kept, density.total) << module;
      }
      for (const auto& [name, stage] : expected.stages) {
        EXPECT_EQ(counters.stages.at(name).weight_bytes, stage.weight_bytes);
        EXPECT_GT(counters.stages.at(name).seconds, 0) << name;
      }
    });
  }
}

TEST_F(ForwardTest, GatesDecideTheSameInBothPaths) {
  const Adapter adapter = GateAdapter(config_, 0.1f);
  ForEachActivation([&](size_t threads) {
    Model model = MakeModel(config_, weights_, &adapter, {.threads = threads});
    const std::vector<float> prefill = PrefillLogits(model, ids_);
    const ForwardCounters prefilled = model.counters();
    model.ResetCounters();
    const std::vector<float> decode = DecodeLogits(model, ids_);
    const ForwardCounters decoded = model.counters();
    EXPECT_LT(LargestDifference(prefill, decode), 0.1f);
    EXPECT_EQ(prefilled.density.size(), config_.layers);
    double block_macs = 0;
    for (const auto& [module, density] : decoded.density) {
      EXPECT_NEAR(prefilled.density.at(module).kept, density.kept, 3) << module;
      EXPECT_EQ(density.total, static_cast<double>(ids_.size() * config_.mlp));
      EXPECT_GT(density.kept, 0.05 * density.total) << module;
      EXPECT_LT(density.kept, 0.95 * density.total) << module;
      // A row of up and a column of down each.
      block_macs += 2 * density.kept * static_cast<double>(config_.hidden);
    }
    const double always =
        static_cast<double>(ids_.size() * config_.layers * config_.hidden) *
        static_cast<double>(config_.qkv_rows(0) + config_.o_cols(0) +
                            config_.mlp);
    EXPECT_DOUBLE_EQ(decoded.block_macs, always + block_macs);
    EXPECT_NEAR(prefilled.block_macs / decoded.block_macs, 1, 1e-3);
    EXPECT_NEAR(prefilled.weight_bytes / decoded.weight_bytes, 1, 1e-3);
  });
}

// A column mask of down that keeps the same neurons computes the same: here
// all of them, or none.
TEST_F(ForwardTest, GatesThatKeepAllOrNothing) {
  Model dense = MakeModel(config_, weights_);
  const Adapter all = GateAdapter(config_, 0);
  Model keeping = MakeModel(config_, weights_, &all);
  EXPECT_LT(
      LargestDifference(DecodeLogits(keeping, ids_), DecodeLogits(dense, ids_)),
      1e-4f);
  Adapter down;
  for (size_t layer = 0; layer < config_.layers; ++layer) {
    const std::string module =
        "model.layers." + std::to_string(layer) + ".mlp.down_proj";
    down.masks[module] = UniformMask(module, config_.mlp, INFINITY, 0);
  }
  Model without_mlps = MakeModel(config_, weights_, &down);
  const Adapter none = GateAdapter(config_, INFINITY);
  Model dropping = MakeModel(config_, weights_, &none);
  EXPECT_EQ(DecodeLogits(dropping, ids_), DecodeLogits(without_mlps, ids_));
  EXPECT_LT(LargestDifference(PrefillLogits(dropping, ids_),
                              DecodeLogits(dropping, ids_)),
            1e-4f);
}

// What a run counted, but for times.
void ExpectEqualCounters(const ForwardCounters& a, const ForwardCounters& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.block_macs, b.block_macs);
  EXPECT_EQ(a.weight_bytes, b.weight_bytes);
  ASSERT_EQ(a.density.size(), b.density.size());
  for (const auto& [module, density] : a.density) {
    EXPECT_EQ(density.tokens_by_kept, b.density.at(module).tokens_by_kept)
        << module;
  }
}

// Equal as numbers: the sign of a zero may differ.
TEST_F(ForwardTest, TokensDecodedTogetherGetTheirOwnBits) {
  const Adapter mixed = MixedAdapter(config_, weights_);
  const Adapter gates = GateAdapter(config_, 0.1f);
  Adapter masks;
  AddMasks(config_, 0.3f, masks);
  for (const Adapter* adapter :
       std::initializer_list<const Adapter*>{nullptr, &mixed, &gates, &masks}) {
    for (const WeightType type : kWeightTypes) {
      for (const Activations activations :
           std::set{Activations::kF32, DefaultActivations(type)}) {
        for (const size_t threads : {1, 3}) {
          Model model = MakeModel(config_, weights_, adapter,
                                  {.type = type,
                                   .lm_head_type = type,
                                   .activations = activations,
                                   .threads = threads});
          const std::vector<float> alone = DecodeLogits(model, ids_);
          const ForwardCounters expected = model.counters();
          for (const size_t tokens : {2, 5, 16}) {
            model.ResetCounters();
            EXPECT_EQ(DecodeTogether(model, ids_, tokens), alone)
                << Name(type) << ", " << Name(activations) << ", " << threads
                << " threads, " << tokens;
            ExpectEqualCounters(model.counters(), expected);
          }
        }
      }
    }
  }
}

TEST_F(ForwardTest, TokensDecodedTogetherForEveryKindOfBlockAndCache) {
  const Adapter gates = GateAdapter(config_, 0.1f);
  for (const bool parallel : {false, true}) {
    config_.parallel_blocks = parallel;
    for (const WeightType kv : kKvTypes) {
      for (const Activation activation :
           {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh}) {
        config_.activation = activation;
        for (const Adapter* adapter :
             {static_cast<const Adapter*>(nullptr), &gates}) {
          Model model = MakeModel(config_, weights_, adapter, {.kv_type = kv});
          const std::vector<float> alone = DecodeLogits(model, ids_);
          for (size_t tokens = 1; tokens <= kMostTokens; ++tokens) {
            EXPECT_EQ(DecodeTogether(model, ids_, tokens), alone) << tokens;
          }
        }
      }
    }
  }
}

// Layouts without kernels for several tokens, and kernels that round their
// input: forced, one of each algorithm and type.
TEST_F(ForwardTest, TokensDecodedTogetherByEveryAlgorithm) {
  const Adapter mixed = MixedAdapter(config_, weights_);
  const Adapter gates = GateAdapter(config_, 0.1f);
  const std::span<const int> ids = std::span(ids_).first(18);
  std::set<std::tuple<Algorithm, Operation, Layout, WeightType>> forced;
  for (const KernelEntry& entry : Registry::Get().entries()) {
    const VariantSpec& spec = entry.spec;
    if (entry.static_rows != 0 || TakesTokens(spec) || spec.granularity != 1 ||
        entry.is_reference()) {
      continue;
    }
    for (const Layout layout : kLayouts) {
      if (!Accepts(spec, layout) ||
          !forced.insert({spec.algorithm, spec.operation, layout, spec.type})
               .second) {
        continue;
      }
      const Adapter* const adapter =
          spec.operation == Operation::kRowMask ? &gates : &mixed;
      Force(entry, layout);
      const Dispatcher dispatcher(nullptr);
      unsetenv("RANKFORGE_FORCE");
      Model model = Model::Create(config_, weights_, adapter, dispatcher,
                                  {.type = spec.type,
                                   .lm_head_type = spec.type,
                                   .activations = ActivationsOf(spec),
                                   .threads = 2},
                                  MakeDefaultExecutor(2))
                        .value();
      EXPECT_GT(
          dispatcher.counts()[static_cast<size_t>(DecisionSource::kForced)], 0u)
          << entry.FullName();
      EXPECT_EQ(DecodeTogether(model, ids, 7), DecodeLogits(model, ids))
          << entry.FullName();
    }
  }
  EXPECT_GT(forced.size(), 20u);
}

TEST_F(ForwardTest, DecodingTogetherAllocatesNothingMore) {
  const Adapter mixed = MixedAdapter(config_, weights_);
  const Adapter gates = GateAdapter(config_, 0.1f);
  for (const Adapter* adapter : {&mixed, &gates}) {
    Model model = MakeModel(config_, weights_, adapter, {.threads = 2});
    KvCache cache(config_, WeightType::kF32, ids_.size());
    std::vector<float> logits(8 * config_.vocab);
    const std::span<const int> ids = ids_;
    ASSERT_TRUE(model.Decode(ids.first(8), cache, logits).ok());
    const size_t before = Allocations();
    const Status status = model.Decode(ids.subspan(8, 8), cache, logits);
    const size_t after = Allocations();
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(after, before);
  }
}

TEST_F(ForwardTest, WhatDecodingTogetherRefuses) {
  Model model = MakeModel(config_, weights_);
  KvCache cache(config_, WeightType::kF32, 20);
  std::vector<float> logits(17 * config_.vocab);
  const std::span<const int> ids = ids_;
  const auto expect = [&](size_t count, size_t rows, const std::string& part) {
    const Status status = model.Decode(
        ids.first(count), cache, std::span(logits).first(rows * config_.vocab));
    ASSERT_FALSE(status.ok()) << part;
    EXPECT_NE(status.message().find(part), std::string::npos)
        << status.message();
    EXPECT_EQ(cache.length(), 0u);
  };
  expect(17, 17, "at most 16");
  expect(0, 0, "no token ids");
  expect(3, 2, "room for");
  Recorder recorder;
  model.set_observer(&recorder);
  expect(3, 3, "observer");
  model.set_observer(nullptr);
  ASSERT_TRUE(model.Decode(ids.first(16), cache, {}).ok());
  EXPECT_FALSE(model.Decode(ids.first(5), cache, {}).ok());
  EXPECT_EQ(cache.length(), 16u);
  // A prompt after it is none of that.
  cache.Clear();
  ASSERT_TRUE(model
                  .Forward(ids.first(3), cache,
                           std::span(logits).first(3 * config_.vocab), true)
                  .ok());
  EXPECT_EQ(std::vector(logits.begin(), logits.begin() + 3 * config_.vocab),
            PrefillLogits(model, ids.first(3)));
}

TEST_F(ForwardTest, WrongInputIsAnError) {
  Model model = MakeModel(config_, weights_);
  KvCache cache(config_, WeightType::kF32, 4);
  std::vector<float> logits(config_.vocab);
  const auto forward = [&](const std::vector<int>& ids,
                           std::span<float> out = {}) {
    return model.Forward(ids, cache, out);
  };
  EXPECT_EQ(forward({}).code(), StatusCode::kUsage);
  EXPECT_FALSE(forward({301}).ok());
  EXPECT_FALSE(forward({-1}).ok());
  EXPECT_FALSE(forward({1, 2, 3, 4, 5}).ok());
  EXPECT_FALSE(forward({1}, std::span(logits).first(7)).ok());
  EXPECT_EQ(cache.length(), 0);
  EXPECT_TRUE(forward({1, 2, 3}, logits).ok());
  EXPECT_TRUE(forward({4}).ok());
  const Status full = forward({5});
  ASSERT_FALSE(full.ok());
  EXPECT_NE(full.message().find("4 positions"), std::string::npos);
  ModelConfig other = config_;
  other.layers = 4;
  KvCache wrong(other, WeightType::kF32, 4);
  const std::vector<int> one = {1};
  EXPECT_FALSE(model.Forward(one, wrong, {}).ok());
}

TEST_F(ForwardTest, AdaptersThatDoNotFit) {
  const Adapter good = MixedAdapter(config_, weights_);
  ASSERT_TRUE(CheckAdapter(config_, good).ok());
  const auto expect = [&](const Adapter& adapter, const std::string& part) {
    const auto model =
        Model::Create(config_, weights_, &adapter, Dispatcher(nullptr), {},
                      MakeSerialExecutor());
    ASSERT_FALSE(model.ok()) << part;
    EXPECT_NE(model.status().message().find(part), std::string::npos)
        << model.status().message();
  };
  const std::string qkv = "model.layers.0.self_attn.qkv";
  Adapter adapter = good;
  adapter.ranks[qkv].rows += 1;
  expect(adapter, "(161, 96)");
  adapter = good;
  adapter.ranks[qkv].a.pop_back();
  expect(adapter, qkv);
  adapter = good;
  adapter.ranks[qkv].tau.push_back(0);
  expect(adapter, qkv);
  adapter = good;
  adapter.ranks[qkv].d = 0;
  expect(adapter, "no ranks");
  adapter = good;
  adapter.ranks["model.layers.3.self_attn.qkv"] = adapter.ranks[qkv];
  expect(adapter, "model.layers.3.self_attn.qkv");
  adapter = good;
  adapter.masks["model.layers.0.mlp.act"] = UniformMask("x", 1, 0, 1);
  expect(adapter, "model.layers.0.mlp.act");
  adapter = good;
  adapter.masks[qkv] = UniformMask(qkv, config_.hidden, 0, 1);
  expect(adapter, "both");
  adapter = good;
  adapter.ranks["model.layers.1.mlp.up_proj"] =
      adapter.ranks["model.layers.0.mlp.up_proj"];
  expect(adapter, "another module");
  adapter = good;
  adapter.masks["model.layers.0.mlp.down_proj"].cols = 7;
  expect(adapter, "masks 7 inputs");
  const std::string gate_up = "model.layers.2.mlp.gate_up";
  adapter = GateAdapter(config_, 1);
  adapter.gates[gate_up].cols = 7;
  expect(adapter, "7 neurons");
  adapter = GateAdapter(config_, 1);
  adapter.gates["model.layers.2.mlp.down_proj"] = adapter.gates[gate_up];
  expect(adapter, "cannot decide by a gate");
  adapter = good;
  adapter.gates = GateAdapter(config_, 1).gates;
  expect(adapter, "beside another adapter");
  // Shapes without values, and a source that has none either.
  const auto checkpoint = Checkpoint::Open(CheckpointFolder("llama-gqa-7m"));
  ASSERT_TRUE(checkpoint.ok());
  const auto synthetic = SyntheticAdapter(checkpoint->config(), 0.6);
  ASSERT_TRUE(synthetic.ok()) << synthetic.status().message();
  const auto model =
      Model::Create(checkpoint->config(), *checkpoint, &*synthetic,
                    Dispatcher(nullptr), {}, MakeSerialExecutor());
  ASSERT_FALSE(model.ok());
  EXPECT_NE(model.status().message().find("rank.B"), std::string::npos);
}

// A source that notes what is packed.
class Recording : public WeightSource {
 public:
  explicit Recording(const WeightSource& base) : base_(base) {}
  Result<PackedMatrix> Pack(std::span<const std::string> names,
                            std::span<const size_t> rows, size_t cols,
                            WeightType type, Layout layout) const override {
    size_t sum = 0;
    for (const size_t height : rows) sum += height;
    const std::lock_guard lock(mutex_);
    packed.insert({sum, cols, type});
    return base_.Pack(names, rows, cols, type, layout);
  }
  Result<std::vector<float>> Vector(const std::string& name,
                                    size_t n) const override {
    return base_.Vector(name, n);
  }
  Status Embedding(size_t row, std::span<float> out) const override {
    return base_.Embedding(row, out);
  }
  mutable std::multiset<std::tuple<size_t, size_t, WeightType>> packed;

 private:
  const WeightSource& base_;
  mutable std::mutex mutex_;
};

// What is tuned is what runs.
TEST_F(ForwardTest, WorkloadsAreTheProblemsOfTheModel) {
  Adapter adapter = MixedAdapter(config_, weights_);
  for (auto& [module, rank] : adapter.ranks) {  // all from the source
    rank.a.clear();
    rank.b.clear();
  }
  const ModelOptions options = {.type = WeightType::kBf16,
                                .lm_head_type = WeightType::kF32,
                                .threads = 2};
  const Recording source(weights_);
  MakeModel(config_, source, &adapter, options);
  std::multiset<std::tuple<size_t, size_t, WeightType>> expected;
  std::map<std::string, const Workload*> by_layer;
  const auto workloads = ModelWorkloads(config_, &adapter, options);
  std::set<Problem> problems;
  for (const Workload& workload : workloads) {
    EXPECT_TRUE(problems.insert(workload.problem).second);
    EXPECT_EQ(workload.problem.threads, 2);
    EXPECT_EQ(workload.problem.granularity, 1);
    for (const std::string& layer : workload.layers) {
      expected.insert({workload.problem.rows, workload.problem.cols,
                       workload.problem.type});
      EXPECT_TRUE(by_layer.emplace(layer, &workload).second) << layer;
    }
  }
  EXPECT_EQ(source.packed, expected);

  const auto expect = [&](const std::string& layer, Operation operation,
                          size_t rows, size_t cols, double density) {
    ASSERT_TRUE(by_layer.contains(layer)) << layer;
    const Workload& workload = *by_layer.at(layer);
    EXPECT_EQ(workload.problem.operation, operation) << layer;
    EXPECT_EQ(workload.problem.rows, rows) << layer;
    EXPECT_EQ(workload.problem.cols, cols) << layer;
    EXPECT_DOUBLE_EQ(workload.density, density) << layer;
  };
  const Operation dense = Operation::kDense, mask = Operation::kColumnMask;
  expect("lm_head", dense, 301, 96, 1);
  expect("model.layers.0.self_attn.qkv.rank.B", dense, 70, 96, 1);
  expect("model.layers.0.self_attn.qkv.rank.A", mask, 160, 70, 0.5);
  expect("model.layers.0.mlp.gate_up.rank.B", dense, 129, 96, 1);
  expect("model.layers.0.mlp.gate_proj.rank.A", mask, 200, 49, 0.5);
  expect("model.layers.0.mlp.up_proj.rank.A", mask, 200, 80, 0.5);
  expect("model.layers.0.mlp.down_proj", mask, 96, 200, 0.5);
  expect("model.layers.1.self_attn.qkv", mask, 160, 96, 0.5);
  expect("model.layers.1.mlp.gate_up.rank.B", dense, 90, 96, 1);
  expect("model.layers.1.mlp.down_proj", dense, 96, 200, 1);
  expect("model.layers.2.mlp.gate_proj", dense, 200, 96, 1);
  expect("model.layers.2.mlp.up_proj.rank.B", dense, 64, 96, 1);
  EXPECT_EQ(by_layer.at("model.layers.0.mlp.down_proj")->keep_frequency,
            std::vector<float>(200, 0.5f));
  EXPECT_TRUE(
      by_layer.at("model.layers.0.mlp.up_proj.rank.A")->keep_frequency.empty());
}

// Layers that share a problem are averaged.
TEST_F(ForwardTest, WorkloadsAverageTheirLayers) {
  Adapter adapter;
  for (size_t layer = 0; layer < 2; ++layer) {
    const std::string name =
        "model.layers." + std::to_string(layer) + ".mlp.down_proj";
    const float density = layer == 0 ? 0.25f : 0.75f;
    adapter.masks[name] = UniformMask(name, config_.mlp, 0, density);
    adapter.masks[name].keep_frequency.assign(config_.mlp, density);
  }
  // The second one recorded no spread.
  adapter.masks.begin()->second.density_quantiles = {{"0.05", 0.15},
                                                     {"0.95", 0.4}};
  for (const Workload& workload : ModelWorkloads(config_, &adapter, {})) {
    if (workload.problem.operation != Operation::kColumnMask) continue;
    EXPECT_EQ(workload.layers.size(), 2);
    EXPECT_DOUBLE_EQ(workload.density, 0.5);
    // From the sparse tokens of the one to the dense ones of the other.
    EXPECT_DOUBLE_EQ(workload.density_p05, 0.15);
    EXPECT_DOUBLE_EQ(workload.density_p95, 0.75);
    EXPECT_EQ(workload.keep_frequency, std::vector<float>(config_.mlp, 0.5f));
  }
}

}  // namespace
}  // namespace rankforge
