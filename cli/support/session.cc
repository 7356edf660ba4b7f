#include "cli/support/session.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <utility>

#include "base/atomic_file.h"
#include "cli/support/log.h"
#include "runtime/model/use/packed_weights.h"
#include "runtime/model/weights/stored_types.h"
#include "runtime/model/weights/types_file.h"
#include "runtime/table/choice.h"
#include "runtime/threads/executor.h"

namespace rankforge {
namespace {

// "30 entries, fingerprint compatible: stepping 1, here 2".
std::string FitOf(const DispatchTable& table) {
  const std::string differing = Listed(table.differences(), Match::kExact);
  return fmt::format("{} entries, fingerprint {}{}{}", table.entries.size(),
                     Name(table.match()), differing.empty() ? "" : ": ",
                     differing);
}

// RANKFORGE_LOG=3: the answer to one look-up.
void LogLookup(const Problem& problem, const DispatchTable::Answer& answer) {
  const Choice& choice = answer.choice;
  std::vector<std::string> variants;
  for (const DensityKernel& part : choice.by_density) {
    const std::string variant = part.kernel->FullName();
    if (std::ranges::count(variants, variant) == 0) variants.push_back(variant);
  }
  Log(LogLevel::kLookups,
      fmt::format("{}: {} ({}); layout {}, {} threads, {}", problem.ToString(),
                  Name(answer.source), answer.reason, Name(choice.layout),
                  choice.threads, fmt::join(variants, ", ")));
}

}  // namespace

std::string TablePath(const CommonOptions& options) {
  if (options.is_reference) return "";
  return options.table.empty() ? TableOfEnvironment() : options.table;
}

SessionTable::SessionTable(const CommonOptions& options)
    : path_(TablePath(options)) {
  if (!path_.empty() && !TablesAreOff()) {
    Result<DispatchTable> loaded = DispatchTable::Load(path_);
    if (loaded.ok()) {
      table_ = std::move(loaded).value();
      PrintNotes(table_->notes());
      Log(LogLevel::kSummary, fmt::format("{}: {}", path_, FitOf(*table_)));
    } else {
      Log(LogLevel::kProblems,
          loaded.status().message() + "; running without it");
    }
  }
  dispatcher_.emplace(table_ ? &*table_ : nullptr);
  PrintNotes(dispatcher_->notes());
  dispatcher_->Observe([this](const Problem& problem,
                              const DispatchTable::Answer& answer) {
    if (Logs(LogLevel::kLookups)) LogLookup(problem, answer);
    if (!table_) return;
    const std::string note = TunedOtherwise(*table_, path_, problem, answer);
    if (!note.empty()) tuned_otherwise_ = note;
  });
}

void SessionTable::LogLookups() const {
  std::vector<std::string> counts;
  for (size_t source = 0; source < kSources; ++source) {
    counts.push_back(fmt::format("{} {}", dispatcher_->counts()[source],
                                 Name(static_cast<DecisionSource>(source))));
  }
  Log(LogLevel::kSummary, fmt::format("look-ups: {}", fmt::join(counts, ", ")));
  for (const std::string& note :
       {std::exchange(tuned_otherwise_, ""), dispatcher_->ForcedNowhere()}) {
    if (!note.empty()) Log(LogLevel::kProblems, note);
  }
}

Result<Checkpoint> OpenCheckpoint(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(path));
  for (const std::string& note : checkpoint.notes()) PrintMessage(note);
  return checkpoint;
}

Result<ModelOptions> ForModel(const CommonOptions& options,
                              const Checkpoint* checkpoint,
                              const std::optional<Adapter>& adapter) {
  ModelOptions model = options.ForModel();
  const bool blocks = options.has_stored_blocks();
  const bool lm_head = options.has_stored_lm_head();
  if (checkpoint == nullptr) {
    if (!options.types.empty()) {
      return UsageError(
          "--optimized: its types are those of a checkpoint; give a --model");
    }
    if (blocks || lm_head) {
      return UsageError(fmt::format(
          "--dtype {}: random weights are stored nowhere; give a --model, or "
          "another type",
          kStored));
    }
    const std::array types = {model.type, model.lm_head_type};
    const Activations asked = model.activations.value_or(Activations::kF32);
    RANKFORGE_RETURN_IF_ERROR(CheckWeightsTake(asked, types));
    RANKFORGE_RETURN_IF_ERROR(CheckCpu(asked));
    return model;
  }
  const Adapter* const adapted = adapter ? &*adapter : nullptr;
  if (!options.types.empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(
        StoredTypes types,
        LoadTypes(options.types, checkpoint->config(), adapted,
                  {checkpoint->Identity(), adapter ? adapter->identity : ""}));
    if (!model.activations) model.activations = types.activations;
    model.stored_types = std::make_shared<const StoredTypes>(std::move(types));
  } else if (blocks || lm_head) {
    RANKFORGE_ASSIGN_OR_RETURN(StoredTypes types,
                               StoredTypesOf(*checkpoint, blocks, lm_head));
    model.stored_types = std::make_shared<const StoredTypes>(std::move(types));
  }
  RANKFORGE_RETURN_IF_ERROR(
      CheckActivations(checkpoint->config(), adapted, model));
  return model;
}

