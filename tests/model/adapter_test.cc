// Adapter files.
#include "runtime/model/format/adapter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "runtime/model/format/safetensors.h"
#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

using nlohmann::json;

Adapter Example() {
  Adapter adapter;
  adapter.method = "rana-paper";
  adapter.keep = 0.6;
  adapter.linear_flops_ratio = 0.599;
  adapter.checkpoint_hash = "0123";
  adapter.checkpoint_full_hash = "4567";
  adapter.calibration_hash = "89ab";
  adapter.calibration_tokens = 32000;
  adapter.parameters = {{"seed", "0"}};
  adapter.left_dense = {{"model.layers.0.self_attn.qkv", "GQA: does not pay"}};
  adapter.ranks["model.layers.0.mlp.up_proj"] = {
      .module = "model.layers.0.mlp.up_proj",
      .rows = 3,
      .cols = 4,
      .d = 2,
      .a = {1, 2, 3, 4, 5, 6},
      .b = {1, 2, 3, 4, 5, 6, 7, 8},
      .tau = {0.5f, INFINITY},
      .keep_frequency = {0.75f, 0.125f},
      .density = 0.4375,
      .density_quantiles = {{"0.05", 0.25}, {"0.95", 0.5}},
      .error = 0.01};
  adapter.masks["model.layers.0.mlp.down_proj"] = {
      .module = "model.layers.0.mlp.down_proj",
      .cols = 3,
      .tau = {0.1f, 0.2f, 0.3f},
      .gain = {1.5f, 1, 0.5f},
      .bias = {-1, 0, 1, 2},
      .keep_frequency = {},
      .density = 0.5,
      .density_quantiles = {},
      .error = 0.02};
  adapter.gates["model.layers.1.mlp.gate_up"] = {
      .module = "model.layers.1.mlp.gate_up",
      .cols = 3,
      .tau = {0.25f, 0.5f, 0.25f},
      .keep_frequency = {0.5f, 0.25f, 1},
      .density = 0.5,
      .density_quantiles = {},
      .error = 0.02};
  return adapter;
}

