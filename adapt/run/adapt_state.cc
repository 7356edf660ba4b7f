#include "adapt/run/adapt_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>
#include <utility>

#include "base/atomic_file.h"
#include "base/content_hash.h"
#include "base/files.h"
#include "runtime/model/format/safetensors.h"

namespace rankforge {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kFormat[] = "rankforge-adapt/3";
constexpr char kRun[] = "run.json";
constexpr size_t kMaxRunBytes = 1 << 20;

// How the names of all files of the folder begin. Nothing else is removed.
bool IsOurs(std::string_view name) {
  constexpr std::string_view kOurs[] = {
      "run.json", "hidden.", "survey.", "search.", "gains.", "basis.",
      "slopes.",  "fisher.", "trial.",  "block.",  "place."};
  return std::ranges::any_of(
      kOurs, [&](std::string_view ours) { return name.starts_with(ours); });
}

Status Damaged(const std::string& path, std::string_view what) {
  return Failed(fmt::format(
      "{}: {}; remove the folder to start from the beginning", path, what));
}

std::string HashOf(const Snapshot& snapshot) {
  ContentHash hash;
  hash.Add(std::as_bytes(std::span(snapshot.text)));
  for (const auto& [name, matrix] : snapshot.matrices) {
    hash.Add(std::as_bytes(std::span(name)));
    hash.Add(std::as_bytes(std::span(matrix.values)));
  }
  return hash.Digest();
}

Status WriteSnapshot(const std::string& path, const Snapshot& snapshot) {
  std::vector<SafetensorsWriter::Tensor> tensors;
  for (const auto& [name, matrix] : snapshot.matrices) {
    tensors.push_back({name, "F32", {matrix.rows, matrix.cols}});
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      SafetensorsWriter writer,
      SafetensorsWriter::Create(path, tensors,
                                {{"format", kFormat},
                                 {"text", snapshot.text},
                                 {"hash", HashOf(snapshot)}}));
  for (const auto& [name, matrix] : snapshot.matrices) {
    RANKFORGE_RETURN_IF_ERROR(
        writer.Append(std::as_bytes(std::span(matrix.values))));
  }
  return writer.Commit();
}

Result<std::optional<Snapshot>> ReadSnapshot(const std::string& path) {
  if (!FileExists(path)) return std::optional<Snapshot>();
  Result<SafetensorsFile> file = SafetensorsFile::Open(path);
  if (!file.ok()) return Damaged(path, "not a safetensors file");
  const auto entry = [&](const char* key) -> std::string {
    const auto found = file->metadata().find(key);
    return found == file->metadata().end() ? "" : found->second;
  };
  if (entry("format") != kFormat) {
    return Damaged(path, "not written by this version of adapt");
  }
  Snapshot snapshot;
  snapshot.text = entry("text");
  for (const auto& [name, info] : file->tensors()) {
    if (info.shape.size() != 2) return Damaged(path, "a tensor is no matrix");
    Result<std::vector<float>> values = file->Floats(name, info.shape);
    if (!values.ok()) return Damaged(path, "a tensor is not F32");
    Matrix<float> matrix;
    matrix.rows = info.shape[0];
    matrix.cols = info.shape[1];
    matrix.values = std::move(values).value();
    snapshot.matrices[name] = std::move(matrix);
  }
  if (entry("hash") != HashOf(snapshot)) {
    return Damaged(path, "its values are not those that were written");
  }
  return std::optional(std::move(snapshot));
}

// Adds a block to `adapter`.
void Merge(Adapter block, Adapter& adapter) {
  const auto add = [](auto& from, auto& into) {
    for (auto& [key, value] : from) into[key] = std::move(value);
  };
  add(block.parameters, adapter.parameters);
  add(block.left_dense, adapter.left_dense);
  add(block.ranks, adapter.ranks);
  add(block.masks, adapter.masks);
  add(block.gates, adapter.gates);
}

}  // namespace

