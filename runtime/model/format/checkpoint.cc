#include "runtime/model/format/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "base/atomic_file.h"
#include "base/content_hash.h"
#include "base/files.h"
#include "base/hash_cache.h"
#include "base/json_fields.h"
#include "runtime/model/format/family.h"
#include "runtime/model/format/float8_weights.h"
#include "runtime/model/format/gguf_model.h"
#include "runtime/model/format/gguf_tokenizer.h"
#include "runtime/model/format/safetensors.h"
#include "runtime/plan/source_weight.h"

namespace rankforge {

namespace {

using nlohmann::json;

constexpr char kIndex[] = "model.safetensors.index.json";

// Files of a folder that its readers need, besides the weights.
constexpr std::string_view kSettings[] = {"config.json",
                                          "tokenizer.model",
                                          "tokenizer.json",
                                          "tokenizer_config.json",
                                          "special_tokens_map.json",
                                          "added_tokens.json",
                                          "vocab.json",
                                          "merges.txt",
                                          "chat_template.jinja",
                                          "generation_config.json"};
constexpr size_t kMaxSettingsBytes = size_t{256} << 20;

// The names of the tensors of each shard file, as the index lists them.
Result<std::map<std::string, std::vector<std::string>>> ReadIndex(
    const std::string& path) {
  constexpr size_t kMaxIndexBytes = size_t{64} << 20;
  const auto wrong = [&](const std::string& what) {
    return Failed(fmt::format("{}: {}; download it again", path, what));
  };
  RANKFORGE_ASSIGN_OR_RETURN(const std::string text,
                             ReadTextFile(path, kMaxIndexBytes));
  const Result<json> parsed = ParseJson(text, {.unique_keys = false});
  if (!parsed.ok()) return wrong(parsed.status().message());
  const json& index = *parsed;
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object() || map->empty()) {
    return wrong("'weight_map' is not an object with tensors");
  }
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [name, file] : map->items()) {
    const std::string shard = file.is_string() ? file.get<std::string>() : "";
    // A shard must lie beside its index; a path could lead anywhere.
    if (shard.empty() || shard.find('/') != std::string::npos) {
      return wrong(
          fmt::format("'weight_map' field '{}' is {}, not the name of "
                      "a file in this folder",
                      name, file.dump(-1, ' ', true)));
    }
    shards[shard].push_back(name);
  }
  return shards;
}

std::string HashOfAll(std::span<const FileParts> files) {
  ContentHash hash;
  for (const FileParts& part : files) {
    hash.Add(part.header);
    // In parts, because a checkpoint may be larger than memory.
    constexpr size_t kPart = size_t{64} << 20;
    std::span<const std::byte> data = part.data;
    hash.Begin(data.size());
    while (!data.empty()) {
      const size_t count = std::min(kPart, data.size());
      hash.Continue(data.first(count));
      data = data.subspan(count);
      part.file->ReleasePages();
    }
  }
  return hash.Digest();
}

}  // namespace

bool IsCheckpointFile(std::string_view name) {
  const bool weights =
      name.ends_with(".gguf") ||
      (name.starts_with("model") && name.ends_with(".safetensors"));
  return weights || name == kIndex ||
         std::ranges::find(kSettings, name) != std::end(kSettings);
}

// What the two kinds of checkpoints have in common.
struct Checkpoint::Impl {
  virtual ~Impl() = default;
  virtual Result<SourceMatrix> Matrix(const std::string& name, size_t rows,
                                      size_t cols) const = 0;
  // Matrix, or the widened values of 8-bit floats, which `values` then holds.
  virtual Result<SourceMatrix> Weights(const std::string& name, size_t rows,
                                       size_t cols,
                                       std::vector<float>& values) const = 0;
  // Whether the tensor has 8-bit floats.
  virtual bool HasFloat8(const std::string& /*name*/) const { return false; }
  virtual std::vector<FileParts> files() const = 0;  // in order
  virtual Status WriteSettings(const std::string& folder) const = 0;

  std::string directory;
  ModelConfig config;
  std::vector<std::string> notes;
  SourceMatrix embedding;               // looked up once, read for every token
  std::vector<float> embedding_values;  // of 8-bit floats
};

struct Checkpoint::Folder : Impl {
  std::vector<SafetensorsFile> shards;            // in order of their names
  std::map<std::string, size_t> shard_of_tensor;  // index into `shards`
  std::map<std::string, std::string> aliases;     // names the file lacks

