#include "runtime/model/format/adapter.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "base/content_hash.h"
#include "base/hash_cache.h"
#include "base/json_fields.h"
#include "runtime/model/format/safetensors.h"

namespace rankforge {

namespace {

using nlohmann::json;

constexpr char kMetadataKey[] = "rankforge";
constexpr char kFormat[] = "rankforge-adapter/1";
constexpr char kKeepFrequency[] = "keep_frequency";
constexpr char kMaskGain[] = ".mask.gain";
constexpr char kMaskBias[] = ".mask.bias";
// The last tensor: the hash, in hexadecimal digits, of the header and of all
// other tensors in the order of the file. No module has this name.
constexpr char kFileHash[] = "rankforge.file_hash";
constexpr size_t kHashDigits = 32;
constexpr std::string_view kMakeAgain =
    "make the adapter again with rankforge adapt";

// What a rank adapter and an input mask have in common.
template <class Module>
json Statistics(const Module& module) {
  return {{"cols", module.cols},
          {"density", module.density},
          {"density_quantiles", module.density_quantiles},
          {"error", module.error}};
}

template <class Module>
void ReadStatistics(const json& entry, Module& module) {
  module.cols = entry.at("cols").get<size_t>();
  module.density = entry.at("density").get<double>();
  module.density_quantiles =
      entry.at("density_quantiles").get<std::map<std::string, double>>();
  module.error = entry.at("error").get<double>();
  // Files of older builds have the frequencies here, others in a tensor.
  if (entry.contains(kKeepFrequency)) {
    module.keep_frequency = entry.at(kKeepFrequency).get<std::vector<float>>();
  }
}

std::map<std::string, InputMask> ReadMasks(const json& entries) {
  std::map<std::string, InputMask> masks;
  for (const auto& [name, entry] : entries.items()) {
    InputMask mask;
    mask.module = name;
    ReadStatistics(entry, mask);
    masks.emplace(name, std::move(mask));
  }
  return masks;
}

Rotation ReadRotation(const json& entry) {
  Rotation rotation;
  rotation.hidden = entry.at("hidden").get<size_t>();
  for (const json& group : entry.at("groups")) {
    rotation.groups.push_back({group.at("first_block").get<size_t>(),
                               group.at("rotated").get<bool>(),
                               {}});
  }
  return rotation;
}

json WriteRotation(const Rotation& rotation) {
  json groups = json::array();
  for (const RotationGroup& group : rotation.groups) {
    groups.push_back(
        {{"first_block", group.first_block}, {"rotated", group.rotated}});
  }
  return {{"hidden", rotation.hidden}, {"groups", std::move(groups)}};
}

std::string NameOf(const RotationGroup& group) {
  return fmt::format("rotation.{}.Q", group.first_block);
}

std::string RouterName(size_t block) {
  return fmt::format("router.{}.weight", block);
}

// None: no name of a router.
std::optional<size_t> RouterBlock(const std::string& name) {
  constexpr std::string_view kBefore = "router.";
  if (!name.starts_with(kBefore)) return std::nullopt;
  size_t block = 0;
  std::from_chars(name.data() + kBefore.size(), name.data() + name.size(),
                  block);
  if (RouterName(block) != name) return std::nullopt;
  return block;
}

// A number of a block. Any other number throws, where get would convert it.
size_t BlockOf(const json& entry) {
  return entry.get_ref<const json::number_unsigned_t&>();
}

// Without the routers, which are tensors.
LayerSkip ReadSkip(const json& entry) {
  LayerSkip skip;
  for (const auto& [field, value] : entry.items()) {
    if (field == "threshold") {
      skip.threshold = value.get<double>();
    } else if (field == "layers" && value.is_array()) {
      for (const json& block : value) skip.layers.push_back(BlockOf(block));
    } else {
      throw std::domain_error(fmt::format(
          "'layer_skip' has a field '{:.40}', which this build knows not",
          field));
    }
  }
  return skip;
}

json WriteSkip(const LayerSkip& skip) {
  return {{"threshold", skip.threshold}, {"layers", skip.layers}};
}

// Everything of the adapter but its tensors. Throws json::exception if a field
// is missing or has another type.
Adapter ReadMetadata(const json& root) {
  Adapter adapter;
  adapter.method = root.at("method").get<std::string>();
  adapter.keep = root.at("keep").get<double>();
  adapter.linear_flops_ratio = root.at("linear_flops_ratio").get<double>();
  adapter.checkpoint_hash = root.at("checkpoint").at("identity");
  adapter.checkpoint_full_hash = root.at("checkpoint").at("full_hash");
  adapter.calibration_hash = root.at("calibration").at("hash");
  adapter.calibration_tokens =
      root.at("calibration").at("tokens").get<size_t>();
  adapter.parameters = root.at("parameters");
  adapter.left_dense = root.at("left_dense");
  for (const auto& [name, entry] : root.at("ranks").items()) {
    RankAdapter rank;
    rank.module = name;
    rank.rows = entry.at("rows").get<size_t>();
    rank.d = entry.at("d").get<size_t>();
    ReadStatistics(entry, rank);
    adapter.ranks.emplace(name, std::move(rank));
  }
  adapter.masks = ReadMasks(root.at("masks"));
  // A file without gates may lack the field.
  if (root.contains("gates")) adapter.gates = ReadMasks(root.at("gates"));
  if (root.contains("rotation")) {
    adapter.rotation = ReadRotation(root.at("rotation"));
  }
  if (root.contains("layer_skip")) {
    adapter.skip = ReadSkip(root.at("layer_skip"));
  }
  return adapter;
}

json WriteMetadata(const Adapter& adapter) {
  json ranks = json::object();
  for (const auto& [name, rank] : adapter.ranks) {
    json entry = Statistics(rank);
    entry["rows"] = rank.rows;
    entry["d"] = rank.d;
    ranks[name] = std::move(entry);
  }
  json masks = json::object();
  for (const auto& [name, mask] : adapter.masks) masks[name] = Statistics(mask);
  json gates = json::object();
  for (const auto& [name, gate] : adapter.gates) gates[name] = Statistics(gate);
  json root = {{"format", kFormat},
               {"method", adapter.method},
               {"keep", adapter.keep},
               {"linear_flops_ratio", adapter.linear_flops_ratio},
               {"checkpoint",
                {{"identity", adapter.checkpoint_hash},
                 {"full_hash", adapter.checkpoint_full_hash}}},
               {"calibration",
                {{"hash", adapter.calibration_hash},
                 {"tokens", adapter.calibration_tokens}}},
               {"parameters", adapter.parameters},
               {"left_dense", adapter.left_dense},
               {"ranks", std::move(ranks)},
               {"masks", std::move(masks)},
               {"gates", std::move(gates)}};
  // Only where there is one, so that the files of others stay as they are.
  if (!adapter.rotation.empty()) {
    root["rotation"] = WriteRotation(adapter.rotation);
  }
  if (!adapter.skip.empty()) root["layer_skip"] = WriteSkip(adapter.skip);
  return root;
}

// Reads the metadata of `file`. Checks that it is JSON of this format, but not
// that it fits the tensors.
Result<Adapter> ReadMetadata(const SafetensorsFile& file) {
  const std::string& path = file.path();
  const auto metadata = file.metadata().find(kMetadataKey);
  if (metadata == file.metadata().end()) {
    return Failed(
        fmt::format("{}: '__metadata__' has no field '{}', this is "
                    "no adapter file; give one that rankforge adapt "
                    "wrote",
                    path, kMetadataKey));
  }
  try {
    const Result<json> parsed =
        ParseJson(metadata->second, {.unique_keys = false});
    if (!parsed.ok()) {
      return Failed(fmt::format("{}: metadata '{}' {}; {}", path, kMetadataKey,
                                parsed.status().message(), kMakeAgain));
    }
    const json& root = *parsed;
    const auto format =
        root.is_object() ? root.value("format", json()) : json();
    if (format != kFormat) {
      return Failed(
          fmt::format("{}: metadata field 'format' is {:.60}, this "
                      "build reads \"{}\"; {}",
                      path, format.dump(-1, ' ', true), kFormat, kMakeAgain));
    }
    return ReadMetadata(root);
  } catch (const std::exception& error) {  // of json, and of ReadSkip
    return Failed(fmt::format("{}: wrong metadata ({:.160}); {}", path,
                              std::string_view(error.what()), kMakeAgain));
  }
}

// out (n,) = q (n, n) v, or q^T v.
std::vector<double> Times(const std::vector<float>& q,
                          const std::vector<double>& v, bool transposed) {
  const size_t n = v.size();
  std::vector<double> out(n);
  for (size_t i = 0; i < n; ++i) {
    const float* const row = q.data() + i * n;
    if (transposed) {
      for (size_t j = 0; j < n; ++j) out[j] += row[j] * v[i];
    } else {
      for (size_t j = 0; j < n; ++j) out[i] += row[j] * v[j];
    }
  }
  return out;
}

// What is wrong with q (n, n) as an orthogonal matrix; empty: nothing. Q^T Q
// takes n^3 multiply-adds. Its product with vectors of random signs takes 2
// n^2 each, and an error of one element shows in both of two.
std::string WhyNotOrthogonal(const std::vector<float>& q, size_t n) {
  const auto wrong = std::ranges::find_if_not(
      q, [](float value) { return std::isfinite(value); });
  if (wrong != q.end()) {
    const auto at = static_cast<size_t>(wrong - q.begin());
    return fmt::format("has {} at ({}, {})", *wrong, at / n, at % n);
  }
  std::mt19937_64 random(1);
  for (int round = 0; round < 2; ++round) {
    std::vector<double> signs(n);
    for (double& sign : signs) sign = random() % 2 == 0 ? 1 : -1;
    const std::vector<double> back = Times(q, Times(q, signs, false), true);
    double worst = 0;
    for (size_t i = 0; i < n; ++i) {
      worst = std::max(worst, std::fabs(back[i] - signs[i]));
    }
    if (worst <= kOrthogonalWithin) continue;
    return fmt::format(
        "is not orthogonal: Q^T Q of a vector of signs is off by {:.3g}, at "
        "most {:.3g} is allowed",
        worst, kOrthogonalWithin);
  }
  return "";
}

// Reads the tensors of one adapter file, and knows which ones were read.
class TensorReader {
 public:
  TensorReader(const SafetensorsFile& file, AdapterParts parts)
      : file_(file), parts_(parts) {}

