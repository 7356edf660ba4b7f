#include "cli/support/shapes.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "base/files.h"
#include "cli/support/output.h"
#include "cli/support/session.h"
#include "meta/types.h"
#include "meta/variants.h"
#include "runtime/model/format/adapter.h"
#include "runtime/model/format/checkpoint.h"
#include "runtime/model/weights/modules.h"
#include "runtime/model/weights/synthetic.h"
#include "runtime/table/choice.h"
#include "tuner/search/space.h"

namespace rankforge {
namespace {

// Adds each of `more` to `all`. If `all` already has its problem, only its
// layers are added.
void Merge(std::vector<Workload> more, std::vector<Workload>& all) {
  for (Workload& workload : more) {
    const auto same =
        std::ranges::find(all, workload.problem, &Workload::problem);
    if (same == all.end()) {
      all.push_back(std::move(workload));
      continue;
    }
    for (std::string& layer : workload.layers) {
      if (std::ranges::count(same->layers, layer) == 0) {
        same->layers.push_back(std::move(layer));
      }
    }
  }
}

// The model to tune for: of a checkpoint or of a preset.
struct Subject {
  ModelConfig config;
  std::optional<Adapter> adapter;
  ModelOptions options;

  const Adapter* adapter_or_null() const {
    return adapter ? &*adapter : nullptr;
  }
};

Result<Subject> OpenSubject(const WorkloadOptions& options,
                            const CommonOptions& common, size_t threads) {
  const std::string& adapter_path = common.adapter;
  Subject subject;
  if (!options.model.empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                               OpenCheckpoint(options.model));
    subject.config = checkpoint.config();
    if (!adapter_path.empty()) {
      // Shapes and frequencies alone: A and B of a 7B model are 18 GB of f32.
      RANKFORGE_ASSIGN_OR_RETURN(
          subject.adapter, LoadAdapter(adapter_path, checkpoint.Identity(),
                                       AdapterParts::kWithoutMatrices));
      RANKFORGE_RETURN_IF_ERROR(CheckAdapter(subject.config, *subject.adapter));
    }
    RANKFORGE_ASSIGN_OR_RETURN(subject.options,
                               ForModel(common, &checkpoint, subject.adapter));
    subject.options.threads = threads;
    return subject;
  }
  RANKFORGE_ASSIGN_OR_RETURN(subject.config, FindPreset(options.preset));
  RANKFORGE_ASSIGN_OR_RETURN(subject.options, ForModel(common, nullptr, {}));
  subject.options.threads = threads;
  if (options.keep < 1) {
    RANKFORGE_ASSIGN_OR_RETURN(subject.adapter,
                               SyntheticAdapter(subject.config, options.keep));
  }
  return subject;
}

// One element of a shapes file. `where` is "FILE: entry 3" for messages.
Result<Workload> ParseShape(const Json& entry, const std::string& where,
                            std::optional<Activations> activations,
                            size_t threads) {
  if (!entry.is_object()) return Failed(where + ": not an object");
  Workload workload;
  Problem& problem = workload.problem;
  problem.threads = threads;
  try {
    const auto operation = entry.value("operation", std::string("dense"));
    const auto dtype = entry.value("dtype", std::string("f32"));
    const auto known_operation = FromName(kOperations, operation);
    const auto known_dtype = WeightTypeNamed(dtype);
    if (!known_operation) {
      return Failed(
          fmt::format("{}: operation '{}': use dense, row_mask or column_mask",
                      where, operation));
    }
    if (!known_dtype) {
      return Failed(fmt::format("{}: dtype '{}': use one of {}", where, dtype,
                                WeightTypeList()));
    }
    problem.operation = *known_operation;
    problem.type = *known_dtype;
    problem.rows = entry.at("rows").get<size_t>();
    problem.cols = entry.at("cols").get<size_t>();
    problem.granularity = entry.value("granularity", size_t{1});
    problem.activations =
        ActivationsFor(problem.operation, problem.type,
                       activations.value_or(DefaultActivations(problem.type)));
    if (entry.contains("activations")) {
      const Json& given = entry["activations"];
      const std::string name =
          given.is_string() ? given.get<std::string>() : given.dump();
      const auto own = FromName(kActivations, name);
      if (!own ||
          ActivationsFor(problem.operation, problem.type, *own) != *own) {
        return Failed(
            fmt::format("{}: activations '{}': {} in {} takes f32{}", where,
                        name, operation, dtype,
                        IsQuantized(problem.type) ? " or i8"
                        : problem.type == WeightType::kBf16 &&
                                problem.operation != Operation::kColumnMask
                            ? " or bf16"
                            : ""));
      }
      problem.activations = *own;
    }
    workload.density = entry.value("density", 1.0);
  } catch (const Json::exception& error) {
    return Failed(fmt::format("{}: {}", where, error.what()));
  }
  constexpr size_t kMaxSide = size_t{1} << 24;
  if (problem.rows == 0 || problem.cols == 0 || problem.rows > kMaxSide ||
      problem.cols > kMaxSide) {
    return Failed(fmt::format("{}: rows {}, cols {}: use 1 to {}", where,
                              problem.rows, problem.cols, kMaxSide));
  }
  if (problem.granularity != 1 && problem.granularity != 8 &&
      problem.granularity != 32) {
    return Failed(fmt::format("{}: granularity {}: use 1, 8 or 32", where,
                              problem.granularity));
  }
  if (!(workload.density > 0 && workload.density <= 1)) {
    return Failed(fmt::format("{}: density {} is outside (0, 1]", where,
                              workload.density));
  }
  workload.layers = {problem.ToString()};
  return workload;
}

Result<std::vector<Workload>> OfShapes(const std::string& path,
                                       std::optional<Activations> activations,
                                       size_t threads) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::string text,
                             ReadTextFile(path, kMaxTextBytes));
  RANKFORGE_ASSIGN_OR_RETURN(const Json document, ParseInput(path, text));
  if (!document.is_array() || document.empty()) {
    return Failed(path +
                  ": not a JSON list of problems like {\"operation\": "
                  "\"column_mask\", \"rows\": 4096, \"cols\": 11008, "
                  "\"dtype\": \"bf16\", \"density\": 0.5}");
  }
  std::vector<Workload> workloads;
  std::vector<WeightType> types;  // of entries that have what is asked for
  for (size_t i = 0; i < document.size(); ++i) {
    RANKFORGE_ASSIGN_OR_RETURN(
        Workload workload,
        ParseShape(document[i], fmt::format("{}: entry {}", path, i),
                   activations, threads));
    if (!document[i].contains("activations") &&
        workload.problem.activations == activations) {
      types.push_back(workload.problem.type);
    }
    RANKFORGE_RETURN_IF_ERROR(CheckCpu(workload.problem.activations));
    Merge({std::move(workload)}, workloads);
  }
  if (activations) {
    RANKFORGE_RETURN_IF_ERROR(CheckWeightsTake(*activations, types));
  }
  return workloads;
}

}  // namespace

