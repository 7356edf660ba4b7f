#include "tests/model/model_testing.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <string_view>

#include "runtime/model/weights/modules.h"

namespace rankforge {

namespace fs = std::filesystem;

std::string CheckpointFolder(const std::string& name) {
  const fs::path root = RANKFORGE_SOURCE_DIR;
  for (const fs::path& folder :
       {root / "examples/models" / name, root / "../shared/models" / name}) {
    if (fs::exists(folder / "config.json")) return folder.string();
  }
  return "";
}

std::string SharedFile(const std::string& name) {
  const fs::path path = fs::path(RANKFORGE_SOURCE_DIR) / "../shared" / name;
  return fs::exists(path) ? path.string() : "";
}

bool InCi() {
  const char* const ci = std::getenv("CI");
  return ci != nullptr && std::string_view(ci) == "true";
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (fs::temp_directory_path() / "rankforge-XXXXXX").string();
  const char* made = mkdtemp(name.data());
  EXPECT_NE(made, nullptr) << name;
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::vector<std::string> TemporaryFolder::Files() const {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(path_)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

void WriteAll(const std::string& path, const std::string& contents) {
  std::ofstream file(path, std::ios::binary);
  file << contents;
  EXPECT_TRUE(file.good()) << path;
}

Model MakeModel(const ModelConfig& config, const WeightSource& source,
                const Adapter* adapter, const ModelOptions& options) {
  Result<Model> model =
      Model::Create(config, source, adapter, Dispatcher(nullptr), options,
                    MakeDefaultExecutor(options.threads));
  EXPECT_TRUE(model.ok()) << model.status().message();
  return std::move(model).value();
}

void AddMasks(const ModelConfig& config, float tau, Adapter& adapter) {
  for (const BlockSpec& block : DescribeModel(config, nullptr).blocks) {
    for (const ProjectionSpec& projection : block.projections) {
      InputMask& mask = adapter.masks[projection.name];
      mask.module = projection.name;
      mask.cols = projection.cols;
      mask.tau.assign(projection.cols, tau);
      mask.density = 1;
    }
  }
}

ModelConfig TinyConfig() {
  return {.family = "llama",
          .hidden = 96,
          .layers = 3,
          .heads = 6,
          .kv_heads = 2,
          .head_dim = 16,
          .mlp = 200,
          .vocab = 301,
          .max_positions = 1024};
}

std::vector<float> DecodeLogits(Model& model, std::span<const int> ids) {
  const size_t vocab = model.config().vocab;
  KvCache cache(model.config(), model.options().kv_type, ids.size());
  std::vector<float> logits(ids.size() * vocab);
  for (size_t i = 0; i < ids.size(); ++i) {
    const Status status = model.Forward(ids.subspan(i, 1), cache,
                                        {logits.data() + i * vocab, vocab});
    EXPECT_TRUE(status.ok()) << status.message();
  }
  return logits;
}

std::vector<float> DecodeTogether(Model& model, std::span<const int> ids,
                                  size_t tokens) {
  const size_t vocab = model.config().vocab;
  KvCache cache(model.config(), model.options().kv_type, ids.size());
  std::vector<float> logits(ids.size() * vocab);
  for (size_t i = 0; i < ids.size(); i += tokens) {
    const size_t count = std::min(tokens, ids.size() - i);
    const Status status =
        model.Decode(ids.subspan(i, count), cache,
                     {logits.data() + i * vocab, count * vocab});
    EXPECT_TRUE(status.ok()) << status.message();
  }
  return logits;
}

std::vector<float> PrefillLogits(Model& model, std::span<const int> ids) {
  KvCache cache(model.config(), model.options().kv_type, ids.size());
  std::vector<float> logits(ids.size() * model.config().vocab);
  const Status status = model.Forward(ids, cache, logits, /*all_logits=*/true);
  EXPECT_TRUE(status.ok()) << status.message();
  return logits;
}

std::vector<int> IdsOf(const SafetensorsFile& file, const std::string& name) {
  const auto info = file.tensors().find(name);
  if (info == file.tensors().end()) {
    ADD_FAILURE() << file.path() << " has no " << name;
    return {};
  }
  const auto bytes = file.Bytes(name, "I32", info->second.shape);
  EXPECT_TRUE(bytes.ok()) << bytes.status().message();
  std::vector<int32_t> ids(bytes->size() / sizeof(int32_t));
  std::memcpy(ids.data(), bytes->data(), bytes->size());
  return {ids.begin(), ids.end()};
}

float LargestDifference(std::span<const float> a, std::span<const float> b) {
  constexpr float kNone = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(a.size(), b.size());
  if (a.size() != b.size()) return kNone;
  float largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;  // equal infinities too
    const float difference = std::fabs(a[i] - b[i]);
    if (std::isnan(difference)) return kNone;
    largest = std::max(largest, difference);
  }
  return largest;
}

}  // namespace rankforge
