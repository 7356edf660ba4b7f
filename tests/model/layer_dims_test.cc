// Models whose inner sizes differ by layer: the same as their dense model with
// zeros in place of what they lack.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "runtime/model/format/checkpoint.h"
#include "runtime/model/format/family.h"
#include "runtime/model/weights/modules.h"
#include "runtime/model/weights/weights_over.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

using nlohmann::json;
using Indices = std::vector<size_t>;

Indices Range(size_t begin, size_t end) {
  Indices range(end - begin);
  std::iota(range.begin(), range.end(), begin);
  return range;
}

void Append(const Indices& more, size_t offset, Indices& to) {
  for (const size_t i : more) to.push_back(offset + i);
}

ModelConfig DenseConfig(const std::string& family) {
  ModelConfig config = FindFamily(family)->defaults;
  config.hidden = 48;
  config.layers = 3;
  config.heads = 4;
  config.kv_heads = FindFamily(family)->groups_heads ? 2 : 4;
  config.head_dim = 32;
  if (!FindFamily(family)->rotary_share.empty()) config.rotary_share = 0.5;
  config.mlp = 72;
  config.vocab = 61;
  config.max_positions = 128;
  return config;
}

// Which of a layer's inner channels are kept.
struct Kept {
  std::vector<Indices> qk;  // by KV head, within the head
  std::vector<Indices> vo;
  Indices mlp;
};

// Layer 0 keeps other pairs in every head, layer 1 all of them (and, where a
// part is rotated, less of the rest), layer 2 one pair.
std::vector<Kept> KeptOf(const ModelConfig& dense, ModelConfig& shrunk) {
  const size_t half = dense.rotary_dim() / 2;
  const size_t rest = dense.head_dim - dense.rotary_dim();
  std::vector<Kept> kept(dense.layers);
  shrunk = dense;
  for (size_t layer = 0; layer < dense.layers; ++layer) {
    const size_t pairs = layer == 0 ? 5 : layer == 1 ? half : 1;
    const size_t unrotated = rest == 0 ? 0 : layer == 2 ? rest : 3 + layer;
    const size_t vo = layer == 0 ? dense.head_dim : 7 * layer;
    LayerDims dims = {.qk = 2 * pairs + unrotated,
                      .vo = vo,
                      .mlp = layer == 1 ? dense.mlp : 30 + layer};
    for (size_t head = 0; head < dense.kv_heads; ++head) {
      Indices chosen;
      for (size_t i = 0; i < pairs; ++i) {
        chosen.push_back(layer == 1 ? i : head % 3 + i);
      }
      Indices channels;
      Append(chosen, 0, channels);
      Append(chosen, half, channels);
      Append(Range(0, unrotated), dense.rotary_dim(), channels);
      kept[layer].qk.push_back(channels);
      kept[layer].vo.push_back(Range(dense.head_dim - vo, dense.head_dim));
      if (layer != 1) {
        dims.rotary_pairs.emplace_back(chosen.begin(), chosen.end());
      }
    }
    kept[layer].mlp = Range(2, 2 + dims.mlp);
    if (dims.mlp == dense.mlp) kept[layer].mlp = Range(0, dense.mlp);
    shrunk.layer_dims.push_back(dims);
  }
  return kept;
}

// Rows and columns of a dense tensor; `rows` of a vector are its elements.
struct Selection {
  Indices rows, cols;
};

// The dense model's weights, of which only what `selections` names is left: cut
// out, or in its place with zeros around.
class SelectedWeights : public WeightsOver {
 public:
  SelectedWeights(const WeightSource& base,
                  const std::vector<TensorShape>& tensors,
                  std::map<std::string, Selection> selections, bool cut)
      : WeightsOver(base), selections_(std::move(selections)), cut_(cut) {
    for (const TensorShape& tensor : tensors) shapes_[tensor.name] = tensor;
  }

  Result<PackedMatrix> Pack(std::span<const std::string> names,
                            std::span<const size_t> rows, size_t cols,
                            WeightType type, Layout layout) const override {
    std::vector<std::vector<float>> values(names.size());
    std::vector<SourceMatrix> parts;
    for (size_t i = 0; i < names.size(); ++i) {
      values[i] = Selected(names[i]);
      EXPECT_EQ(values[i].size(), rows[i] * cols) << names[i];
      parts.push_back(
          {.data = values[i].data(), .rows = rows[i], .cols = cols});
    }
    return PackedMatrix::Pack(parts, type, layout);
  }
  Result<std::vector<float>> Vector(const std::string& name,
                                    size_t n) const override {
    const auto found = selections_.find(name);
    if (found == selections_.end()) return base().Vector(name, n);
    const std::vector<float> all =
        base().Vector(name, shapes_.at(name).cols).value();
    std::vector<float> selected(cut_ ? 0 : all.size());
    for (const size_t i : found->second.rows) {
      if (cut_) {
        selected.push_back(all[i]);
      } else {
        selected[i] = all[i];
      }
    }
    EXPECT_EQ(selected.size(), n) << name;
    return selected;
  }