std::string AdaptState::Path(const std::string& name) const {
  return folder_ + "/" + name;
}
std::string AdaptState::BlockPath(size_t attempt, size_t layer) const {
  return Path(fmt::format("block.{}.{}.safetensors", attempt, layer));
}

Result<AdaptState> AdaptState::Open(const std::string& folder,
                                    const AdaptIdentity& identity) {
  AdaptState state;
  state.folder_ = folder;
  std::error_code error;
  fs::create_directories(folder, error);
  if (!fs::is_directory(folder, error)) {
    return Failed(fmt::format(
        "{}: cannot be a folder for unfinished work: {}; name another with "
        "--state",
        folder, error ? error.message() : "there is a file"));
  }
  const std::string path = state.Path(kRun);
  if (!FileExists(path)) {
    // A run that ends before its first write leaves a temporary file at most.
    for (const auto& entry : fs::directory_iterator(folder, error)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with(kRun)) {
        return Failed(fmt::format(
            "{}: holds {}, and is no folder of unfinished work of adapt; name "
            "another with --state",
            folder, name));
      }
    }
    json run = {{"format", kFormat}, {"run", identity}};
    RANKFORGE_RETURN_IF_ERROR(WriteFileAtomically(path, run.dump(2) + "\n"));
    return state;
  }
  RANKFORGE_ASSIGN_OR_RETURN(const std::string text,
                             ReadTextFile(path, kMaxRunBytes));
  AdaptIdentity found;
  try {
    const json run = json::parse(text);
    if (run.at("format") != kFormat) {
      return Damaged(path, "not written by this version of adapt");
    }
    found = run.at("run").get<AdaptIdentity>();
  } catch (const json::exception&) {
    return Damaged(path, "not what adapt has written");
  }
  for (const auto& [field, value] : identity) {
    const std::string& other = found[field];
    if (other == value) continue;
    return Failed(fmt::format(
        "{}: unfinished work of another run: field '{}' is {:.64}, here it is "
        "{:.64}; give what that run was given, or remove the folder to start "
        "from the beginning",
        folder, field, other.empty() ? "not there" : other, value));
  }
  return state;
}

bool AdaptState::untouched() const {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    if (entry.path().filename() != kRun) return false;
  }
  return true;
}

Status AdaptState::SaveSnapshot(const std::string& name,
                                const Snapshot& snapshot) const {
  if (!stored()) return {};
  const std::string file = name + ".safetensors";
  // It would stay when all else is removed, and keep others from the folder.
  if (!IsOurs(file)) return Failed(file + ": no name of unfinished work");
  return WriteSnapshot(Path(file), snapshot);
}

Result<std::optional<Snapshot>> AdaptState::LoadSnapshot(
    const std::string& name) const {
  if (!stored()) return std::optional<Snapshot>();
  return ReadSnapshot(Path(name + ".safetensors"));
}

namespace {

std::string BasisName(size_t layer, const std::string& module,
                      const char* kind = "basis") {
  return fmt::format("{}.{}.{}", kind, layer,
                     module.substr(module.rfind('.') + 1));
}

}  // namespace

Status AdaptState::Keep(const std::string& name, Snapshot snapshot) {
  if (stored()) return SaveSnapshot(name, snapshot);
  kept_[name] = std::move(snapshot);
  return {};
}

Result<std::optional<Snapshot>> AdaptState::Kept(
    const std::string& name) const {
  if (stored()) return LoadSnapshot(name);
  const auto found = kept_.find(name);
  if (found == kept_.end()) return std::optional<Snapshot>();
  return std::optional(found->second);
}

void AdaptState::Forget(const std::string& name) {
  kept_.erase(name);
  kept_blocks_.erase(name);
  std::error_code error;
  if (stored()) fs::remove(Path(name + ".safetensors"), error);
}

Status AdaptState::KeepBlock(const std::string& name, Adapter block) {
  if (stored()) return SaveAdapter(block, Path(name + ".safetensors"));
  kept_blocks_[name] = std::move(block);
  return {};
}

