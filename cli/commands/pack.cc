// `rankforge pack`: writes packed weights to a file that later starts map.
#include <chrono>
#include <memory>
#include <vector>

#include "adapt/rounding/calibrated_pack.h"
#include "cli/support/commands.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "cli/support/plugin_option.h"
#include "cli/support/progress.h"
#include "cli/support/session.h"
#include "cli/support/token_ids.h"
#include "runtime/model/use/packed_weights.h"

namespace rankforge {
namespace {

struct PackArguments {
  CommonOptions common;
  std::string model;
  std::string out;
  TokenSource calibration;
  RoundingSample sample;  // without ids
  // Options that only calibration reads.
  std::vector<const CLI::Option*> of_calibration;

  bool calibrates() const {
    return !calibration.text.empty() || !calibration.ids.empty();
  }
};

// An option that changes nothing is a mistake of who gave it.
Status CheckOptions(const PackArguments& arguments) {
  for (const CLI::Option* option : arguments.of_calibration) {
    if (option->count() == 0 || arguments.calibrates()) continue;
    return UsageError(option->get_name() +
                      ": without --calibration, pack has no use for it; leave "
                      "it out, or name a text to calibrate on");
  }
  return {};
}

// Writes the pack. Ends before the result is printed.
Result<CalibratedPackSummary> Write(const PackArguments& arguments,
                                    const Checkpoint& checkpoint,
                                    const std::optional<Adapter>& adapter,
                                    const ModelOptions& options) {
  const SessionTable table(arguments.common);
  const Adapter* const adapted = adapter ? &*adapter : nullptr;
  const PackOrigin origin = OriginOf(checkpoint, adapter);
  const auto write = [&]() -> Result<CalibratedPackSummary> {
    if (!arguments.calibrates()) {
      Progress progress("pack");
      RANKFORGE_ASSIGN_OR_RETURN(
          const PackSummary pack,
          WritePack(checkpoint.config(), checkpoint, adapted,
                    table.dispatcher(), options, origin, arguments.out,
                    [&](size_t done, size_t total) {
                      progress.Update(done, total, "matrices");
                    }));
      return CalibratedPackSummary{pack};
    }
    RoundingSample sample = arguments.sample;
    RANKFORGE_ASSIGN_OR_RETURN(const std::vector<int> ids,
                               LoadIds(arguments.model, arguments.calibration));
    sample.ids = ids;
    sample.seed = arguments.common.seed;
    Progress progress("pack");
    return WriteCalibratedPack(
        checkpoint.config(), checkpoint, adapted, table.dispatcher(), options,
        sample, origin, arguments.out,
        [&](size_t done, size_t total, const char* what) {
          progress.Update(done, total, what);
        });
  };
  Result<CalibratedPackSummary> summary = write();
  if (summary.ok()) table.LogLookups();
  return summary;
}

Status RunPack(const PackArguments& arguments) {
  const auto start = std::chrono::steady_clock::now();
  RANKFORGE_RETURN_IF_ERROR(CheckOptions(arguments));
  RANKFORGE_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                             OpenCheckpoint(arguments.model));
  RANKFORGE_ASSIGN_OR_RETURN(const std::optional<Adapter> adapter,
                             OpenAdapter(checkpoint, arguments.common));
  RANKFORGE_RETURN_IF_ERROR(CheckOutput(
      arguments.out, {arguments.model, arguments.common.adapter,
                      TablePath(arguments.common), arguments.common.types,
                      arguments.calibration.text, arguments.calibration.ids}));
  RANKFORGE_ASSIGN_OR_RETURN(const ModelOptions options,
                             ForModel(arguments.common, &checkpoint, adapter));
  RANKFORGE_ASSIGN_OR_RETURN(const CalibratedPackSummary summary,
                             Write(arguments, checkpoint, adapter, options));
  const std::chrono::duration<double> seconds =
      std::chrono::steady_clock::now() - start;
  if (arguments.common.json) {
    Json document = {{"pack", arguments.out},
                     {"model", arguments.model},
                     {"matrices", summary.pack.matrices},
                     {"bytes", summary.pack.bytes},
                     {"seconds", Rounded(seconds.count(), 4)}};
    if (arguments.calibrates()) {
      document["calibration_tokens"] = summary.calibration_tokens;
    }
    PrintJson(document);
    return {};
  }
  const std::string calibrated =
      arguments.calibrates()
          ? fmt::format(", calibrated on {} tokens", summary.calibration_tokens)
          : "";
  Print("{}: {} matrices, {:.2f} GB{}, in {:.1f} s; start with --pack {}\n",
        arguments.out, summary.pack.matrices,
        static_cast<double>(summary.pack.bytes) / 1e9, calibrated,
        seconds.count(), arguments.out);
  return {};
}

}  // namespace

void AddPack(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand(
      "pack", "Write packed weights to a file for quick starts");
  auto arguments = std::make_shared<PackArguments>();
  AddModel(*command, arguments->model)->required();
  command->add_option("--out", arguments->out, "File to write")->required();
  AddAdapter(*command, arguments->common);
  AddTypes(*command, arguments->common);
  AddCalibration(*command, "choose integers of weights on",
                 arguments->calibration)
      .require_option(0, 1);
  RoundingSample& sample = arguments->sample;
  arguments->of_calibration = {
      command->get_option("--bos"),
      command
          ->add_option("--tokens", sample.tokens,
                       "Tokens to choose the integers of each product on")
          ->check(WholeFrom(1)),
      command
          ->add_option("--window", sample.window,
                       "Tokens of a calibration sequence")
          ->check(CLI::Range(2, 1 << 20))};
  AddSeed(*command, arguments->common);
  arguments->of_calibration.push_back(command->get_option("--seed"));
  AddTableOption(*command, arguments->common);
  AddOptimized(*command, arguments->common);
  AddThreads(*command, arguments->common);
  AddJson(*command, arguments->common);
  AddPlugins(*command, action);
  SetAction(*command, action, RunPack, arguments);
}

}  // namespace rankforge
