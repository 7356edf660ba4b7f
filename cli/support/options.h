// Options that several subcommands share, described and checked once.
#ifndef RANKFORGE_CLI_SUPPORT_OPTIONS_H_
#define RANKFORGE_CLI_SUPPORT_OPTIONS_H_

#include <CLI/CLI.hpp>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/model/forward/model.h"

namespace rankforge {

// The --dtype that keeps the types of the checkpoint.
inline constexpr char kStored[] = "stored";

// The files of a folder of `rankforge optimize`.
inline constexpr char kOptimizedAdapter[] = "adapter.safetensors";  // may lack
inline constexpr char kOptimizedTable[] = "table.json";
inline constexpr char kOptimizedTypes[] = "types.json";

// As the command line gave them; the defaults are those that --help shows.
struct CommonOptions {
  CommonOptions();

  size_t threads;             // usable cores
  std::string dtype = "f32";  // a weight type, or kStored
  std::string lm_head_dtype;  // empty: as dtype
  // The file with the type of each matrix, in place of both; empty: none.
  std::string types;
  std::string kv_dtype;
  std::optional<Activations> activations;  // none: as the type of weights has
  std::string table;                       // empty: RANKFORGE_TABLE, else none
  // A model that another is compared with: it takes no table, and says nothing
  // of look-ups.
  bool is_reference = false;
  std::string adapter;  // empty: none
  std::string pack;     // empty: none
  SkipOptions skip;     // of layers, once a prompt has run
  uint64_t seed = 0;
  bool json = false;

  // Without stored_types: ForModel of session.h adds them.
  ModelOptions ForModel() const;
  // What results call the types of the weights.
  const std::string& dtype_name() const;
  bool has_stored_blocks() const { return dtype == kStored; }
  bool has_stored_lm_head() const {
    return lm_head_dtype.empty() ? dtype == kStored : lm_head_dtype == kStored;
  }
};

// A weight type by its name, or "i4" for i4_group32.
std::optional<WeightType> WeightTypeNamed(std::string_view name);
// "f32, bf16, ...", for messages.
std::string WeightTypeList();

// Where "-" names a text to read.
inline constexpr char kStandardInput[] = "/dev/stdin";
// A file or a pipe that can be read; "-" becomes kStandardInput.
CLI::Validator TextInput();

// A finite number in [least, most]; unlike CLI::Range, not NaN.
CLI::Validator NumberFrom(double least,
                          double most = std::numeric_limits<double>::max());
// A whole number in [least, most], without a sign, which CLI11 would accept for
// an unsigned one.
CLI::Validator WholeFrom(uint64_t least,
                         uint64_t most = std::numeric_limits<uint64_t>::max());

// Each adds the options that its name says.
void AddJson(CLI::App& command, CommonOptions& options);
void AddThreads(CLI::App& command, CommonOptions& options);
CLI::Option* AddWeightType(CLI::App& command, CommonOptions& options);
CLI::Option* AddActivations(CLI::App& command, CommonOptions& options);
// The three dtypes and --activations.
void AddTypes(CLI::App& command, CommonOptions& options);
CLI::Option* AddTableOption(CLI::App& command, CommonOptions& options);
CLI::Option* AddAdapter(CLI::App& command, CommonOptions& options);
CLI::Option* AddPackOption(CLI::App& command, CommonOptions& options);
// --optimized DIR: the adapter, the table and the types that `rankforge
// optimize` wrote there. Excludes the options that name one of them, which
// `command` must have by now.
CLI::Option* AddOptimized(CLI::App& command, CommonOptions& options);
CLI::Option* AddSeed(CLI::App& command, CommonOptions& options);

// --tau-scale S of commands that run a model with an adapter.
void AddTauScale(CLI::App& command, double& tau_scale);
// --skip-layers, --skip-threshold, --max-skip and --always-on of commands that
// decode after a prompt; `command` must have --adapter by now.
void AddLayerSkip(CLI::App& command, CommonOptions& options);
// --allow-noise of commands that measure.
void AddAllowNoise(CLI::App& command, bool& allow_noise);
// --keep R in (0, 1].
CLI::Option* AddKeep(CLI::App& command, double& keep);
// --preset NAME, one of Presets().
CLI::Option* AddPreset(CLI::App& command, std::string& preset);
// --model DIR, which must exist.
CLI::Option* AddModel(CLI::App& command, std::string& model);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_SUPPORT_OPTIONS_H_
