#include "cli/session.h"

#include <fmt/format.h>

#include <cstdlib>
#include <utility>

#include "cli/output.h"
#include "runtime/atomic_file.h"
#include "runtime/executor.h"

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

Result<std::unique_ptr<ModelSession>> OpenModel(const std::string& directory,
                                                const CommonOptions& options,
                                                double tau_scale) {
  RANKFORGE_ASSIGN_OR_RETURN(Checkpoint checkpoint,
                             Checkpoint::Open(directory));
  auto session = std::make_unique<ModelSession>(
      ModelSession{std::move(checkpoint), {}, {}, {}});
  if (!options.adapter.empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(
        session->adapter,
        LoadAdapter(options.adapter, session->checkpoint.Identity()));
  }
  session->table = std::make_unique<SessionTable>(options);
  ModelOptions model_options = options.ForModel();
  model_options.tau_scale = tau_scale;
  RANKFORGE_ASSIGN_OR_RETURN(
      session->model,
      BuildModel(session->checkpoint.config(), session->checkpoint,
                 session->adapter ? &*session->adapter : nullptr,
                 *session->table, model_options));
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