class AdapterTest : public testing::Test {
 protected:
  // Writes the example with its metadata and tensors changed by `change`.
  template <class Change>
  std::string ErrorAfter(Change change) {
    EXPECT_TRUE(SaveAdapter(Example(), path_).ok());
    const auto file = SafetensorsFile::Open(path_);
    EXPECT_TRUE(file.ok());
    json metadata = json::parse(file->metadata().at("rankforge"));
    std::map<std::string, std::string> strings;
    std::vector<SafetensorsWriter::Tensor> tensors;
    for (const auto& [name, info] : file->tensors()) {
      tensors.push_back({name, info.dtype, info.shape});
    }
    change(metadata, tensors);
    const std::string changed = folder_.File("changed.safetensors");
    auto writer = SafetensorsWriter::Create(changed, tensors,
                                            {{"rankforge", metadata.dump()}});
    EXPECT_TRUE(writer.ok());
    for (const auto& tensor : tensors) {
      size_t bytes = *SafetensorsElementBytes(tensor.dtype);
      for (const size_t extent : tensor.shape) bytes *= extent;
      EXPECT_TRUE(writer->Append(std::vector<std::byte>(bytes)).ok());
    }
    EXPECT_TRUE(writer->Commit().ok());
    const auto adapter = LoadAdapter(changed, "0123");
    EXPECT_FALSE(adapter.ok());
    const std::string& message = adapter.status().message();
    EXPECT_NE(message.find(changed), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message;
  }

  TemporaryFolder folder_;
  std::string path_ = folder_.File("a.safetensors");
};

TEST_F(AdapterTest, RoundTrip) {
  const Adapter written = Example();
  ASSERT_TRUE(SaveAdapter(written, path_).ok());
  EXPECT_EQ(folder_.Files(), std::vector<std::string>{"a.safetensors"});
  const auto read = LoadAdapter(path_, "0123");
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->method, written.method);
  EXPECT_EQ(read->keep, written.keep);
  EXPECT_EQ(read->linear_flops_ratio, written.linear_flops_ratio);
  EXPECT_EQ(read->checkpoint_hash, written.checkpoint_hash);
  EXPECT_EQ(read->checkpoint_full_hash, written.checkpoint_full_hash);
  EXPECT_EQ(read->calibration_hash, written.calibration_hash);
  EXPECT_EQ(read->calibration_tokens, written.calibration_tokens);
  EXPECT_EQ(read->parameters, written.parameters);
  EXPECT_EQ(read->left_dense, written.left_dense);
  ASSERT_EQ(read->ranks.size(), 1);
  const RankAdapter& rank = read->ranks.begin()->second;
  const RankAdapter& expected = written.ranks.begin()->second;
  EXPECT_EQ(rank.module, expected.module);
  EXPECT_EQ(rank.rows, expected.rows);
  EXPECT_EQ(rank.cols, expected.cols);
  EXPECT_EQ(rank.d, expected.d);
  EXPECT_EQ(rank.a, expected.a);
  EXPECT_EQ(rank.b, expected.b);
  EXPECT_EQ(rank.tau, expected.tau);
  EXPECT_EQ(rank.keep_frequency, expected.keep_frequency);
  EXPECT_EQ(rank.density, expected.density);
  EXPECT_EQ(rank.density_quantiles, expected.density_quantiles);
  EXPECT_EQ(rank.error, expected.error);
  ASSERT_EQ(read->masks.size(), 1);
  const InputMask& mask = read->masks.begin()->second;
  EXPECT_EQ(mask.module, "model.layers.0.mlp.down_proj");
  EXPECT_EQ(mask.cols, 3);
  EXPECT_EQ(mask.tau, written.masks.begin()->second.tau);
  EXPECT_EQ(mask.gain, written.masks.begin()->second.gain);
  EXPECT_EQ(mask.bias, written.masks.begin()->second.bias);
  EXPECT_EQ(mask.density, 0.5);
  ASSERT_EQ(read->gates.size(), 1);
  const GateMask& gate = read->gates.begin()->second;
  EXPECT_EQ(gate.module, "model.layers.1.mlp.gate_up");
  EXPECT_EQ(gate.cols, 3);
  EXPECT_EQ(gate.tau, written.gates.begin()->second.tau);
  EXPECT_EQ(gate.keep_frequency, written.gates.begin()->second.keep_frequency);
}

TEST_F(AdapterTest, KeepFrequencyIsATensor) {
  ASSERT_TRUE(SaveAdapter(Example(), path_).ok());
  const auto file = SafetensorsFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file->metadata().at("rankforge").find("keep_frequency"),
            std::string::npos);
  const auto values = [&](const std::string& name, size_t count) {
    const auto floats = file->Floats(name, std::vector<size_t>{count});
    EXPECT_TRUE(floats.ok()) << floats.status().message();
    return floats.ok() ? *floats : std::vector<float>();
  };
  EXPECT_EQ(values("model.layers.0.mlp.up_proj.rank.keep_frequency", 2),
            (std::vector<float>{0.75f, 0.125f}));
  EXPECT_EQ(values("model.layers.1.mlp.gate_up.gate.keep_frequency", 3),
            (std::vector<float>{0.5f, 0.25f, 1}));
  // Nothing was recorded for this one.
  EXPECT_FALSE(file->tensors().contains(
      "model.layers.0.mlp.down_proj.mask.keep_frequency"));
}

TEST_F(AdapterTest, KeepFrequencyMustBeShares) {
  for (const float wrong : {-3.0f, 1.5f, NAN}) {
    Adapter adapter = Example();
    adapter.ranks.begin()->second.keep_frequency[1] = wrong;
    ASSERT_TRUE(SaveAdapter(adapter, path_).ok());
    const auto read = LoadAdapter(path_, "0123");
    ASSERT_FALSE(read.ok());
    EXPECT_NE(read.status().message().find("keep_frequency"), std::string::npos)
        << read.status().message();
  }
}

