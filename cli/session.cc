#include "cli/session.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <utility>

#include "cli/output.h"
#include "runtime/atomic_file.h"
#include "runtime/executor.h"
#include "runtime/model/packed_weights.h"

namespace rankforge {
namespace {

std::string TablePath(const CommonOptions& options) {
  if (!options.table.empty()) return options.table;
  const char* from_environment = std::getenv("RANKFORGE_TABLE");
  return from_environment == nullptr ? "" : from_environment;
}

}  // namespace

SessionTable::SessionTable(const CommonOptions& options) {
  if (const std::string path = TablePath(options); !path.empty()) {
    Result<DispatchTable> loaded = DispatchTable::Load(path);
    if (loaded.ok()) {
      table_ = std::move(loaded).value();
      PrintNotes(table_->notes());
    } else {
      PrintMessage(loaded.status().message() + "; running untuned defaults");
    }
  }
  dispatcher_.emplace(table_ ? &*table_ : nullptr);
  PrintNotes(dispatcher_->notes());
}

void PrintNotes(const std::vector<std::string>& notes) {
  if (notes.empty()) return;
  const std::string more =
      notes.size() > 1 ? fmt::format(" (and {} more)", notes.size() - 1) : "";
  PrintMessage(notes.front() + more);
}

Result<Model> BuildModel(const ModelConfig& config, const WeightSource& source,
                         const Adapter* adapter, const SessionTable& table,
                         const ModelOptions& options) {
  RANKFORGE_ASSIGN_OR_RETURN(
      Model model,
      Model::Create(config, source, adapter, table.dispatcher(), options,
                    MakeDefaultExecutor(options.threads)));
  PrintNotes(model.notes());
  return model;
}

Result<std::optional<Adapter>> OpenAdapter(const Checkpoint& checkpoint,
                                           const CommonOptions& options) {
  std::optional<Adapter> adapter;
  if (!options.adapter.empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(
        adapter,
        LoadAdapter(options.adapter, checkpoint.Identity(),
                    options.pack.empty() ? AdapterParts::kAll
                                         : AdapterParts::kWithoutMatrices));
  }
  return adapter;
}

PackOrigin OriginOf(const Checkpoint& checkpoint,
                    const std::optional<Adapter>& adapter) {
  return {checkpoint.Identity(), adapter ? adapter->identity : ""};
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
  RANKFORGE_ASSIGN_OR_RETURN(Checkpoint checkpoint,
                             Checkpoint::Open(directory));
  auto session = std::make_unique<ModelSession>(
      ModelSession{std::move(checkpoint), {}, {}, {}, {}});
  RANKFORGE_ASSIGN_OR_RETURN(session->adapter,
                             OpenAdapter(session->checkpoint, options));
  RANKFORGE_ASSIGN_OR_RETURN(
      session->pack, OpenPack(session->checkpoint, session->adapter, options));
  if (session->pack) session->checkpoint.ExpectSparseReads();
  session->table = std::make_unique<SessionTable>(options);
  ModelOptions model_options = options.ForModel();
  model_options.tau_scale = tau_scale;
  RANKFORGE_ASSIGN_OR_RETURN(
      session->model,
      BuildModel(session->checkpoint.config(),
                 session->pack ? *session->pack : session->checkpoint,
                 session->adapter ? &*session->adapter : nullptr,
                 *session->table, model_options));
  const std::chrono::duration<double> seconds =
      std::chrono::steady_clock::now() - start;
  session->load_seconds = seconds.count();
  return session;
}

std::string KindOf(const std::string& module) {
  size_t begin = 0;
  for (int dots = 0; dots < 3; ++dots) begin = module.find('.', begin) + 1;
  return module.substr(begin);
}

Status CheckWritable(const std::string& path) {
  return AtomicFile::Create(path).status();
}

}  // namespace rankforge
