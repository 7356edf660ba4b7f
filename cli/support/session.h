// Loads the tables, checkpoints, adapters and models that the command line
// names, and prints each message about them once.
#ifndef RANKFORGE_CLI_SUPPORT_SESSION_H_
#define RANKFORGE_CLI_SUPPORT_SESSION_H_

#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "runtime/model/format/adapter.h"
#include "runtime/model/format/checkpoint.h"
#include "runtime/model/format/pack_file.h"
#include "runtime/model/forward/model.h"
#include "runtime/table/dispatch.h"

namespace rankforge {

// The path that --table or else RANKFORGE_TABLE gives; empty: neither, or a
// reference.
std::string TablePath(const CommonOptions& options);

// The table at TablePath. A table that cannot be
// used costs speed, never a result: one message says why, and the defaults are
// used.
class SessionTable {
 public:
  explicit SessionTable(const CommonOptions& options);
  const Dispatcher& dispatcher() const { return *dispatcher_; }
  // With RANKFORGE_LOG=2, prints how many look-ups each kind of source
  // answered. In any case one line if the table was tuned for activations that
  // are not those of the model, or if RANKFORGE_FORCE names a variant that fits
  // no product.
  void LogLookups() const;

 private:
  std::string path_;
  std::optional<DispatchTable> table_;
  std::optional<Dispatcher> dispatcher_;  // points to table_
  mutable std::string tuned_otherwise_;   // a message; empty: none

 public:
  SessionTable(const SessionTable&) = delete;
  SessionTable& operator=(const SessionTable&) = delete;
};

// ForModel() with the types of `checkpoint` (null: random weights) where
// --dtype or --lm-head-dtype is kStored, or with those that the file of
// --optimized has for it and its adapter; an error if there is no checkpoint.
Result<ModelOptions> ForModel(const CommonOptions& options,
                              const Checkpoint* checkpoint,
                              const std::optional<Adapter>& adapter);

// Checkpoint::Open; prints its notes.
Result<Checkpoint> OpenCheckpoint(const std::string& path);

// Prints the first of `notes`, and how many more there are.
void PrintNotes(const std::vector<std::string>& notes);

// The adapter that --adapter names; with --pack without its matrices.
Result<std::optional<Adapter>> OpenAdapter(const Checkpoint& checkpoint,
                                           const CommonOptions& options);

// The origin of a pack that is made from these.
PackOrigin OriginOf(const Checkpoint& checkpoint,
                    const std::optional<Adapter>& adapter);

// The pack that --pack names, on top of `checkpoint`, which must outlive it;
// null: none is named.
Result<std::unique_ptr<WeightSource>> OpenPack(
    const Checkpoint& checkpoint, const std::optional<Adapter>& adapter,
    const CommonOptions& options);

// A checkpoint, the adapter and the pack that the options name, and the model
// that is made of them.
struct ModelSession {
  Checkpoint checkpoint;
  std::optional<Adapter> adapter;
  std::unique_ptr<WeightSource> pack;
  std::unique_ptr<SessionTable> table;
  std::optional<Model> model;
  double load_seconds = 0;
};

Result<std::unique_ptr<ModelSession>> OpenModel(const std::string& directory,
                                                const CommonOptions& options,
                                                double tau_scale);

// What a result belongs to, for programs that collect results of several runs:
// "model" (name of its folder or preset), "adapter" (its file, or null),
// "method" and "keep" of it ("dense" and 1), "dtype".
Json RunToJson(const std::string& model, const std::optional<Adapter>& adapter,
               const CommonOptions& options);

// {"i8": share, "f32": share}: Model::activations().
Json ActivationsToJson(const Model& model);
// What a prompt decided about layers: "skipped_layers", "rho" by layer where
// there are routers, "kv_bytes_freed".
Json ToJson(const LayerDecision& decision);
// "skipped layers 7, 9 of 30, 1.2 MB of keys and values freed".
std::string Described(const LayerDecision& decision, size_t layers);

// Fails if `path` cannot be written, or if it is one of the files that the
// command reads (a folder stands for its checkpoint): commands ask before the
// long work whose result goes there. Leaves no file.
Status CheckOutput(const std::string& path,
                   std::initializer_list<std::string> inputs);

// The most bytes that a text or a list of token ids may have. A larger file is
// something else.
inline constexpr size_t kMaxTextBytes = size_t{1} << 30;

}  // namespace rankforge

#endif  // RANKFORGE_CLI_SUPPORT_SESSION_H_