TEST_F(AdapterTest, GainsComeWithBiasesAndAreNumbers) {
  const std::string module = "model.layers.0.mlp.down_proj.mask.";
  for (const std::string missing : {"gain", "bias"}) {
    const std::string message = ErrorAfter([&](json&, auto& tensors) {
      std::erase_if(tensors, [&](const auto& tensor) {
        return tensor.name == module + missing;
      });
    });
    EXPECT_NE(message.find(module + missing), std::string::npos) << message;
  }
  const std::string of_gate = ErrorAfter([&](json&, auto& tensors) {
    tensors.push_back({"model.layers.1.mlp.gate_up.gate.gain", "F32", {3}});
  });
  EXPECT_NE(of_gate.find("gate.gain"), std::string::npos) << of_gate;

  Adapter adapter = Example();
  adapter.masks.begin()->second.gain[1] = NAN;
  ASSERT_TRUE(SaveAdapter(adapter, path_).ok());
  const auto read = LoadAdapter(path_, "0123");
  ASSERT_FALSE(read.ok());
  EXPECT_NE(read.status().message().find(module + "gain' has nan at 1"),
            std::string::npos)
      << read.status().message();
}

TEST_F(AdapterTest, AChangedByteIsFound) {
  ASSERT_TRUE(SaveAdapter(Example(), path_).ok());
  ASSERT_TRUE(LoadAdapter(path_, "0123").ok());
  const std::string whole = ReadAll(path_);
  const auto expect_error = [&](size_t at, AdapterParts parts) {
    std::string changed = whole;
    changed[at] = static_cast<char>(changed[at] ^ 1);
    // A file of its own: stamps of one that is written twice may be equal.
    const std::string path = folder_.File(std::to_string(at));
    WriteAll(path, changed);
    const auto read = LoadAdapter(path, "0123", parts);
    ASSERT_FALSE(read.ok()) << at;
    EXPECT_NE(read.status().message().find(path), std::string::npos)
        << read.status().message();
  };
  for (size_t at = 0; at < whole.size(); at += 11) {
    expect_error(at, AdapterParts::kAll);
  }
  const auto file = SafetensorsFile::Open(path_);
  ASSERT_TRUE(file.ok());
  const size_t begin = whole.size() - file->data().size();
  for (const auto& [name, info] : file->tensors()) {
    expect_error(begin + info.begin, AdapterParts::kAll);
    expect_error(begin + info.end - 1, AdapterParts::kWithoutMatrices);
  }
}

// Files of older builds have the shares in their metadata, and no hash.
TEST_F(AdapterTest, OldFormHasKeepFrequencyInItsMetadata) {
  ASSERT_TRUE(SaveAdapter(Example(), path_).ok());
  const auto file = SafetensorsFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status().message();
  json metadata = json::parse(file->metadata().at("rankforge"));
  const auto first = [&](const char* kind) -> json& {
    return metadata[kind].begin().value();
  };
  first("ranks")["keep_frequency"] = {0.7501, 0.125};
  first("masks")["keep_frequency"] = json::array();
  first("gates")["keep_frequency"] = {0.5, 0.25, 1.0};
  std::vector<SafetensorsWriter::Tensor> tensors;
  for (const auto& [name, info] : file->tensors()) {
    if (name.ends_with("keep_frequency") || name == "rankforge.file_hash") {
      continue;
    }
    tensors.push_back({name, info.dtype, info.shape});
  }
  const std::string old_path = folder_.File("old.safetensors");
  auto writer = SafetensorsWriter::Create(old_path, tensors,
                                          {{"rankforge", metadata.dump()}});
  ASSERT_TRUE(writer.ok()) << writer.status().message();
  for (const auto& tensor : tensors) {
    const auto bytes = file->Bytes(tensor.name, tensor.dtype, tensor.shape);
    ASSERT_TRUE(bytes.ok()) << bytes.status().message();
    ASSERT_TRUE(writer->Append(*bytes).ok());
  }
  ASSERT_TRUE(writer->Commit().ok());

  const auto read = LoadAdapter(old_path, "0123");
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->ranks.begin()->second.keep_frequency,
            (std::vector<float>{0.7501f, 0.125f}));
  EXPECT_EQ(read->ranks.begin()->second.tau,
            Example().ranks.begin()->second.tau);
  EXPECT_TRUE(read->masks.begin()->second.keep_frequency.empty());
  EXPECT_EQ(read->gates.begin()->second.keep_frequency,
            (std::vector<float>{0.5f, 0.25f, 1}));
}

