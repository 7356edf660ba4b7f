// `rankforge import`: an adapter from matrices and thresholds that another
// program found.
#include "adapt/import.h"

#include <memory>

#include "cli/support/commands.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "cli/support/progress.h"
#include "cli/support/session.h"
#include "cli/support/token_ids.h"

namespace rankforge {
namespace {

struct ImportArguments {
  CommonOptions common;
  ImportOptions options;
  std::string state;
  std::string model;
  TokenSource calibration;
  std::string out;
};

Status RunImport(const ImportArguments& arguments) {
  RANKFORGE_RETURN_IF_ERROR(CheckOutput(
      arguments.out, {arguments.model, arguments.state,
                      arguments.calibration.text, arguments.calibration.ids}));
  RANKFORGE_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                             OpenCheckpoint(arguments.model));
  RANKFORGE_ASSIGN_OR_RETURN(const std::vector<int> ids,
                             LoadIds(arguments.model, arguments.calibration));
  ImportOptions options = arguments.options;
  options.threads = arguments.common.threads;
  options.seed = arguments.common.seed;
  options.bos = RecordedBos(arguments.calibration);
  const Result<Adapter> adapter = [&] {
    Progress progress("import");
    options.progress = [&](size_t done, size_t total) {
      progress.Update(done, total, "windows measured");
    };
    return ImportAdapter(checkpoint, arguments.state, ids, options);
  }();
  if (!adapter.ok()) return adapter.status();
  RANKFORGE_RETURN_IF_ERROR(SaveAdapter(*adapter, arguments.out));
  if (arguments.common.json) {
    PrintJson({{"method", adapter->method},
               {"linear_flops_ratio", Rounded(adapter->linear_flops_ratio)},
               {"calibration_tokens", adapter->calibration_tokens},
               {"rank_adapters", adapter->ranks.size()},
               {"input_masks", adapter->masks.size()},
               {"gate_masks", adapter->gates.size()},
               {"left_dense", adapter->left_dense},
               {"adapter", arguments.out}});
    return {};
  }
  Print(
      "{}: {}, {} rank adapters, {} input masks, {} gate masks, {} projections "
      "stay dense, linear_flops_ratio {:.3f} on {} tokens\n",
      arguments.out, adapter->method, adapter->ranks.size(),
      adapter->masks.size(), adapter->gates.size(), adapter->left_dense.size(),
      adapter->linear_flops_ratio, adapter->calibration_tokens);
  return {};
}

}  // namespace

void AddImport(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand(
      "import",
      "Make an adapter from the matrices and thresholds of another program "
      "(RaNA's reference implementation, TEAL, CATS; docs/import.md)");
  auto arguments = std::make_shared<ImportArguments>();
  command
      ->add_option("STATE", arguments->state,
                   "State, a safetensors file; scripts/convert_state.py writes "
                   "it")
      ->required()
      ->check(CLI::ExistingFile);
  AddModel(*command, arguments->model)->required();
  AddCalibration(*command, "measure densities on", arguments->calibration);
  command->add_option("--out", arguments->out, "Adapter to write")->required();
  command
      ->add_option("--tokens", arguments->options.tokens,
                   "Tokens to measure densities on")
      ->check(WholeFrom(1));
  command
      ->add_option("--window", arguments->options.window,
                   "Tokens of a calibration sequence")
      ->check(CLI::Range(2, 1 << 20));
  AddThreads(*command, arguments->common);
  AddSeed(*command, arguments->common);
  AddJson(*command, arguments->common);
  SetAction(*command, action, RunImport, arguments);
}

}  // namespace rankforge