 private:
  std::vector<float> Selected(const std::string& name) const {
    const TensorShape& shape = shapes_.at(name);
    const auto found = selections_.find(name);
    const Selection selection =
        found == selections_.end()
            ? Selection{Range(0, shape.rows), Range(0, shape.cols)}
            : found->second;
    const PackedMatrix all = base()
                                 .Pack({{name}}, {{shape.rows}}, shape.cols,
                                       WeightType::kF32, Layout::kOutIn)
                                 .value();
    std::vector<float> values(cut_ ? 0 : shape.rows * shape.cols);
    for (const size_t row : selection.rows) {
      for (const size_t col : selection.cols) {
        if (cut_) {
          values.push_back(all.At(row, col));
        } else {
          values[row * shape.cols + col] = all.At(row, col);
        }
      }
    }
    return values;
  }

  std::map<std::string, TensorShape> shapes_;
  std::map<std::string, Selection> selections_;
  bool cut_;
};

// What of each tensor of the dense model is kept.
std::map<std::string, Selection> SelectionsOf(const ModelConfig& dense,
                                              const std::vector<Kept>& kept) {
  std::map<std::string, Selection> selections;
  const size_t dim = dense.head_dim;
  const size_t group = dense.heads / dense.kv_heads;
  const std::vector<BlockSpec> blocks = DescribeModel(dense, nullptr).blocks;
  for (size_t layer = 0; layer < dense.layers; ++layer) {
    Indices q, k, v, o, by_head;
    for (size_t head = 0; head < dense.heads; ++head) {
      const Indices& qk = kept[layer].qk[head / group];
      const Indices& vo = kept[layer].vo[head / group];
      Append(qk, head * dim, q);
      Append(vo, head * dim, o);
      Append(qk, 3 * head * dim, by_head);
      Append(qk, (3 * head + 1) * dim, by_head);
      Append(vo, (3 * head + 2) * dim, by_head);
      if (head % group == 0) {
        Append(qk, head / group * dim, k);
        Append(vo, head / group * dim, v);
      }
    }
    const auto add = [&](const ProjectionSpec& projection,
                         const std::vector<Indices>& rows,
                         const Indices* cols) {
      const ProductSpec& product = projection.direct.front();
      for (size_t i = 0; i < product.tensors.size(); ++i) {
        const TensorShape& tensor = product.tensors[i];
        selections[tensor.name] = {
            rows.empty() ? Range(0, tensor.rows) : rows[i],
            cols == nullptr ? Range(0, tensor.cols) : *cols};
        if (!rows.empty() && !product.biases.empty()) {
          selections[product.biases[i].name] = {rows[i], {}};
        }
      }
    };
    add(blocks[layer][Site::kAttentionInput],
        dense.qkv_by_head ? std::vector<Indices>{by_head}
                          : std::vector<Indices>{q, k, v},
        nullptr);
    add(blocks[layer][Site::kAttentionOutput], {}, &o);
    add(blocks[layer][Site::kMlpInput], {2, kept[layer].mlp}, nullptr);
    add(blocks[layer][Site::kMlpHidden], {}, &kept[layer].mlp);
  }
  return selections;
}

class LayerDimsTest : public testing::TestWithParam<std::string> {
 protected:
  ModelConfig dense_ = DenseConfig(GetParam());
  ModelConfig shrunk_;
  std::vector<Kept> kept_ = KeptOf(dense_, shrunk_);
  std::vector<int> ids_ = SyntheticIds(dense_, 40, 3);
};

TEST_P(LayerDimsTest, EqualTheDenseModelWithZeros) {
  const SyntheticWeights base(dense_, 11);
  const std::vector<TensorShape> tensors = CheckpointTensors(dense_);
  const auto selections = SelectionsOf(dense_, kept_);
  const SelectedWeights zeroed(base, tensors, selections, false);
  const SelectedWeights cut(base, tensors, selections, true);
  Model expected = MakeModel(dense_, zeroed);
  const std::vector<float> logits = DecodeLogits(expected, ids_);
  Model unchanged = MakeModel(dense_, base);
  EXPECT_GT(LargestDifference(DecodeLogits(unchanged, ids_), logits), 0.1f);
  for (const size_t threads : {1, 2}) {
    Model model = MakeModel(shrunk_, cut, nullptr, {.threads = threads});
    EXPECT_LT(LargestDifference(DecodeLogits(model, ids_), logits), 2e-4f);
    EXPECT_LT(LargestDifference(PrefillLogits(model, ids_), logits), 2e-4f);
  }
}