void AddWorkloadOptions(CLI::App& command, WorkloadOptions& options,
                        CommonOptions& common, bool needed) {
  CLI::Option_group* source = command.add_option_group("what to tune for");
  CLI::Option* model = AddModel(*source, options.model);
  CLI::Option* preset = AddPreset(*source, options.preset);
  source
      ->add_option("--shapes", options.shapes,
                   "JSON list of problems: operation, rows, cols, dtype, "
                   "density, granularity, activations")
      ->check(CLI::ExistingFile);
  source->require_option(needed ? 1 : 0, 1);
  AddKeep(command, options.keep)->needs(preset);
  AddAdapter(command, common)->needs(model);
  AddTypes(command, common);
  std::map<std::string, MaskStructure> structures;
  for (const MaskStructure structure : kMaskStructures) {
    structures.emplace(Name(structure), structure);
  }
  command
      .add_option("--mask-structure", options.mask_structure,
                  "Masks of problems for which an adapter recorded none")
      ->transform(CLI::CheckedTransformer(structures))
      ->default_str(std::string(Name(options.mask_structure)));
}

Result<std::vector<Workload>> LoadWorkloads(const WorkloadOptions& options,
                                            const CommonOptions& common,
                                            size_t threads) {
  std::vector<Workload> workloads;
  if (!options.shapes.empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(
        workloads, OfShapes(options.shapes, common.activations, threads));
  } else if (!options.model.empty() || !options.preset.empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(const Subject subject,
                               OpenSubject(options, common, threads));
    workloads = ModelWorkloads(subject.config, subject.adapter_or_null(),
                               subject.options);
    if (subject.adapter) {
      Merge(ModelWorkloads(subject.config, nullptr, subject.options),
            workloads);
    }
  }
  for (Workload& workload : workloads) {
    workload.mask_structure = options.mask_structure;
  }
  return workloads;
}

Result<std::vector<Problem>> LoadSequence(const WorkloadOptions& options,
                                          const CommonOptions& common,
                                          size_t threads) {
  if (!options.shapes.empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(
        const std::vector<Workload> workloads,
        OfShapes(options.shapes, common.activations, threads));
    std::vector<Problem> sequence;
    for (const Workload& workload : workloads) {
      sequence.push_back(workload.problem);
    }
    return sequence;
  }
  RANKFORGE_ASSIGN_OR_RETURN(const Subject subject,
                             OpenSubject(options, common, threads));
  return DecodeSequence(subject.config, subject.adapter_or_null(),
                        subject.options);
}

size_t WeightBytes(const std::vector<Workload>& workloads) {
  double bytes = 0;
  for (const Workload& workload : workloads) bytes += ModelBytes(workload);
  return static_cast<size_t>(bytes);
}

}  // namespace rankforge
