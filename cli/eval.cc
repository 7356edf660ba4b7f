// `rankforge eval`: how well a model predicts, and the work it took.
#include <cmath>
#include <map>
#include <memory>
#include <utility>

#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/questions.h"
#include "cli/session.h"
#include "cli/token_ids.h"
#include "runtime/model/evaluation.h"

namespace rankforge {
namespace {

struct EvalArguments {
  CommonOptions common;
  std::string model;
  std::string text;
  std::string ids;
  std::string choices;
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

// What both kinds of evaluation report beside their own figures.
Json ToJson(const Work& work, double quantization_error) {
  Json density = Json::object();
  for (const auto& [module, value] : work.density) {
    density[module] = Rounded(value);
  }
  return {{"linear_flops_ratio", Rounded(work.linear_flops_ratio)},
          {"bytes_per_token", Rounded(work.bytes_per_token, 9)},
          {"quantization_error", Rounded(quantization_error)},
          {"density", density}};
}

void PrintWork(const Work& work, double quantization_error) {
  Print("linear_flops_ratio  {:.4f}\n", work.linear_flops_ratio);
  Print("bytes_per_token     {:.0f}\n", work.bytes_per_token);
  if (quantization_error > 0) {
    Print("quantization_error  {:.4f}  relative RMS over all weights\n",
          quantization_error);
  }
  for (const auto& [kind, mean] : MeanByKind(work.density)) {
    Print("density             {:.4f}  {}\n", mean, kind);
  }
}

Status RunPerplexity(const EvalArguments& arguments) {
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
  if (arguments.common.json) {
    Json document = ToJson(*evaluation, quantization_error);
    document["perplexity"] = Rounded(evaluation->perplexity, 9);
    document["loss"] = Rounded(evaluation->loss, 9);
    document["tokens"] = evaluation->tokens;
    PrintJson(document);
    return {};
  }
  Print("perplexity          {:.4f}\n", evaluation->perplexity);
  Print("loss                {:.6f}\n", evaluation->loss);
  Print("tokens              {}\n", evaluation->tokens);
  PrintWork(*evaluation, quantization_error);
  return {};
}

Status RunChoices(const EvalArguments& arguments) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::vector<Question> questions,
                             LoadQuestions(arguments.model, arguments.choices));
  RANKFORGE_ASSIGN_OR_RETURN(
      const auto session,
      OpenModel(arguments.model, arguments.common, arguments.tau_scale));
  const Result<ChoiceEvaluation> evaluation = [&] {
    Progress progress("eval");
    return EvaluateChoices(*session->model, questions,
                           [&](size_t done, size_t total) {
                             progress.Update(done, total, "questions");
                           });
  }();
  if (!evaluation.ok()) return evaluation.status();

  const double quantization_error =
      session->model->quantization_error().Relative();
  // Standard error of a share of so many questions.
  const auto error = [&](double accuracy) {
    return std::sqrt(accuracy * (1 - accuracy) /
                     static_cast<double>(evaluation->questions));
  };
  if (arguments.common.json) {
    Json document = ToJson(*evaluation, quantization_error);
    document["questions"] = evaluation->questions;
    document["accuracy"] = Rounded(evaluation->accuracy);
    document["accuracy_error"] = Rounded(error(evaluation->accuracy));
    document["accuracy_per_byte"] = Rounded(evaluation->accuracy_per_byte);
    document["accuracy_per_byte_error"] =
        Rounded(error(evaluation->accuracy_per_byte));
    document["answer_loss"] = Rounded(evaluation->answer_loss, 9);
    PrintJson(document);
    return {};
  }
  Print("accuracy            {:.4f}  +- {:.4f}\n", evaluation->accuracy,
        error(evaluation->accuracy));
  Print("accuracy_per_byte   {:.4f}  +- {:.4f}\n",
        evaluation->accuracy_per_byte, error(evaluation->accuracy_per_byte));
  Print("answer_loss         {:.6f}\n", evaluation->answer_loss);
  Print("questions           {}\n", evaluation->questions);
  PrintWork(*evaluation, quantization_error);
  return {};
}

}  // namespace

void AddEval(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand(
      "eval",
      "Perplexity over a text or accuracy of choices, with effective FLOPs and "
      "bytes a token");
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
  CLI::Option* choices =
      source
          ->add_option("--choices", arguments->choices,
                       "Questions with choices, one JSON object a line: "
                       "context, choices, answer")
          ->check(CLI::ExistingFile);
  source->require_option(1);
  command
      ->add_option("--window", arguments->evaluation.window,
                   "Tokens of a window, each from an empty cache")
      ->check(CLI::Range(2, 1 << 20))
      ->excludes(choices);
  command
      ->add_option("--windows", arguments->evaluation.windows,
                   "Evaluate the first N windows; 0: all")
      ->excludes(choices);
  command
      ->add_flag("--decode", arguments->evaluation.decode,
                 "Run token by token, with the kernels that decoding uses "
                 "(slower; shows what --allow-reassociation costs)")
      ->excludes(choices);
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
    action = [arguments] {
      return arguments->choices.empty() ? RunPerplexity(*arguments)
                                        : RunChoices(*arguments);
    };
  });
}

}  // namespace rankforge
