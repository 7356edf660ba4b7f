// `rankforge eval`: perplexity of a model over a text, and the work it took.
#include <cstring>
#include <map>
#include <memory>
#include <utility>

#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "cli/token_ids.h"
#include "runtime/model/files.h"
#include "runtime/model/generate.h"
#include "runtime/model/safetensors.h"
#include "runtime/model/tokenizer.h"

namespace rankforge {
namespace {

struct EvalArguments {
  CommonOptions common;
  std::string model;
  std::string text;
  std::string ids;
  EvaluationOptions evaluation;
  double tau_scale = 1;
};

std::map<std::string, double> MeanByKind(
    const std::map<std::string, double>& by_module) {
  std::map<std::string, double> sums;
  std::map<std::string, size_t> counts;
  for (const auto& [module, value] : by_module) {
    sums[KindOf(module)] += value;
    ++counts[KindOf(module)];
  }
  for (auto& [kind, sum] : sums) sum /= static_cast<double>(counts[kind]);
  return sums;
}

Status RunEval(const EvalArguments& arguments) {
  RANKFORGE_ASSIGN_OR_RETURN(
      const std::vector<int> ids,
      LoadIds(arguments.model, arguments.text, arguments.ids));
  RANKFORGE_ASSIGN_OR_RETURN(
      const auto session,
      OpenModel(arguments.model, arguments.common, arguments.tau_scale));
  const Result<Evaluation> evaluation = [&] {
    Progress progress("eval");
    return Evaluate(*session->model, ids, arguments.evaluation,
                    [&](size_t done, size_t total) {
                      progress.Update(done, total, "windows");
                    });
  }();
  if (!evaluation.ok()) return evaluation.status();

  const double quantization_error =
      session->model->quantization_error().Relative();
  Json density = Json::object();
  for (const auto& [module, value] : evaluation->density) {
    density[module] = Rounded(value);
  }
  if (arguments.common.json) {
    PrintJson({{"perplexity", Rounded(evaluation->perplexity, 9)},
               {"loss", Rounded(evaluation->loss, 9)},
               {"tokens", evaluation->tokens},
               {"linear_flops_ratio", Rounded(evaluation->linear_flops_ratio)},
               {"bytes_per_token", Rounded(evaluation->bytes_per_token, 9)},
               {"quantization_error", Rounded(quantization_error)},
               {"density", density}});
    return {};
  }
  Print("perplexity          {:.4f}\n", evaluation->perplexity);
  Print("loss                {:.6f}\n", evaluation->loss);
  Print("tokens              {}\n", evaluation->tokens);
  Print("linear_flops_ratio  {:.4f}\n", evaluation->linear_flops_ratio);
  Print("bytes_per_token     {:.0f}\n", evaluation->bytes_per_token);
  if (quantization_error > 0) {
    Print("quantization_error  {:.4f}  relative RMS over all weights\n",
          quantization_error);
  }
  for (const auto& [kind, mean] : MeanByKind(evaluation->density)) {
    Print("density             {:.4f}  {}\n", mean, kind);
  }
  return {};
}

}  // namespace

void AddEval(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand(
      "eval", "Perplexity, effective FLOPs and bytes a token over a text");
  auto arguments = std::make_shared<EvalArguments>();
  AddModel(*command, arguments->model)->required();
  CLI::Option_group* source = command->add_option_group("what to evaluate on");
  source->add_option("--text", arguments->text, "Text file")
      ->check(CLI::ExistingFile);
  source
      ->add_option("--ids", arguments->ids,
                   "Token ids: a .safetensors file with one integer tensor, "
                   "or a JSON list")
      ->check(CLI::ExistingFile);
  source->require_option(1);
  command
      ->add_option("--window", arguments->evaluation.window,
                   "Tokens of a window, each from an empty cache")
      ->check(CLI::Range(2, 1 << 20));
  command->add_option("--windows", arguments->evaluation.windows,
                      "Evaluate the first N windows; 0: all");
  command->add_flag("--decode", arguments->evaluation.decode,
                    "Run token by token, with the kernels that decoding uses "
                    "(slower; shows what --allow-reassociation costs)");
  command
      ->add_option("--tau-scale", arguments->tau_scale,
                   "Factor on every threshold of the adapter")
      ->check(CLI::NonNegativeNumber);
  AddAdapter(*command, arguments->common);
  AddTypes(*command, arguments->common);
  AddTableOption(*command, arguments->common);
  AddPackOption(*command, arguments->common);
  AddThreads(*command, arguments->common);
  AddJson(*command, arguments->common);
  command->callback([&action, arguments] {
    action = [arguments] { return RunEval(*arguments); };
  });
}

}  // namespace rankforge