TEST_P(LayerDimsTest, PrefillAgreesWithDecode) {
  const SyntheticWeights weights(shrunk_, 4);
  for (const WeightType kv : kKvTypes) {
    Model model = MakeModel(shrunk_, weights, nullptr, {.kv_type = kv});
    const std::vector<float> decoded = DecodeLogits(model, ids_);
    EXPECT_LT(LargestDifference(PrefillLogits(model, ids_), decoded),
              kv == WeightType::kF32 ? 2e-4f : 3e-2f);
    EXPECT_EQ(DecodeTogether(model, ids_, 5), decoded);
  }
}

TEST_P(LayerDimsTest, CachesAreAsLargeAsTheirLayers) {
  constexpr size_t kCapacity = 10;
  size_t keys = 0, values = 0;
  for (const LayerDims& dims : shrunk_.layer_dims) {
    keys += dims.qk;
    values += RoundUp(dims.vo, kKvMultiple);
  }
  const KvCache cache(shrunk_, WeightType::kBf16, kCapacity);
  EXPECT_EQ(cache.bytes(),
            (RoundUp(kCapacity, kAttentionBlock) * keys + kCapacity * values) *
                shrunk_.kv_heads * 2);
  EXPECT_EQ(cache.position_bytes(), (keys + values) * shrunk_.kv_heads * 2);
  const KvCache dense(dense_, WeightType::kBf16, kCapacity);
  EXPECT_LT(cache.bytes(), 0.8 * static_cast<double>(dense.bytes()));
  EXPECT_TRUE(cache.Fits(shrunk_));
  EXPECT_FALSE(cache.Fits(dense_));
  EXPECT_FALSE(dense.Fits(shrunk_));
}

TEST_P(LayerDimsTest, CheckpointsAreWrittenAndReadBack) {
  TemporaryFolder folder;
  ASSERT_TRUE(WriteSyntheticCheckpoint(shrunk_, 5, folder.path()).ok());
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ(checkpoint->config(), shrunk_);
  Model model = MakeModel(shrunk_, *checkpoint);
  const SyntheticWeights weights(shrunk_, 5);
  Model synthetic = MakeModel(shrunk_, weights);
  EXPECT_EQ(DecodeLogits(synthetic, ids_), DecodeLogits(model, ids_));
}

TEST_P(LayerDimsTest, WorkIsThatOfTheLayers) {
  const SyntheticWeights weights(shrunk_, 5);
  Model model = MakeModel(shrunk_, weights);
  DecodeLogits(model, ids_);
  size_t macs = 0;
  for (const TensorShape& tensor : CheckpointTensors(shrunk_)) {
    const bool linear = tensor.rows > 1 && tensor.rows != shrunk_.vocab;
    if (linear) macs += tensor.rows * tensor.cols;
  }
  EXPECT_EQ(shrunk_.LinearMacs(), macs);
  EXPECT_EQ(model.counters().block_macs,
            static_cast<double>(ids_.size() * macs));
  const auto adapter = SyntheticAdapter(shrunk_, 0.9);
  ASSERT_TRUE(adapter.ok()) << adapter.status().message();
  EXPECT_TRUE(CheckAdapter(shrunk_, *adapter).ok());
  EXPECT_FALSE(CheckAdapter(dense_, *adapter).ok());
}

INSTANTIATE_TEST_SUITE_P(Families, LayerDimsTest,
                         testing::Values("llama", "gemma", "qwen2", "gpt_neox"),
                         [](const auto& info) { return info.param; });

