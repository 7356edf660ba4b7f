#include "runtime/model/format/adapter.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string_view>
#include <utility>

#include "runtime/model/format/safetensors.h"

namespace rankforge {

namespace {

using nlohmann::json;

constexpr char kMetadataKey[] = "rankforge";
constexpr char kFormat[] = "rankforge-adapter/1";

// Four decimals are more than a frequency over some thousand tokens has, and
// keep the header of a 7B adapter at a few megabytes.
json Rounded(const std::vector<float>& frequencies) {
  json values = json::array();
  for (const float value : frequencies) {
    values.push_back(std::round(static_cast<double>(value) * 1e4) / 1e4);
  }
  return values;
}

// What a rank adapter and an input mask have in common.
template <class Module>
json Statistics(const Module& module) {
  return {{"cols", module.cols},
          {"density", module.density},
          {"density_quantiles", module.density_quantiles},
          {"error", module.error},
          {"keep_frequency", Rounded(module.keep_frequency)}};
}

template <class Module>
void ReadStatistics(const json& entry, Module& module) {
  module.cols = entry.at("cols").get<size_t>();
  module.density = entry.at("density").get<double>();
  module.density_quantiles =
      entry.at("density_quantiles").get<std::map<std::string, double>>();
  module.error = entry.at("error").get<double>();
  module.keep_frequency = entry.at("keep_frequency").get<std::vector<float>>();
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

// Everything of the adapter but its tensors. Throws json::exception where a
// field is missing or has another type.
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
  // Files without any may lack the field.
  if (root.contains("gates")) adapter.gates = ReadMasks(root.at("gates"));
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
  return {{"format", kFormat},
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
}

// The numbers of a module that the forward pass or the tuner relies on.
template <class Module>
Status CheckStatistics(const std::string& where, const Module& module) {
  const auto wrong = [&](const std::string& field, double value) {
    return Failed(
        fmt::format("{} field '{}' is {}; make the adapter again "
                    "with rankforge adapt",
                    where, field, value));
  };
  const auto share = [](double value) { return value >= 0 && value <= 1; };
  if (!share(module.density)) return wrong("density", module.density);
  if (!module.keep_frequency.empty()) {
    for (const float value : module.keep_frequency) {
      if (!share(value)) return wrong("keep_frequency", value);
    }
  }
  return {};
}

}  // namespace

Result<Adapter> LoadAdapter(const std::string& path,
                            const std::string& checkpoint_hash,
                            AdapterParts parts) {
  constexpr std::string_view kMakeAgain =
      "make the adapter again with rankforge adapt";
  RANKFORGE_ASSIGN_OR_RETURN(const SafetensorsFile file,
                             SafetensorsFile::Open(path));
  const auto metadata = file.metadata().find(kMetadataKey);
  if (metadata == file.metadata().end()) {
    return Failed(
        fmt::format("{}: '__metadata__' has no field '{}', this is "
                    "no adapter file; give one that rankforge adapt "
                    "wrote",
                    path, kMetadataKey));
  }
  Adapter adapter;
  try {
    const json root = json::parse(metadata->second);
    const auto format =
        root.is_object() ? root.value("format", json()) : json();
    if (format != kFormat) {
      return Failed(
          fmt::format("{}: metadata field 'format' is {:.60}, this "
                      "build reads \"{}\"; {}",
                      path, format.dump(-1, ' ', true), kFormat, kMakeAgain));
    }
    adapter = ReadMetadata(root);
  } catch (const json::exception& error) {
    return Failed(fmt::format("{}: wrong metadata ({:.160}); {}", path,
                              std::string_view(error.what()), kMakeAgain));
  }
  if (adapter.checkpoint_hash != checkpoint_hash) {
    return Failed(fmt::format(
        "{}: metadata field 'checkpoint.identity' is {:.64}, this checkpoint "
        "is {}; the adapter was made for another checkpoint, give that one or "
        "{}",
        path, adapter.checkpoint_hash, checkpoint_hash, kMakeAgain));
  }
  adapter.identity = SampledHash({&file, 1});

  std::set<std::string> used;
  const auto floats = [&](const std::string& name,
                          std::initializer_list<size_t> shape) {
    used.insert(name);
    return file.Floats(name, std::span(shape.begin(), shape.size()));
  };
  const auto matrix =
      [&](const std::string& name,
          std::initializer_list<size_t> shape) -> Result<std::vector<float>> {
    if (parts == AdapterParts::kAll) return floats(name, shape);
    used.insert(name);
    RANKFORGE_RETURN_IF_ERROR(
        file.Bytes(name, "F32", std::span(shape.begin(), shape.size()))
            .status());
    return std::vector<float>();
  };
  for (auto& [name, rank] : adapter.ranks) {
    RANKFORGE_ASSIGN_OR_RETURN(rank.a,
                               matrix(name + ".rank.A", {rank.d, rank.rows}));
    RANKFORGE_ASSIGN_OR_RETURN(rank.b,
                               matrix(name + ".rank.B", {rank.d, rank.cols}));
    RANKFORGE_ASSIGN_OR_RETURN(rank.tau, floats(name + ".rank.tau", {rank.d}));
    if (!rank.keep_frequency.empty() && rank.keep_frequency.size() != rank.d) {
      return Failed(fmt::format(
          "{}: module '{}' field 'keep_frequency' has {} "
          "values for {} ranks; {}",
          path, name, rank.keep_frequency.size(), rank.d, kMakeAgain));
    }
    RANKFORGE_RETURN_IF_ERROR(
        CheckStatistics(fmt::format("{}: module '{}'", path, name), rank));
  }
  const auto thresholds = [&](std::map<std::string, InputMask>& masks,
                              const char* kind) -> Status {
    for (auto& [name, mask] : masks) {
      RANKFORGE_ASSIGN_OR_RETURN(mask.tau,
                                 floats(name + kind + ".tau", {mask.cols}));
      if (!mask.keep_frequency.empty() &&
          mask.keep_frequency.size() != mask.cols) {
        return Failed(fmt::format(
            "{}: module '{}' field 'keep_frequency' has {} "
            "values for {} inputs; {}",
            path, name, mask.keep_frequency.size(), mask.cols, kMakeAgain));
      }
      RANKFORGE_RETURN_IF_ERROR(
          CheckStatistics(fmt::format("{}: module '{}'", path, name), mask));
    }
    return {};
  };
  RANKFORGE_RETURN_IF_ERROR(thresholds(adapter.masks, ".mask"));
  RANKFORGE_RETURN_IF_ERROR(thresholds(adapter.gates, ".gate"));
  for (const auto& [name, info] : file.tensors()) {
    if (!used.contains(name)) {
      return Failed(
          fmt::format("{}: tensor '{}' belongs to no module of the "
                      "metadata; {}",
                      path, name, kMakeAgain));
    }
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
  for (const auto& [name, rank] : adapter.ranks) {
    for (const auto& [part, values] :
         {std::pair{".rank.A", rank.rows}, {".rank.B", rank.cols}}) {
      tensors.push_back({name + part, "F32", {rank.d, values}});
      data.push_back([&matrices, &rank = rank, tensor = tensors.back()] {
        return matrices(rank, tensor.name, tensor.shape);
      });
    }
    add(name + ".rank.tau", rank.d, rank.tau);
  }
  for (const auto& [name, mask] : adapter.masks) {
    add(name + ".mask.tau", mask.cols, mask.tau);
  }
  for (const auto& [name, gate] : adapter.gates) {
    add(name + ".gate.tau", gate.cols, gate.tau);
  }
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
  for (const auto& bytes_of : data) {
    RANKFORGE_ASSIGN_OR_RETURN(const std::span<const std::byte> bytes,
                               bytes_of());
    RANKFORGE_RETURN_IF_ERROR(writer.Append(bytes));
  }
  return writer.Commit();
}

}  // namespace rankforge