  std::vector<FileParts> files() const override {
    std::vector<FileParts> parts;
    for (const SafetensorsFile& shard : shards) parts.push_back(PartsOf(shard));
    return parts;
  }

  Status WriteSettings(const std::string& folder) const override {
    for (const std::string_view setting : kSettings) {
      const std::string name(setting);
      const std::string from = fmt::format("{}/{}", directory, name);
      if (!FileExists(from)) continue;
      RANKFORGE_ASSIGN_OR_RETURN(const std::string contents,
                                 ReadTextFile(from, kMaxSettingsBytes));
      RANKFORGE_RETURN_IF_ERROR(
          WriteFileAtomically(fmt::format("{}/{}", folder, name), contents));
    }
    return {};
  }

  // The file's name for tensor `name`. A checkpoint of the base model alone
  // lacks the first part of most names ("model.").
  std::string StoredName(const std::string& name) const {
    const auto alias = aliases.find(name);
    if (alias != aliases.end()) return alias->second;
    const std::string& layers = FamilyOf(config).layers;
    const std::string prefix = layers.substr(0, layers.find('.') + 1);
    if (shard_of_tensor.contains(name) || !name.starts_with(prefix)) {
      return name;
    }
    const std::string base = name.substr(prefix.size());
    return shard_of_tensor.contains(base) ? base : name;
  }

  Result<const SafetensorsFile*> ShardOf(const std::string& stored) const {
    const auto shard = shard_of_tensor.find(stored);
    if (shard != shard_of_tensor.end()) return &shards[shard->second];
    return Failed(
        fmt::format("{}: tensor '{}' is missing; use a checkpoint "
                    "that has all tensors its config.json implies",
                    directory, stored));
  }

  Result<SourceMatrix> Matrix(const std::string& name, size_t rows,
                              size_t cols) const override {
    const std::string stored = StoredName(name);
    RANKFORGE_ASSIGN_OR_RETURN(const SafetensorsFile* shard, ShardOf(stored));
    return shard->Matrix(stored, rows, cols);
  }

  bool HasFloat8(const std::string& name) const override {
    const std::string stored = StoredName(name);
    const Result<const SafetensorsFile*> shard = ShardOf(stored);
    return shard.ok() && IsFloat8((*shard)->tensors().at(stored).dtype);
  }

  // The values of a tensor of 8-bit floats; of another, empty.
  Result<std::vector<float>> Float8Values(const std::string& name, size_t rows,
                                          size_t cols) const {
    const std::string stored = StoredName(name);
    RANKFORGE_ASSIGN_OR_RETURN(const SafetensorsFile* shard, ShardOf(stored));
    if (!IsFloat8(shard->tensors().at(stored).dtype)) {
      return std::vector<float>();
    }
    for (const std::string& scale : Float8ScaleNames(stored)) {
      const auto found = shard_of_tensor.find(scale);
      if (found == shard_of_tensor.end()) continue;
      return WidenFloat8(*shard, stored, rows, cols, &shards[found->second],
                         scale, config);
    }
    return WidenFloat8(*shard, stored, rows, cols, nullptr, "", config);
  }

  Result<SourceMatrix> Weights(const std::string& name, size_t rows,
                               size_t cols,
                               std::vector<float>& values) const override {
    RANKFORGE_ASSIGN_OR_RETURN(values, Float8Values(name, rows, cols));
    if (values.empty()) return Matrix(name, rows, cols);
    return SourceMatrix{values.data(), SourceMatrix::Type::kF32, rows, cols};
  }

  // Adds the tensors of a shard, but not those that `home`, the index, has in
  // another.
  Status AddShard(const std::string& name,
                  const std::map<std::string, std::string>& home) {
    RANKFORGE_ASSIGN_OR_RETURN(SafetensorsFile shard,
                               SafetensorsFile::Open(directory + "/" + name));
    for (const auto& [tensor, info] : shard.tensors()) {
      const auto place = home.find(tensor);
      if (place != home.end() && place->second != name) continue;
      const auto [found, added] =
          shard_of_tensor.emplace(tensor, shards.size());
      if (!added) {
        return Failed(
            fmt::format("{}: tensor '{}' stands in {} too; download "
                        "the checkpoint again",
                        shard.path(), tensor, shards[found->second].path()));
      }
    }
    shards.push_back(std::move(shard));
    return {};
  }