  // Reads `name`.rank.*.
  Status Read(const std::string& name, RankAdapter& rank) {
    RANKFORGE_ASSIGN_OR_RETURN(rank.a,
                               Matrix(name + ".rank.A", {rank.d, rank.rows}));
    RANKFORGE_ASSIGN_OR_RETURN(rank.b,
                               Matrix(name + ".rank.B", {rank.d, rank.cols}));
    return ReadChannels(name, "rank", rank.d, rank);
  }
  // Reads `name`.gate.*.
  Status ReadGate(const std::string& name, GateMask& gate) {
    return ReadChannels(name, "gate", gate.cols, gate);
  }
  // Reads `name`.mask.*.
  Status Read(const std::string& name, InputMask& mask) {
    RANKFORGE_RETURN_IF_ERROR(ReadChannels(name, "mask", mask.cols, mask));
    const std::string gain = name + kMaskGain, bias = name + kMaskBias;
    const auto& tensors = file_.tensors();
    if (!tensors.contains(gain) && !tensors.contains(bias)) return {};
    RANKFORGE_ASSIGN_OR_RETURN(mask.gain, Finite(gain, mask.cols));
    // As many as the projection has outputs, which the model knows.
    const auto found = tensors.find(bias);
    const size_t rows = found == tensors.end() || found->second.shape.empty()
                            ? 0
                            : found->second.shape.front();
    RANKFORGE_ASSIGN_OR_RETURN(mask.bias, Finite(bias, rows));
    return {};
  }
  // Reads the router of every block that has one.
  Status Read(LayerSkip& skip) {
    for (const auto& [name, info] : file_.tensors()) {
      const std::optional<size_t> block = RouterBlock(name);
      if (!block) continue;
      const size_t size = info.shape.size() == 1 ? info.shape.front() : 0;
      RANKFORGE_ASSIGN_OR_RETURN(skip.routers[*block], Finite(name, size));
    }
    // What the model says of its own sizes, CheckAdapter asks.
    const size_t hidden =
        skip.routers.empty() ? 0 : skip.routers.begin()->second.size();
    const std::string wrong =
        WhyNotSkip(skip, std::numeric_limits<size_t>::max(), hidden);
    if (wrong.empty()) return {};
    return Failed(fmt::format("{}: metadata field 'layer_skip' {}; {}",
                              file_.path(), wrong, kMakeAgain));
  }
  // Reads Q of every rotated group, or of those that routers read in.
  Status Read(Rotation& rotation, const LayerSkip& skip) {
    RANKFORGE_RETURN_IF_ERROR(CheckGroups(rotation));
    for (RotationGroup& group : rotation.groups) {
      if (!group.rotated) continue;
      const std::string name = NameOf(group);
      const bool routed =
          std::ranges::any_of(skip.routers, [&](const auto& router) {
            return rotation.OfStream(router.first) == &group;
          });
      const Shape shape = {rotation.hidden, rotation.hidden};
      RANKFORGE_ASSIGN_OR_RETURN(
          group.q, routed ? Floats(name, shape) : Matrix(name, shape));
      if (group.q.empty()) continue;
      if (const std::string wrong = WhyNotOrthogonal(group.q, rotation.hidden);
          !wrong.empty()) {
        return Failed(fmt::format("{}: tensor '{}' {}; {}", file_.path(), name,
                                  wrong, kMakeAgain));
      }
    }
    return {};
  }
  Status CheckAllRead() const {
    for (const auto& [name, info] : file_.tensors()) {
      if (read_.contains(name) || name == kFileHash) continue;
      return Failed(
          fmt::format("{}: tensor '{}' belongs to no module of the "
                      "metadata; {}",
                      file_.path(), name, kMakeAgain));
    }
    return {};
  }