TEST_F(AdapterTest, OfAnotherCheckpoint) {
  ASSERT_TRUE(SaveAdapter(Example(), path_).ok());
  const auto adapter = LoadAdapter(path_, "ffff");
  ASSERT_FALSE(adapter.ok());
  const std::string& message = adapter.status().message();
  for (const char* part :
       {"a.safetensors", "checkpoint.identity", "0123", "ffff"}) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
}

TEST_F(AdapterTest, WrongMetadata) {
  using Tensors = std::vector<SafetensorsWriter::Tensor>;
  const auto expect = [&](const std::string& part, auto change) {
    const std::string message = ErrorAfter(change);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect("format", [](json& metadata, Tensors&) {
    metadata["format"] = "rankforge-adapter/9";
  });
  expect("metadata", [](json& metadata, Tensors&) { metadata = 3; });
  expect("ranks", [](json& metadata, Tensors&) { metadata.erase("ranks"); });
  for (const char* field :
       {"d", "rows", "cols", "density", "keep_frequency", "error"}) {
    expect("metadata", [&](json& metadata, Tensors&) {
      metadata["ranks"].begin().value()[field] = "x";
    });
  }
  // Sizes that disagree with the tensors, up to absurd ones.
  for (const uint64_t size : {uint64_t{0}, uint64_t{5}, ~uint64_t{0}}) {
    expect("rank.", [&](json& metadata, Tensors&) {
      metadata["ranks"].begin().value()["d"] = size;
    });
    expect("mask.tau", [&](json& metadata, Tensors&) {
      metadata["masks"].begin().value()["cols"] = size;
    });
    expect("gate.tau", [&](json& metadata, Tensors&) {
      metadata["gates"].begin().value()["cols"] = size;
    });
  }
  expect("density", [](json& metadata, Tensors&) {
    metadata["masks"].begin().value()["density"] = 1.5;
  });
  expect("metadata", [](json& metadata, Tensors&) { metadata["gates"] = 3; });
  expect("keep_frequency", [](json& metadata, Tensors&) {
    metadata["ranks"].begin().value()["keep_frequency"] = {0.5};
  });
  expect("keep_frequency", [](json& metadata, Tensors&) {
    metadata["ranks"].begin().value()["keep_frequency"] = {0.5, -3};
  });
  expect("missing",
         [](json&, Tensors& tensors) { tensors.erase(tensors.begin()); });
  expect("no module", [](json&, Tensors& tensors) {
    tensors.push_back({"model.extra", "F32", {1}});
  });
  expect("F16", [](json&, Tensors& tensors) { tensors[0].dtype = "F16"; });
}

TEST_F(AdapterTest, NoAdapterFile) {
  EXPECT_FALSE(LoadAdapter(path_, "0123").ok());
  const auto checkpoint = LoadAdapter(
      CheckpointFolder("llama-gqa-7m") + "/model.safetensors", "0123");
  ASSERT_FALSE(checkpoint.ok());
  EXPECT_NE(checkpoint.status().message().find("no adapter file"),
            std::string::npos);
  // A truncated adapter.
  ASSERT_TRUE(SaveAdapter(Example(), path_).ok());
  const std::string contents = ReadAll(path_);
  WriteAll(path_, contents.substr(0, contents.size() - 1));
  EXPECT_FALSE(LoadAdapter(path_, "0123").ok());
}

TEST_F(AdapterTest, UnwritablePlace) {
  const Status status = SaveAdapter(Example(), folder_.File("none/a.st"));
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find("none/a.st"), std::string::npos);
  EXPECT_TRUE(folder_.Files().empty());
  Adapter wrong = Example();
  wrong.method = "\xff";
  EXPECT_FALSE(SaveAdapter(wrong, path_).ok());
  wrong = Example();
  wrong.ranks.begin()->second.a.pop_back();
  EXPECT_FALSE(SaveAdapter(wrong, path_).ok());
  EXPECT_TRUE(folder_.Files().empty());
}

}  // namespace
}  // namespace rankforge