Result<Adapter> AdaptState::KeptBlock(
    const std::string& name, const std::string& checkpoint_hash) const {
  if (stored())
    return LoadAdapter(Path(name + ".safetensors"), checkpoint_hash);
  return kept_blocks_.at(name);
}

Status AdaptState::SaveBasis(size_t layer, const std::string& module,
                             const RankBasis& basis) {
  return Keep(BasisName(layer, module), {{{"a", basis.a}, {"b", basis.b}}, ""});
}

Result<std::optional<RankBasis>> AdaptState::LoadBasis(
    size_t layer, const std::string& module) const {
  RANKFORGE_ASSIGN_OR_RETURN(std::optional<Snapshot> snapshot,
                             Kept(BasisName(layer, module)));
  if (!snapshot) return std::optional<RankBasis>();
  return std::optional(RankBasis{std::move(snapshot->matrices["a"]),
                                 std::move(snapshot->matrices["b"])});
}

Status AdaptState::SaveSlopes(size_t layer, const std::string& module,
                              const std::vector<float>& slopes) {
  Matrix<float> row(1, slopes.size());
  row.values = slopes;
  return Keep(BasisName(layer, module, "slopes"), {{{"slopes", row}}, ""});
}

Result<std::vector<float>> AdaptState::LoadSlopes(
    size_t layer, const std::string& module) const {
  RANKFORGE_ASSIGN_OR_RETURN(std::optional<Snapshot> snapshot,
                             Kept(BasisName(layer, module, "slopes")));
  if (!snapshot) return std::vector<float>();
  return std::move(snapshot->matrices["slopes"].values);
}

void AdaptState::LeaveMatrices(size_t layer, Adapter& block) {
  for (auto& [module, rank] : block.ranks) {
    layers_[module] = layer;
    rank.a = {};
    rank.b = {};
  }
}

Status AdaptState::SaveBlock(size_t attempt, size_t layer, Adapter block,
                             Adapter& adapter) {
  if (stored()) {
    RANKFORGE_RETURN_IF_ERROR(SaveAdapter(block, BlockPath(attempt, layer)));
    LeaveMatrices(layer, block);
  }
  Merge(std::move(block), adapter);
  return {};
}

Result<Adapter> AdaptState::Block(size_t attempt, size_t layer,
                                  const std::string& checkpoint_hash) const {
  const std::string path = BlockPath(attempt, layer);
  Result<Adapter> block = LoadAdapter(path, checkpoint_hash);
  if (!block.ok()) return Damaged(path, block.status().message());
  return block;
}

Status AdaptState::LoadBlock(size_t attempt, size_t layer,
                             const std::string& checkpoint_hash,
                             Adapter& adapter) {
  RANKFORGE_ASSIGN_OR_RETURN(Adapter block,
                             Block(attempt, layer, checkpoint_hash));
  LeaveMatrices(layer, block);
  Merge(std::move(block), adapter);
  return {};
}

Status AdaptState::WriteAdapter(size_t attempt, const Adapter& adapter,
                                const std::string& path) const {
  if (!stored()) return SaveAdapter(adapter, path);
  // Modules of a block stand together: one file is open at a time.
  std::optional<size_t> open;
  std::unique_ptr<SafetensorsFile> file;
  return SaveAdapter(
      adapter, path,
      [&](const RankAdapter& rank, const std::string& tensor,
          std::span<const size_t> shape) -> Result<std::span<const std::byte>> {
        const size_t layer = layers_.at(rank.module);
        if (open != layer) {
          RANKFORGE_ASSIGN_OR_RETURN(
              SafetensorsFile next,
              SafetensorsFile::Open(BlockPath(attempt, layer)));
          file = std::make_unique<SafetensorsFile>(std::move(next));
          open = layer;
        }
        return file->Bytes(tensor, "F32", shape);
      });
}

void AdaptState::Remove() {
  if (!stored()) return;
  std::error_code error;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    if (IsOurs(entry.path().filename().string())) {
      files.push_back(entry.path());
    }
  }
  for (const fs::path& file : files) fs::remove(file, error);
  fs::remove(folder_, error);
}

}  // namespace rankforge