  // Uses a stored lm_head even where the config says that it is the embedding:
  // if both have the same values, that changes nothing.
  Status FindTiedWeights() {
    const ModelFamily& family = FamilyOf(config);
    const std::string embedding_name = family.embedding + ".weight";
    const std::string head_name = family.lm_head + ".weight";
    if (!config.tied_embeddings || !shard_of_tensor.contains(head_name)) {
      return {};
    }
    if (!shard_of_tensor.contains(StoredName(embedding_name))) {
      aliases[embedding_name] = head_name;
      return {};
    }
    config.tied_embeddings = false;
    std::vector<float> values[2];
    RANKFORGE_ASSIGN_OR_RETURN(
        const SourceMatrix head,
        Weights(head_name, config.vocab, config.hidden, values[0]));
    RANKFORGE_ASSIGN_OR_RETURN(
        const SourceMatrix embedded,
        Weights(embedding_name, config.vocab, config.hidden, values[1]));
    // A few rows tell: heads that were trained apart differ everywhere.
    const size_t step = std::max<size_t>(1, config.vocab / 16);
    for (size_t row = 0; row < config.vocab; row += step) {
      for (size_t col = 0; col < config.hidden; ++col) {
        if (SourceAt(head, row, col) == SourceAt(embedded, row, col)) continue;
        notes.push_back(fmt::format(
            "{}/config.json: 'tie_word_embeddings' is true, but the file has "
            "another '{}', which is used; set the field to false",
            directory, head_name));
        return {};
      }
    }
    return {};
  }

  Status OpenShards() {
    if (FileExists(directory + "/model.safetensors")) {
      return AddShard("model.safetensors", {});
    }
    const std::string index = directory + "/" + kIndex;
    if (!FileExists(index)) {
      return Failed(fmt::format(
          "{}: neither model.safetensors nor {} is there; give the folder of a "
          "Hugging Face checkpoint in safetensors format",
          directory, kIndex));
    }
    RANKFORGE_ASSIGN_OR_RETURN(const auto names_by_shard, ReadIndex(index));
    std::map<std::string, std::string> home;
    for (const auto& [shard, names] : names_by_shard) {
      for (const std::string& name : names) home[name] = shard;
    }
    for (const auto& [shard, names] : names_by_shard) {
      RANKFORGE_RETURN_IF_ERROR(AddShard(shard, home));
      for (const std::string& name : names) {
        if (!shards.back().tensors().contains(name)) {
          return Failed(
              fmt::format("{}: 'weight_map' puts tensor '{}' into "
                          "{}, which lacks it; download the "
                          "checkpoint again",
                          index, name, shard));
        }
      }
    }
    return {};
  }
};

struct Checkpoint::Gguf : Impl {
  explicit Gguf(GgufModel opened) : model(std::move(opened)) {
    config = model.config();
    notes = model.notes();
  }

  Result<SourceMatrix> Matrix(const std::string& name, size_t rows,
                              size_t cols) const override {
    return model.Matrix(name, rows, cols);
  }
  Result<SourceMatrix> Weights(const std::string& name, size_t rows,
                               size_t cols,
                               std::vector<float>&) const override {
    return model.Matrix(name, rows, cols);
  }
  std::vector<FileParts> files() const override {
    std::vector<FileParts> parts;
    for (const GgufFile::Part& part : model.file().parts()) {
      parts.push_back({&part.file, part.header(), part.data()});
    }
    return parts;
  }
  Status WriteSettings(const std::string& folder) const override {
    RANKFORGE_RETURN_IF_ERROR(WriteFileAtomically(folder + "/config.json",
                                                  model.config_json() + "\n"));
    const GgufFile& file = model.file();
    if (HasTokenizer(file)) {
      std::vector<std::string> notes;  // Tokenizer::Load has them
      RANKFORGE_ASSIGN_OR_RETURN(const std::string tokenizer,
                                 GgufTokenizerJson(file, notes));
      RANKFORGE_RETURN_IF_ERROR(
          WriteFileAtomically(folder + "/tokenizer.json", tokenizer));
    }
    RANKFORGE_ASSIGN_OR_RETURN(const auto chat,
                               file.Text("tokenizer.chat_template"));
    return chat ? WriteFileAtomically(folder + "/chat_template.jinja", *chat)
                : Status();
  }

  GgufModel model;
};

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::~Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;

