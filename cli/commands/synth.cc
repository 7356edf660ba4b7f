// `rankforge synth`: a checkpoint with a well-known shape and random weights.
#include <filesystem>
#include <memory>

#include "cli/support/commands.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "runtime/model/weights/synthetic.h"

namespace rankforge {
namespace {

struct SynthArguments {
  CommonOptions common;
  std::string preset;
  std::string out;
};

Status RunSynth(const SynthArguments& arguments) {
  RANKFORGE_ASSIGN_OR_RETURN(const ModelConfig config,
                             FindPreset(arguments.preset));
  RANKFORGE_RETURN_IF_ERROR(
      WriteSyntheticCheckpoint(config, arguments.common.seed, arguments.out));
  std::error_code ignored;
  const auto bytes = std::filesystem::file_size(
      std::filesystem::path(arguments.out) / "model.safetensors", ignored);
  if (arguments.common.json) {
    PrintJson({{"model", arguments.out},
               {"preset", arguments.preset},
               {"bytes", bytes},
               {"synthetic", true}});
    return {};
  }
  Print(
      "{}: the shape of {} with random weights, {:.2f} GB in bf16: good for "
      "time, meaningless for quality\n",
      arguments.out, arguments.preset, static_cast<double>(bytes) / 1e9);
  return {};
}

}  // namespace

void AddSynth(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand(
      "synth", "Write a checkpoint of a preset's shape with random weights");
  auto arguments = std::make_shared<SynthArguments>();
  AddPreset(*command, arguments->preset)->required();
  command->add_option("--out", arguments->out, "Folder to write")->required();
  AddSeed(*command, arguments->common);
  AddJson(*command, arguments->common);
  SetAction(*command, action, RunSynth, arguments);
}

}  // namespace rankforge
