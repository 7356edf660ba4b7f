#include "cli/support/token_ids.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>
#include <span>
#include <utility>

#include "base/files.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "cli/support/session.h"
#include "runtime/model/format/checkpoint.h"
#include "runtime/model/format/safetensors.h"

namespace rankforge {
namespace {

// An id that no int holds is in no vocabulary; the model refuses -1.
int ToId(int64_t value) { return std::in_range<int>(value) ? value : -1; }

template <class Integer>
std::vector<int> Ids(std::span<const std::byte> bytes) {
  std::vector<int> ids(bytes.size() / sizeof(Integer));
  for (size_t i = 0; i < ids.size(); ++i) {
    Integer value;
    std::memcpy(&value, bytes.data() + i * sizeof(Integer), sizeof(Integer));
    ids[i] = ToId(value);
  }
  return ids;
}

// A safetensors file with one tensor of I32 or I64.
Result<std::vector<int>> IdsFromSafetensors(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(const SafetensorsFile file,
                             SafetensorsFile::Open(path));
  if (file.tensors().size() != 1) {
    return Failed(
        fmt::format("{}: has {} tensors; token ids are one, of I32 or I64",
                    path, file.tensors().size()));
  }
  const auto& [name, info] = *file.tensors().begin();
  if (info.dtype != "I32" && info.dtype != "I64") {
    return Failed(
        fmt::format("{}: tensor {}: dtype {}; token ids are of I32 or I64",
                    path, name, info.dtype));
  }
  const auto bytes = file.data().subspan(info.begin, info.end - info.begin);
  return info.dtype == "I32" ? Ids<int32_t>(bytes) : Ids<int64_t>(bytes);
}

// A JSON list of integers.
Result<std::vector<int>> IdsFromJson(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::string text,
                             ReadTextFile(path, kMaxTextBytes));
  constexpr std::string_view kForm =
      "neither a safetensors file (name it so) nor a JSON list of token ids";
  const Result<Json> list = ParseInput(path, text);
  if (!list.ok()) {
    return Failed(fmt::format("{}; it is {}", list.status().message(), kForm));
  }
  if (!list->is_array() || list->empty()) {
    return Failed(fmt::format("{}: {}", path, kForm));
  }
  std::vector<int> ids;
  for (const Json& id : *list) {
    if (!id.is_number_integer()) {
      return Failed(fmt::format("{}: item {} is {:.60}, token ids are integers",
                                path, ids.size() + 1, id.dump(-1, ' ', true)));
    }
    ids.push_back(ToId(id.get<int64_t>()));
  }
  return ids;
}

const std::map<std::string, BosMode>& BosModes() {
  static const std::map<std::string, BosMode> modes = {
      {"auto", BosMode::kAuto}, {"yes", BosMode::kYes}, {"no", BosMode::kNo}};
  return modes;
}

std::string NameOf(BosMode mode) {
  return std::ranges::find(BosModes(), mode,
                           [](const auto& entry) { return entry.second; })
      ->first;
}

}  // namespace

CLI::Option_group& AddCalibration(CLI::App& command, const std::string& purpose,
                                  TokenSource& source) {
  CLI::Option_group& group = *command.add_option_group("what to " + purpose);
  group.add_option("--calibration", source.text, "Text to " + purpose)
      ->transform(TextInput());
  group
      .add_option("--calibration-ids", source.ids,
                  "Token ids to " + purpose +
                      ": a JSON list, or a safetensors file with one tensor "
                      "of I32 or I64")
      ->transform(TextInput());
  group.require_option(1);
  AddBos(command, source.bos);
  return group;
}

void AddBos(CLI::App& command, BosMode& bos) {
  command
      .add_option("--bos", bos,
                  "Whether a text begins with the token for that (BOS); auto: "
                  "as the checkpoint's tokenizer says")
      ->transform(CLI::CheckedTransformer(BosModes()))
      ->default_str("auto");
}

std::string RecordedBos(const TokenSource& source) {
  return source.ids.empty() ? NameOf(source.bos) : "";
}

void CompareBos(const std::optional<Adapter>& adapter, const std::string& path,
                BosMode bos) {
  if (!adapter) return;
  const auto recorded = adapter->parameters.find("bos");
  if (recorded == adapter->parameters.end() ||
      recorded->second == NameOf(bos)) {
    return;
  }
  PrintMessage(
      fmt::format("{}: was made from a text with --bos {}, this one is read "
                  "with --bos {}",
                  path, recorded->second, NameOf(bos)));
}

Result<std::vector<int>> EncodeText(const std::string& model,
                                    const Tokenizer& tokenizer,
                                    std::string_view text, BosMode bos) {
  if (bos == BosMode::kAuto) return tokenizer.EncodeFromStart(text);
  std::vector<int> ids = tokenizer.Encode(text);
  if (bos == BosMode::kNo) return ids;
  std::vector<int> prefix = tokenizer.prefix();
  if (prefix.empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                               Checkpoint::Open(model));
    if (checkpoint.config().bos_id < 0) {
      return UsageError(model + ": has no bos_token_id; leave --bos yes out");
    }
    prefix = {checkpoint.config().bos_id};
  }
  ids.insert(ids.begin(), prefix.begin(), prefix.end());
  return ids;
}

Result<std::vector<int>> ParseIds(std::string_view text) {
  std::vector<int> ids;
  for (;;) {
    const std::string_view item = text.substr(0, text.find(','));
    int id = -1;
    const char* const end = item.data() + item.size();
    const auto [rest, error] = std::from_chars(item.data(), end, id);
    if (error != std::errc() || rest != end || id < 0) {
      return UsageError(fmt::format(
          "id {} is '{:.40}', not a whole number of at least 0 that a "
          "vocabulary may have; give ids like 1,2,3",
          ids.size() + 1, item));
    }
    ids.push_back(id);
    if (item.size() == text.size()) return ids;
    text.remove_prefix(item.size() + 1);
  }
}

Result<Tokenizer> OpenTokenizer(const std::string& model) {
  Result<Tokenizer> tokenizer = Tokenizer::Load(model);
  if (!tokenizer.ok()) return tokenizer;
  for (const std::string& note : tokenizer->notes()) PrintMessage(note);
  return tokenizer;
}

Result<std::vector<int>> LoadIds(const std::string& model,
                                 const TokenSource& source) {
  if (!source.ids.empty()) {
    if (source.bos != BosMode::kAuto) {
      return UsageError("--bos is for texts: ids are given whole");
    }
    return source.ids.ends_with(".safetensors") ? IdsFromSafetensors(source.ids)
                                                : IdsFromJson(source.ids);
  }
  RANKFORGE_ASSIGN_OR_RETURN(const Tokenizer tokenizer, OpenTokenizer(model));
  RANKFORGE_ASSIGN_OR_RETURN(const std::string contents,
                             ReadTextFile(source.text, kMaxTextBytes));
  RANKFORGE_ASSIGN_OR_RETURN(
      std::vector<int> ids, EncodeText(model, tokenizer, contents, source.bos));
  if (ids.empty()) {
    return Failed(source.text +
                  ": has no tokens; name a text like those the model will see");
  }
  return ids;
}

}  // namespace rankforge
