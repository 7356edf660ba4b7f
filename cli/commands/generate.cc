// `rankforge generate`: continues a prompt, prints text as it comes.
#include "runtime/model/use/generate.h"

#include <fmt/ranges.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/files.h"
#include "cli/support/commands.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "cli/support/plugin_option.h"
#include "cli/support/session.h"
#include "cli/support/token_ids.h"

namespace rankforge {
namespace {

struct GenerateArguments {
  CommonOptions common;
  SamplingOptions sampling;
  std::string model;
  std::string prompt;
  std::vector<int> prompt_ids;
  size_t count = 128;
  double tau_scale = 1;
};

void PrintNow(const std::string& text) {
  PrintText(text);
  std::fflush(stdout);
}

// The tokenizer that the prompt needs. A prompt of ids needs none: what comes
// of them is printed as ids where the files of a tokenizer cannot be read.
Result<std::optional<Tokenizer>> PromptTokenizer(
    const GenerateArguments& arguments) {
  const bool has_ids = !arguments.prompt_ids.empty();
  if (!Tokenizer::IsIn(arguments.model)) {
    if (has_ids) return std::optional<Tokenizer>();
    return Failed(
        arguments.model +
        ": has neither tokenizer.model nor tokenizer.json; give the prompt "
        "as --prompt-ids");
  }
  Result<Tokenizer> tokenizer = OpenTokenizer(arguments.model);
  if (tokenizer.ok()) {
    return std::optional<Tokenizer>(std::move(tokenizer).value());
  }
  if (!has_ids) return tokenizer.status();
  PrintMessage(tokenizer.status().message() + "; ids are printed");
  return std::optional<Tokenizer>();
}

Status RunGenerate(const GenerateArguments& arguments) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::optional<Tokenizer> tokenizer,
                             PromptTokenizer(arguments));
  std::vector<int> prompt = arguments.prompt_ids;
  if (prompt.empty()) prompt = tokenizer->Encode(arguments.prompt);
  if (prompt.empty()) {
    return UsageError("--prompt: has no tokens; give at least one word");
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      const auto session,
      OpenModel(arguments.model, arguments.common, arguments.tau_scale));

  SamplingOptions sampling = arguments.sampling;
  sampling.seed = arguments.common.seed;
  const bool stream = !arguments.common.json;
  std::optional<DecodingStream> text;
  if (stream && tokenizer) {
    text.emplace(*tokenizer);
    for (const int id : prompt) PrintNow(text->Add(id));
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      const Generation generation,
      Generate(*session->model, prompt, arguments.count, sampling, [&](int id) {
        if (text) {
          PrintNow(text->Add(id));
        } else if (stream) {
          Print("{} ", id);
          std::fflush(stdout);
        }
      }));

  if (arguments.common.json) {
    PrintJson(
        {{"prompt_ids", prompt},
         {"ids", generation.ids},
         {"text",
          tokenizer ? Json(tokenizer->Decode(generation.ids)) : Json(nullptr)},
         {"load_seconds", Rounded(session->load_seconds, 4)},
         {"prefill_tokens_per_s", Rounded(generation.prefill_tokens_per_s, 4)},
         {"decode_tokens_per_s", Rounded(generation.decode_tokens_per_s, 4)}});
    return {};
  }
  PrintNow((text ? text->Finish() : "") + "\n");
  fmt::print(stderr,
             "{} tokens; loaded in {:.3f} s, prefill {:.1f} tokens/s, decode "
             "{:.1f} tokens/s\n",
             generation.ids.size(), session->load_seconds,
             generation.prefill_tokens_per_s, generation.decode_tokens_per_s);
  return {};
}

}  // namespace

void AddGenerate(CLI::App& program, Action& action) {
  CLI::App* command =
      program.add_subcommand("generate", "Continue a prompt, with tokens/s");
  auto arguments = std::make_shared<GenerateArguments>();
  AddModel(*command, arguments->model)->required();
  CLI::Option_group* source = command->add_option_group("prompt");
  source->add_option("--prompt", arguments->prompt,
                     "Text to continue; no BOS is added");
  source
      ->add_option("--prompt-ids", arguments->prompt_ids,
                   "Token ids to continue, 1,2,3: for checkpoints without a "
                   "tokenizer")
      ->delimiter(',')
      ->check(CLI::NonNegativeNumber);
  source->require_option(1);
  command->add_option("-n", arguments->count, "Tokens to generate, at most")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--temperature", arguments->sampling.temperature,
                   "Of sampling; 0: always the likeliest token")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--top-p", arguments->sampling.top_p,
                   "Sample from the likeliest tokens whose probabilities "
                   "add up to this")
      ->check(CLI::Range(0.0, 1.0));
  AddSeed(*command, arguments->common);
  AddTauScale(*command, arguments->tau_scale);
  AddAdapter(*command, arguments->common);
  AddTypes(*command, arguments->common);
  AddTableOption(*command, arguments->common);
  AddPackOption(*command, arguments->common);
  AddThreads(*command, arguments->common);
  AddJson(*command, arguments->common);
  AddPlugins(*command, action);
  SetAction(*command, action, RunGenerate, arguments);
}

}  // namespace rankforge