// Sizes and indices from outside.
class LayerDimsConfigTest : public testing::Test {
 protected:
  void SetUp() override {
    ModelConfig shrunk;
    KeptOf(DenseConfig("gpt_neox"), shrunk);
    ASSERT_TRUE(SaveConfig(shrunk, folder_.path()).ok());
    config_ = json::parse(ReadAll(folder_.File("config.json")));
    ASSERT_TRUE(LoadConfig(folder_.path()).ok());
  }
  void ExpectError(const json& config, const std::string& field) {
    WriteAll(folder_.File("config.json"), config.dump());
    const auto loaded = LoadConfig(folder_.path());
    ASSERT_FALSE(loaded.ok()) << config["layer_dims"];
    const std::string& message = loaded.status().message();
    EXPECT_NE(message.find("config.json"), std::string::npos) << message;
    EXPECT_NE(message.find("'layer_dims'"), std::string::npos) << message;
    EXPECT_NE(message.find("'" + field + "'"), std::string::npos) << message;
    EXPECT_LT(message.size(), 300) << message;
  }

  TemporaryFolder folder_;
  json config_;
};

TEST_F(LayerDimsConfigTest, WrongSizes) {
  for (const char* field : {"qk_head_dim", "v_head_dim", "intermediate_size"}) {
    for (const json& value :
         {json(0), json(-1), json(1.5), json("8"), json(1u << 30),
          json(uint64_t{1} << 63), json::array({1})}) {
      json config = config_;
      config["layer_dims"][1][field] = value;
      ExpectError(config, field);
    }
  }
  json config = config_;
  // Layer 0 rotates ten elements; sixteen of the model's are not rotated.
  for (const size_t qk : {9, 27}) {
    config["layer_dims"][0]["qk_head_dim"] = qk;
    ExpectError(config, "qk_head_dim");
  }
}

TEST_F(LayerDimsConfigTest, WrongPairs) {
  const json lists = config_["layer_dims"][0]["rotary_pairs"];
  const auto expect_error = [&](const json& pairs) {
    json config = config_;
    config["layer_dims"][0]["rotary_pairs"] = pairs;
    ExpectError(config, "rotary_pairs");
  };
  for (const json& value : {json(7), json("all"), json::object()}) {
    expect_error(value);
    json changed = lists;
    changed[1] = value;
    expect_error(changed);
  }
  json fewer = lists;
  fewer.erase(0);
  expect_error(fewer);
  json shorter = lists;
  shorter[2].erase(0);
  expect_error(shorter);
  for (const json& index : {json(8), json(-1), json(1.0),
                            json(uint64_t{1} << 40), json("1"), lists[0][1]}) {
    json changed = lists;
    changed[0][0] = index;
    expect_error(changed);
  }
  expect_error(
      json::array({Range(0, 9), Range(0, 9), Range(0, 9), Range(0, 9)}));
}

TEST_F(LayerDimsConfigTest, WrongLists) {
  for (const json& value :
       {json(1), json("x"), json::object(), json::array(),
        json::array({1, 2, 3}), json::array({config_["layer_dims"][0]})}) {
    json config = config_;
    config["layer_dims"] = value;
    ExpectError(config, "layer_dims");
  }
}

// What is not said is the model's.
TEST_F(LayerDimsConfigTest, AbsentFieldsAreTheModels) {
  json config = config_;
  config["layer_dims"] = {json::object(), json::object(), json::object()};
  WriteAll(folder_.File("config.json"), config.dump());
  const auto loaded = LoadConfig(folder_.path());
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  const ModelConfig dense = DenseConfig("gpt_neox");
  EXPECT_EQ(loaded->LinearMacs(), dense.LinearMacs());
  EXPECT_EQ(loaded->rotated(1), dense.rotary_dim());
}

// The rest of config.json stays as it was.
TEST_F(LayerDimsConfigTest, ShrunkConfigsKeepWhatTheSourceSays) {
  config_["pad_token_id"] = 17;
  WriteAll(folder_.File("config.json"), config_.dump());
  ModelConfig config = LoadConfig(folder_.path()).value();
  config.layer_dims[0].mlp = 3;
  TemporaryFolder out;
  ASSERT_TRUE(
      SaveShrunkConfig(config, folder_.path(), "file.Class", out.path()).ok());
  EXPECT_EQ(LoadConfig(out.path()).value(), config);
  const json saved = json::parse(ReadAll(out.File("config.json")));
  EXPECT_EQ(saved["pad_token_id"], 17);
  EXPECT_EQ(saved["auto_map"]["AutoModelForCausalLM"], "file.Class");
  // All layers alike: an ordinary config.
  config.layer_dims.clear();
  config.mlp = 40;
  ASSERT_TRUE(
      SaveShrunkConfig(config, out.path(), "file.Class", folder_.path()).ok());
  EXPECT_EQ(LoadConfig(folder_.path()).value(), config);
  EXPECT_FALSE(
      json::parse(ReadAll(folder_.File("config.json"))).contains("auto_map"));
}

}  // namespace
}  // namespace rankforge