void PrintNotes(const std::vector<std::string>& notes) {
  if (notes.empty()) return;
  const std::string more =
      notes.size() > 1 ? fmt::format(" (and {} more)", notes.size() - 1) : "";
  Log(LogLevel::kProblems, notes.front() + more);
}

Result<std::optional<Adapter>> OpenAdapter(const Checkpoint& checkpoint,
                                           const CommonOptions& options) {
  std::optional<Adapter> adapter;
  if (!options.adapter.empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(
        adapter,
        LoadAdapterOf(checkpoint, options.adapter,
                      options.pack.empty() ? AdapterParts::kAll
                                           : AdapterParts::kWithoutMatrices));
  }
  return adapter;
}

PackOrigin OriginOf(const Checkpoint& checkpoint,
                    const std::optional<Adapter>& adapter) {
  return {checkpoint.FullHash(), adapter ? adapter->identity : ""};
}

Result<std::unique_ptr<WeightSource>> OpenPack(
    const Checkpoint& checkpoint, const std::optional<Adapter>& adapter,
    const CommonOptions& options) {
  std::unique_ptr<WeightSource> pack;
  if (!options.pack.empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(
        PackedWeights weights,
        PackedWeights::Open(options.pack, checkpoint,
                            OriginOf(checkpoint, adapter)));
    pack = std::make_unique<PackedWeights>(std::move(weights));
  }
  return pack;
}

Result<std::unique_ptr<ModelSession>> OpenModel(const std::string& directory,
                                                const CommonOptions& options,
                                                double tau_scale) {
  const auto start = std::chrono::steady_clock::now();
  RANKFORGE_ASSIGN_OR_RETURN(Checkpoint checkpoint, OpenCheckpoint(directory));
  auto session = std::make_unique<ModelSession>(
      ModelSession{std::move(checkpoint), {}, {}, {}, {}});
  RANKFORGE_ASSIGN_OR_RETURN(session->adapter,
                             OpenAdapter(session->checkpoint, options));
  RANKFORGE_ASSIGN_OR_RETURN(
      session->pack, OpenPack(session->checkpoint, session->adapter, options));
  if (session->pack) session->checkpoint.ExpectSparseReads();
  session->table = std::make_unique<SessionTable>(options);
  RANKFORGE_ASSIGN_OR_RETURN(
      ModelOptions model_options,
      ForModel(options, &session->checkpoint, session->adapter));
  model_options.tau_scale = tau_scale;
  RANKFORGE_ASSIGN_OR_RETURN(
      session->model,
      Model::Create(session->checkpoint.config(),
                    session->pack ? *session->pack : session->checkpoint,
                    session->adapter ? &*session->adapter : nullptr,
                    session->table->dispatcher(), model_options,
                    MakeDefaultExecutor(model_options.threads)));
  if (!options.is_reference) session->table->LogLookups();
  const std::chrono::duration<double> seconds =
      std::chrono::steady_clock::now() - start;
  session->load_seconds = seconds.count();
  return session;
}

Json RunToJson(const std::string& model, const std::optional<Adapter>& adapter,
               const CommonOptions& options) {
  const std::filesystem::path folder = model + "/";  // ends in no name
  Json run;
  run["model"] = folder.lexically_normal().parent_path().filename().string();
  run["adapter"] = options.adapter.empty() ? Json() : Json(options.adapter);
  run["method"] = adapter ? adapter->method : "dense";
  run["keep"] = adapter ? Rounded(adapter->keep) : 1.0;
  run["dtype"] = options.dtype_name();
  return run;
}

Json ActivationsToJson(const Model& model) {
  Json shares = Json::object();
  for (const auto& [activations, share] : model.activations()) {
    shares[std::string(Name(activations))] = Rounded(share);
  }
  return shares;
}

Json ToJson(const LayerDecision& decision) {
  Json json = {{"skipped_layers", decision.skipped}};
  for (const auto& [layer, rho] : decision.rho) {
    json["rho"][std::to_string(layer)] = Rounded(rho);
  }
  json["kv_bytes_freed"] = decision.freed_bytes;
  return json;
}

std::string Described(const LayerDecision& decision, size_t layers) {
  if (decision.skipped.empty()) {
    return fmt::format("skipped no layer of {}", layers);
  }
  return fmt::format(
      "skipped layers {} of {}, {:.1f} MB of keys and values "
      "freed",
      fmt::join(decision.skipped, ", "), layers,
      static_cast<double>(decision.freed_bytes) / 1e6);
}

Status CheckOutput(const std::string& path,
                   std::initializer_list<std::string> inputs) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path out = path;
  const fs::path folder = out.has_parent_path() ? out.parent_path() : ".";
  for (const std::string& input : inputs) {
    const bool same = fs::is_directory(input, error)
                          ? fs::exists(out, error) &&
                                IsCheckpointFile(out.filename().string()) &&
                                fs::equivalent(folder, input, error)
                          : fs::equivalent(out, input, error);
    if (same) {
      return UsageError(fmt::format(
          "--out {}: is a file that this command reads; name another one",
          path));
    }
  }
  return AtomicFile::Create(path).status();
}

}  // namespace rankforge