Result<Checkpoint> Checkpoint::Open(const std::string& path) {
  std::unique_ptr<Impl> impl;
  if (const std::optional<std::string> gguf = GgufPathOf(path)) {
    RANKFORGE_ASSIGN_OR_RETURN(GgufModel model, GgufModel::Open(*gguf));
    impl = std::make_unique<Gguf>(std::move(model));
    impl->directory = path;
  } else {
    if (FileExists(path)) {
      return Failed(fmt::format(
          "{}: does not begin with 'GGUF'; give a GGUF file or the folder of a "
          "Hugging Face checkpoint",
          path));
    }
    auto folder = std::make_unique<Folder>();
    folder->directory = path;
    RANKFORGE_ASSIGN_OR_RETURN(folder->config, LoadConfig(path));
    RANKFORGE_RETURN_IF_ERROR(folder->OpenShards());
    RANKFORGE_RETURN_IF_ERROR(folder->FindTiedWeights());
    impl = std::move(folder);
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      impl->embedding,
      impl->Weights(FamilyOf(impl->config).embedding + ".weight",
                    impl->config.vocab, impl->config.hidden,
                    impl->embedding_values));
  return Checkpoint(std::move(impl));
}

const ModelConfig& Checkpoint::config() const { return impl_->config; }
const std::string& Checkpoint::directory() const { return impl_->directory; }
const std::vector<std::string>& Checkpoint::notes() const {
  return impl_->notes;
}
Status Checkpoint::WriteSettings(const std::string& folder) const {
  return impl_->WriteSettings(folder);
}

std::string Checkpoint::Identity() const { return SampledHash(impl_->files()); }

std::string Checkpoint::FullHash() const {
  const std::vector<FileParts> files = impl_->files();
  std::vector<FileStamp> stamps;
  for (const FileParts& part : files) stamps.push_back(part.file->stamp());
  return RememberedHash(stamps, [&] { return HashOfAll(files); });
}

void Checkpoint::ReleasePages() const {
  for (const FileParts& part : impl_->files()) part.file->ReleasePages();
}

void Checkpoint::ExpectSparseReads() const {
  for (const FileParts& part : impl_->files()) {
    part.file->ExpectSparseReads(true);
  }
}

Result<SourceMatrix> Checkpoint::Matrix(const std::string& name, size_t rows,
                                        size_t cols) const {
  return impl_->Matrix(name, rows, cols);
}

Result<WeightType> Checkpoint::StoredTypeOf(const std::string& name,
                                            size_t rows, size_t cols) const {
  if (impl_->HasFloat8(name)) return WeightType::kBf16;
  RANKFORGE_ASSIGN_OR_RETURN(const SourceMatrix source,
                             impl_->Matrix(name, rows, cols));
  return StoredType(source.type);
}

Result<PackedMatrix> Checkpoint::Pack(std::span<const std::string> names,
                                      std::span<const size_t> rows, size_t cols,
                                      WeightType type, Layout layout) const {
  std::vector<SourceMatrix> parts;
  std::vector<std::vector<float>> values(names.size());
  for (size_t i = 0; i < names.size(); ++i) {
    RANKFORGE_ASSIGN_OR_RETURN(
        const SourceMatrix part,
        impl_->Weights(names[i], rows[i], cols, values[i]));
    parts.push_back(part);
  }
  RANKFORGE_ASSIGN_OR_RETURN(PackedMatrix matrix,
                             PackedMatrix::Pack(parts, type, layout));
  for (size_t i = 0; !matrix.finite() && i < parts.size(); ++i) {
    RANKFORGE_RETURN_IF_ERROR(
        CheckWeights(directory(), names[i], parts[i], type));
  }
  // Few matrices are read twice. Kept, their pages would double the memory.
  for (size_t i = 0; i < parts.size(); ++i) {
    if (values[i].empty()) ReleaseMappedPages(FileBytes(parts[i]));
  }
  return matrix;
}

Result<std::vector<float>> Checkpoint::Vector(const std::string& name,
                                              size_t n) const {
  std::vector<float> widened;
  RANKFORGE_ASSIGN_OR_RETURN(const SourceMatrix source,
                             impl_->Weights(name, 1, n, widened));
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = SourceAt(source, 0, i);
  RANKFORGE_RETURN_IF_ERROR(
      CheckWeights(directory(), name, source, WeightType::kF32));
  return values;
}

Status Checkpoint::Embedding(size_t row, std::span<float> out) const {
  const SourceMatrix& source = impl_->embedding;
  if (row >= source.rows || out.size() != source.cols) {
    return UsageError(
        fmt::format("{}: embedding row {} does not exist; token "
                    "ids are below {}",
                    directory(), row, source.rows));
  }
  WidenLine(source, row, 0, out.size(), out.data());
  return {};
}

}  // namespace rankforge