 private:
  using Shape = std::initializer_list<size_t>;

  // Whether the groups begin at block 0 and ascend.
  Status CheckGroups(const Rotation& rotation) const {
    size_t least = 0;
    for (const RotationGroup& group : rotation.groups) {
      const size_t first = group.first_block;
      if (first < least || (least == 0 && first > 0)) {
        return Failed(fmt::format(
            "{}: metadata field 'rotation.groups' has a group from block {} "
            "where {} is expected: they begin at block 0 and ascend; {}",
            file_.path(), first, least, kMakeAgain));
      }
      least = first + 1;
    }
    return {};
  }
  Result<std::vector<float>> Floats(const std::string& name, Shape shape) {
    read_.insert(name);
    return file_.Floats(name, std::span(shape.begin(), shape.size()));
  }
  Result<std::vector<float>> Finite(const std::string& name, size_t count) {
    RANKFORGE_ASSIGN_OR_RETURN(std::vector<float> values,
                               Floats(name, {count}));
    for (size_t i = 0; i < count; ++i) {
      if (std::isfinite(values[i])) continue;
      return Failed(fmt::format("{}: tensor '{}' has {} at {}; {}",
                                file_.path(), name, values[i], i, kMakeAgain));
    }
    return values;
  }
  Result<std::vector<float>> Matrix(const std::string& name, Shape shape) {
    if (parts_ == AdapterParts::kAll) return Floats(name, shape);
    read_.insert(name);
    RANKFORGE_RETURN_IF_ERROR(
        file_.Bytes(name, "F32", std::span(shape.begin(), shape.size()))
            .status());
    return std::vector<float>();
  }
  // Reads what every kind of module has for each of its channels.
  template <class Module>
  Status ReadChannels(const std::string& name, const char* kind,
                      size_t channels, Module& module) {
    const std::string prefix = fmt::format("{}.{}.", name, kind);
    RANKFORGE_ASSIGN_OR_RETURN(module.tau, Floats(prefix + "tau", {channels}));
    const std::string frequency = prefix + kKeepFrequency;
    if (module.keep_frequency.empty() && file_.tensors().contains(frequency)) {
      RANKFORGE_ASSIGN_OR_RETURN(module.keep_frequency,
                                 Floats(frequency, {channels}));
    }
    return CheckStatistics(name, channels, module);
  }
  // Checks the numbers that the forward pass or the tuner relies on.
  template <class Module>
  Status CheckStatistics(const std::string& name, size_t channels,
                         const Module& module) const {
    const std::string where =
        fmt::format("{}: module '{}'", file_.path(), name);
    const std::vector<float>& frequency = module.keep_frequency;
    if (!frequency.empty() && frequency.size() != channels) {
      return Failed(fmt::format(
          "{} field '{}' has {} values for {} channels; "
          "{}",
          where, kKeepFrequency, frequency.size(), channels, kMakeAgain));
    }
    const auto wrong = [&](const char* field, double value) {
      return Failed(fmt::format("{} field '{}' is {}; {}", where, field, value,
                                kMakeAgain));
    };
    const auto share = [](double value) { return value >= 0 && value <= 1; };
    if (!share(module.density)) return wrong("density", module.density);
    for (const float value : frequency) {
      if (!share(value)) return wrong(kKeepFrequency, value);
    }
    return {};
  }

  const SafetensorsFile& file_;
  AdapterParts parts_;
  std::set<std::string> read_;
};

std::string HashOf(const SafetensorsFile& file) {
  std::vector<const TensorInfo*> tensors;
  for (const auto& [name, info] : file.tensors()) {
    if (name != kFileHash) tensors.push_back(&info);
  }
  std::ranges::sort(tensors, {}, &TensorInfo::begin);
  ContentHash hash;
  hash.Add(file.header());
  for (const TensorInfo* tensor : tensors) {
    hash.Add(file.data().subspan(tensor->begin, tensor->end - tensor->begin));
  }
  return hash.Digest();
}

// Whether the bytes are those that were written. Files of older builds have no
// hash. A file that has not changed since it was checked is not read again.
Status CheckFileHash(const SafetensorsFile& file) {
  if (!file.tensors().contains(kFileHash)) return {};
  RANKFORGE_ASSIGN_OR_RETURN(
      const std::span<const std::byte> bytes,
      file.Bytes(kFileHash, "U8", std::span(&kHashDigits, 1)));
  const std::string_view stated(reinterpret_cast<const char*>(bytes.data()),
                                bytes.size());
  const std::string computed = RememberedHash(
      std::span(&file.file().stamp(), 1), [&] { return HashOf(file); });
  if (stated == computed) return {};
  return Failed(
      fmt::format("{}: its bytes are not those that were written (their hash "
                  "is {}); copy it again or {}",
                  file.path(), computed, kMakeAgain));
}

}  // namespace

const RotationGroup* Rotation::Of(size_t block) const {
  const RotationGroup* found = nullptr;
  for (const RotationGroup& group : groups) {
    if (group.first_block <= block) found = &group;
  }
  return found != nullptr && found->rotated ? found : nullptr;
}

const RotationGroup* Rotation::OfStream(size_t block) const {
  // A block that holds h finds h: the block before has turned it back.
  return block == 0 || Of(block) == nullptr ? nullptr : Of(block - 1);
}

std::string WhyNotSkip(const LayerSkip& skip, size_t layers, size_t hidden) {
  if (skip.empty()) return "";
  if (!(skip.threshold >= 0 && skip.threshold <= 1)) {
    return fmt::format("has the threshold {}, expected a number from 0 to 1",
                       skip.threshold);
  }
  if (!skip.routers.empty() && !skip.layers.empty()) {
    return "has both routers and a list of layers";
  }
  const auto outside = [&](size_t block) {
    return fmt::format("names block {}, the model has {}", block, layers);
  };
  for (const auto& [block, weight] : skip.routers) {
    if (block >= layers) return outside(block);
    if (weight.size() == hidden && hidden > 0) continue;
    return fmt::format("has a router of {} values for block {}, expected {}",
                       weight.size(), block, hidden);
  }
  for (size_t i = 0; i < skip.layers.size(); ++i) {
    if (skip.layers[i] >= layers) return outside(skip.layers[i]);
    if (i > 0 && skip.layers[i] <= skip.layers[i - 1]) {
      return fmt::format("lists layer {} after {}, expected ascending ones",
                         skip.layers[i], skip.layers[i - 1]);
    }
  }
  return "";
}

Result<Adapter> LoadAdapter(const std::string& path,
                            const std::string& checkpoint_hash,
                            AdapterParts parts) {
  RANKFORGE_ASSIGN_OR_RETURN(const SafetensorsFile file,
                             SafetensorsFile::Open(path));
  RANKFORGE_ASSIGN_OR_RETURN(Adapter adapter, ReadMetadata(file));
  if (adapter.checkpoint_hash != checkpoint_hash) {
    return Failed(fmt::format(
        "{}: metadata field 'checkpoint.identity' is {:.64}, this checkpoint "
        "is {}; the adapter was made for another checkpoint, give that one or "
        "{}",
        path, adapter.checkpoint_hash, checkpoint_hash, kMakeAgain));
  }
  const FileParts parts_of_file = PartsOf(file);
  adapter.identity = SampledHash({&parts_of_file, 1});
  TensorReader tensors(file, parts);
  for (auto& [name, rank] : adapter.ranks) {
    RANKFORGE_RETURN_IF_ERROR(tensors.Read(name, rank));
  }
  for (auto& [name, mask] : adapter.masks) {
    RANKFORGE_RETURN_IF_ERROR(tensors.Read(name, mask));
  }
  for (auto& [name, gate] : adapter.gates) {
    RANKFORGE_RETURN_IF_ERROR(tensors.ReadGate(name, gate));
  }
  RANKFORGE_RETURN_IF_ERROR(tensors.Read(adapter.skip));
  RANKFORGE_RETURN_IF_ERROR(tensors.Read(adapter.rotation, adapter.skip));
  RANKFORGE_RETURN_IF_ERROR(tensors.CheckAllRead());
  RANKFORGE_RETURN_IF_ERROR(CheckFileHash(file));
  return adapter;
}

Result<Adapter> LoadAdapterOf(const Checkpoint& checkpoint,
                              const std::string& path, AdapterParts parts) {
  RANKFORGE_ASSIGN_OR_RETURN(Adapter adapter,
                             LoadAdapter(path, checkpoint.Identity(), parts));
  // Empty: whoever made the adapter did not read the weights.
  if (!adapter.checkpoint_full_hash.empty() &&
      adapter.checkpoint_full_hash != checkpoint.FullHash()) {
    return Failed(fmt::format(
        "{}: metadata field 'checkpoint.full_hash' is {:.64}, this checkpoint "
        "is {}: its weights have changed since; give the one that the adapter "
        "was made for or {}",
        path, adapter.checkpoint_full_hash, checkpoint.FullHash(), kMakeAgain));
  }
  return adapter;
}

Status SaveAdapter(const Adapter& adapter, const std::string& path) {
  return SaveAdapter(
      adapter, path,
      [](const RankAdapter& rank, const std::string& tensor,
         std::span<const size_t>) -> Result<std::span<const std::byte>> {
        return std::as_bytes(
            std::span(tensor.ends_with(".A") ? rank.a : rank.b));
      });
}

Status SaveAdapter(const Adapter& adapter, const std::string& path,
                   const AdapterMatrices& matrices) {
  std::vector<SafetensorsWriter::Tensor> tensors;
  std::vector<std::function<Result<std::span<const std::byte>>()>> data;
  const auto add = [&](const std::string& name, size_t values,
                       const std::vector<float>& from) {
    tensors.push_back({name, "F32", {values}});
    data.push_back([&from]() -> Result<std::span<const std::byte>> {
      return std::as_bytes(std::span(from));
    });
  };
  const auto add_channels = [&](const std::string& prefix, size_t channels,
                                const auto& module) {
    add(prefix + "tau", channels, module.tau);
    if (module.keep_frequency.empty()) return;
    add(prefix + kKeepFrequency, channels, module.keep_frequency);
  };
  for (const auto& [name, rank] : adapter.ranks) {
    for (const auto& [part, values] :
         {std::pair{".rank.A", rank.rows}, {".rank.B", rank.cols}}) {
      tensors.push_back({name + part, "F32", {rank.d, values}});
      data.push_back([&matrices, &rank = rank, tensor = tensors.back()] {
        return matrices(rank, tensor.name, tensor.shape);
      });
    }
    add_channels(name + ".rank.", rank.d, rank);
  }
  for (const auto& [name, mask] : adapter.masks) {
    add_channels(name + ".mask.", mask.cols, mask);
    if (mask.gain.empty()) continue;
    add(name + kMaskGain, mask.gain.size(), mask.gain);
    add(name + kMaskBias, mask.bias.size(), mask.bias);
  }
  for (const auto& [name, gate] : adapter.gates) {
    add_channels(name + ".gate.", gate.cols, gate);
  }
  const size_t hidden = adapter.rotation.hidden;
  for (const RotationGroup& group : adapter.rotation.groups) {
    if (!group.rotated) continue;
    add(NameOf(group), hidden * hidden, group.q);
    tensors.back().shape = {hidden, hidden};
  }
  for (const auto& [block, weight] : adapter.skip.routers) {
    add(RouterName(block), weight.size(), weight);
  }
  tensors.push_back({kFileHash, "U8", {kHashDigits}});
  std::string metadata;
  try {
    metadata = WriteMetadata(adapter).dump();
  } catch (const json::exception& error) {  // a string that is not UTF-8
    return UsageError(
        fmt::format("{}: cannot write the metadata: {:.160}; use "
                    "UTF-8 strings",
                    path, std::string_view(error.what())));
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      SafetensorsWriter writer,
      SafetensorsWriter::Create(path, tensors, {{kMetadataKey, metadata}}));
  ContentHash hash;
  hash.Add(writer.header());
  for (const auto& bytes_of : data) {
    RANKFORGE_ASSIGN_OR_RETURN(const std::span<const std::byte> bytes,
                               bytes_of());
    hash.Add(bytes);
    RANKFORGE_RETURN_IF_ERROR(writer.Append(bytes));
  }
  const std::string digest = hash.Digest();
  RANKFORGE_RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(digest))));
  return writer.Commit();
}

}  // namespace rankforge
