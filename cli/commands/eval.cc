// `rankforge eval`: how well a model predicts, and the work it took.
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <string_view>
#include <utility>

#include "cli/support/commands.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "cli/support/plugin_option.h"
#include "cli/support/progress.h"
#include "cli/support/questions.h"
#include "cli/support/session.h"
#include "cli/support/token_ids.h"
#include "meta/types.h"
#include "runtime/model/use/evaluation.h"
#include "runtime/model/use/layer_comparison.h"
#include "runtime/model/weights/modules.h"

namespace rankforge {
namespace {

struct EvalArguments {
  CommonOptions common;
  std::string model;
  TokenSource source;
  std::string choices;
  EvaluationOptions evaluation;
  double tau_scale = 1;
  bool layers = false;
  bool against_dense = false;
  bool against_exact = false;
};

using Figures = std::map<std::string, LayerFigures>;

// The model to evaluate and, with --layers, the observer of its layers.
struct EvaluatedModel {
  std::unique_ptr<ModelSession> session;
  std::unique_ptr<LayerComparison> layers;

  Figures LayersSeen() const { return layers ? layers->Figures() : Figures(); }
};

Result<EvaluatedModel> OpenForEvaluation(const EvalArguments& arguments) {
  EvaluatedModel opened;
  RANKFORGE_ASSIGN_OR_RETURN(
      opened.session,
      OpenModel(arguments.model, arguments.common, arguments.tau_scale));
  if (!arguments.layers) return opened;
  Model& model = *opened.session->model;
  RANKFORGE_ASSIGN_OR_RETURN(
      opened.layers, LayerComparison::Create(model, opened.session->checkpoint,
                                             *opened.session->adapter));
  model.set_observer(opened.layers.get());
  return opened;
}

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

template <class Values>
Json RoundedList(const Values& values) {
  Json list = Json::array();
  for (const double value : values) list.push_back(Rounded(value, 4));
  return list;
}

// Means over `groups` runs of neighbouring values; `values` itself where it has
// no more.
std::vector<double> InGroups(const std::vector<double>& values, size_t groups) {
  if (values.size() <= groups) return values;
  std::vector<double> means;
  for (size_t group = 0; group < groups; ++group) {
    const size_t begin = group * values.size() / groups;
    const size_t end = (group + 1) * values.size() / groups;
    const double sum =
        std::accumulate(values.begin() + begin, values.begin() + end, 0.0);
    means.push_back(sum / static_cast<double>(end - begin));
  }
  return means;
}

Json ToJson(const Figures& figures) {
  Json layers = Json::object();
  for (const auto& [module, layer] : figures) {
    constexpr size_t kFrequencyGroups = 32;
    Json& json = layers[module];
    json["error"] = Rounded(layer.error);
    if (layer.keep_frequency.empty()) continue;
    json["keep_frequency"] =
        RoundedList(InGroups(layer.keep_frequency, kFrequencyGroups));
    if (!layer.contributions) continue;
    json["contributions"] = {
        {"lowest", RankContributions::kLowest},
        {"bin_width", RankContributions::kBinWidth},
        {"ranks", RoundedList(layer.contributions->ranks)},
        {"kept", RoundedList(layer.contributions->kept)},
        {"energy", RoundedList(layer.contributions->energy)}};
  }
  return layers;
}

// The figures that both kinds of evaluation report.
Json ToJson(const EvalArguments& arguments, const EvaluatedModel& opened,
            const Work& work) {
  const ModelSession& session = *opened.session;
  Json json = RunToJson(arguments.model, session.adapter, arguments.common);
  json["activations"] = ActivationsToJson(*session.model);
  json["tau_scale"] = arguments.tau_scale;
  json["linear_flops_ratio"] = Rounded(work.linear_flops_ratio);
  json["linear_flops_per_token"] = Rounded(2 * work.block_macs, 9);
  json["dense_linear_flops_per_token"] = Rounded(2 * work.dense_block_macs, 9);
  json["bytes_per_token"] = Rounded(work.bytes_per_token, 9);
  for (const WeightType type : kWeightTypes) {
    json["block_bytes_per_token"][std::string(Name(type))] = {
        {"dense", Rounded(WeightBytes(type, work.dense_block_macs), 9)},
        {"adapted", Rounded(WeightBytes(type, work.block_macs), 9)}};
  }
  json["quantization_error"] =
      Rounded(session.model->quantization_error().Relative());
  json["density"] = json["density_quantiles"] = Json::object();
  for (const auto& [module, value] : work.density) {
    json["density"][module] = Rounded(value);
    for (const auto& [name, quantile] : work.density_quantiles.at(module)) {
      json["density_quantiles"][module][name] = Rounded(quantile);
    }
  }
  if (arguments.layers) json["layers"] = ToJson(opened.LayersSeen());
  return json;
}

// One line per module: its densities and, with --layers, its error.
void PrintLayers(const Work& work, const Figures& figures) {
  if (work.density.empty()) return;
  Print("\n{:<36} {:>8} {:>8} {:>8} {:>8}{}\n", "module", "density", "5 %",
        "median", "95 %", figures.empty() ? "" : "    error");
  const auto error = [&](const std::string& module) {
    const auto found = figures.find(module);
    return found == figures.end()
               ? std::string()
               : fmt::format(" {:>8.4f}", found->second.error);
  };
  for (const auto& [module, density] : work.density) {
    const auto& quantiles = work.density_quantiles.at(module);
    Print("{:<36} {:>8.4f} {:>8.4f} {:>8.4f} {:>8.4f}{}\n", module, density,
          quantiles.at("0.05"), quantiles.at("0.5"), quantiles.at("0.95"),
          error(module));
  }
  for (const auto& [module, layer] : figures) {
    if (layer.keep_frequency.empty()) {
      Print("{:<36} {:>35}{}\n", module, "", error(module));
    }
  }
}

void PrintWork(const EvaluatedModel& opened, const Work& work) {
  const double quantization_error =
      opened.session->model->quantization_error().Relative();
  Print("linear_flops_ratio  {:.4f}  {:.0f} of {:.0f} per token\n",
        work.linear_flops_ratio, 2 * work.block_macs,
        2 * work.dense_block_macs);
  Print("bytes_per_token     {:.0f}\n", work.bytes_per_token);
  for (const WeightType type : kWeightTypes) {
    Print("block_bytes         {:.0f} of {:.0f} per token  {}\n",
          WeightBytes(type, work.block_macs),
          WeightBytes(type, work.dense_block_macs), Name(type));
  }
  if (quantization_error > 0) {
    Print("quantization_error  {:.4f}  relative RMS over all weights\n",
          quantization_error);
  }
  for (const auto& [activations, share] :
       opened.session->model->activations()) {
    Print("activations         {:<6}  {:.4f} of the weights\n",
          Name(activations), share);
  }
  for (const auto& [kind, mean] : MeanByKind(work.density)) {
    Print("density             {:.4f}  {}\n", mean, kind);
  }
  PrintLayers(work, opened.LayersSeen());
}

// The dense model in f32, which rounded and adapted models are compared with,
// or with --against-exact the model with inputs that are not rounded. Null:
// neither.
Result<std::unique_ptr<ModelSession>> OpenReference(
    const EvalArguments& arguments, const Model& evaluated) {
  CommonOptions options;
  if (arguments.against_exact) {
    const auto activations = evaluated.activations();
    if (activations.size() == 1 && activations.contains(Activations::kF32)) {
      return UsageError(
          "--against-exact: the inputs of this model are exact; leave it out, "
          "or give integer weights (--dtype) or other --activations");
    }
    options = arguments.common;
    options.is_reference = true;
    options.activations = Activations::kF32;
    return OpenModel(arguments.model, options, arguments.tau_scale);
  }
  if (!arguments.against_dense) return std::unique_ptr<ModelSession>();
  options.is_reference = true;
  options.threads = arguments.common.threads;
  return OpenModel(arguments.model, options, 1);
}

// Of the reference of `evaluation`.
double ReferencePerplexity(const Evaluation& evaluation) {
  return std::exp(evaluation.loss - evaluation.difference->excess_loss.mean);
}

void PrintDifference(const Evaluation& evaluation, bool from_exact) {
  const std::string_view whose = from_exact
                                     ? "its predictions with exact inputs"
                                     : "the dense model's predictions";
  for (const auto& [name, value] :
       {std::pair{"divergence", evaluation.difference->divergence},
        {"excess_loss", evaluation.difference->excess_loss}}) {
    Print("{:<19} {:.6f}  +- {:.6f}  from {}\n", name, value.mean, value.error,
          whose);
  }
  if (!from_exact) return;
  const double exact = ReferencePerplexity(evaluation);
  Print("perplexity_cost     {:.4f}  above {:.4f} with exact inputs\n",
        evaluation.perplexity - exact, exact);
}

// The layers that sequences did without, and the share of those that did.
std::map<size_t, double> SkipShares(const Work& work) {
  std::map<size_t, double> shares;
  for (const LayerDecision& decision : work.layers) {
    for (const size_t layer : decision.skipped) {
      shares[layer] += 1 / static_cast<double>(work.layers.size());
    }
  }
  return shares;
}

double MeanSkipped(const Work& work) {
  double mean = 0;
  for (const auto& [layer, share] : SkipShares(work)) mean += share;
  return mean;
}

// `sequences`: what they are called, "windows" or "questions".
Json SkipsToJson(const Work& work, const char* sequences) {
  Json json = {{"mean_skipped_layers", Rounded(MeanSkipped(work))}};
  json["skip_shares"] = Json::object();
  for (const auto& [layer, share] : SkipShares(work)) {
    json["skip_shares"][std::to_string(layer)] = Rounded(share);
  }
  json[sequences] = Json::array();
  for (const LayerDecision& decision : work.layers) {
    json[sequences].push_back(ToJson(decision));
  }
  return json;
}

void PrintSkips(const Work& work, size_t layers, const char* sequences) {
  if (work.layers.empty()) return;
  std::string shares;
  for (const auto& [layer, share] : SkipShares(work)) {
    shares += fmt::format("{} {} ({:.0f} %)", shares.empty() ? " " : ",", layer,
                          100 * share);
  }
  Print("skipped_layers      {:.2f} of {}, share of {}:{}\n", MeanSkipped(work),
        layers, sequences, shares.empty() ? " none in any" : shares);
}

// Layers are left out after a prompt, of which windows have none otherwise.
Status CheckDecodes(const EvalArguments& arguments, const Model* model) {
  if (arguments.evaluation.decode_from > 0) return {};
  if (!arguments.common.skip.empty()) {
    return UsageError(
        "--skip-layers, --skip-threshold, --max-skip and --always-on need "
        "--decode-from: they are for tokens after a prompt");
  }
  if (model != nullptr && model->skips_layers()) {
    PrintMessage(fmt::format(
        "{}: all layers run, as a window is one prompt; --decode-from shows "
        "what leaving out layers costs",
        arguments.common.adapter));
  }
  return {};
}

Status RunPerplexity(const EvalArguments& arguments) {
  RANKFORGE_RETURN_IF_ERROR(CheckDecodes(arguments, nullptr));
  RANKFORGE_ASSIGN_OR_RETURN(const std::vector<int> ids,
                             LoadIds(arguments.model, arguments.source));
  RANKFORGE_ASSIGN_OR_RETURN(const EvaluatedModel opened,
                             OpenForEvaluation(arguments));
  RANKFORGE_RETURN_IF_ERROR(CheckDecodes(arguments, &*opened.session->model));
  if (!arguments.source.text.empty()) {
    CompareBos(opened.session->adapter, arguments.common.adapter,
               arguments.source.bos);
  }
  RANKFORGE_ASSIGN_OR_RETURN(const std::unique_ptr<ModelSession> reference,
                             OpenReference(arguments, *opened.session->model));
  EvaluationOptions options = arguments.evaluation;
  if (reference != nullptr) options.reference = &*reference->model;
  const Result<Evaluation> evaluation = [&] {
    Progress progress("eval");
    return Evaluate(*opened.session->model, ids, options,
                    [&](size_t done, size_t total) {
                      progress.Update(done, total, "windows");
                    });
  }();
  if (!evaluation.ok()) return evaluation.status();

  if (arguments.common.json) {
    Json document = ToJson(arguments, opened, *evaluation);
    document["perplexity"] = Rounded(evaluation->perplexity, 9);
    document["loss"] = Rounded(evaluation->loss, 9);
    document["tokens"] = evaluation->tokens;
    document["decode_from"] = arguments.evaluation.decode_from;
    if (!evaluation->layers.empty()) {
      document["layer_skip"] = SkipsToJson(*evaluation, "windows");
    }
    if (const auto& difference = evaluation->difference) {
      document["divergence"] = Rounded(difference->divergence.mean);
      document["divergence_error"] = Rounded(difference->divergence.error);
      document["excess_loss"] = Rounded(difference->excess_loss.mean);
      document["excess_loss_error"] = Rounded(difference->excess_loss.error);
    }
    if (arguments.against_exact) {
      document["exact_perplexity"] =
          Rounded(ReferencePerplexity(*evaluation), 9);
    }
    PrintJson(document);
    return {};
  }
  Print("perplexity          {:.4f}\n", evaluation->perplexity);
  Print("loss                {:.6f}\n", evaluation->loss);
  Print("tokens              {}\n", evaluation->tokens);
  if (evaluation->difference) {
    PrintDifference(*evaluation, arguments.against_exact);
  }
  PrintSkips(*evaluation, opened.session->model->config().layers, "windows");
  PrintWork(opened, *evaluation);
  return {};
}

Status RunChoices(const EvalArguments& arguments) {
  if (arguments.source.bos != BosMode::kAuto) {
    return UsageError(
        "--bos is for --text: questions begin as the checkpoint's tokenizer "
        "says");
  }
  RANKFORGE_ASSIGN_OR_RETURN(const std::vector<Question> questions,
                             LoadQuestions(arguments.model, arguments.choices));
  RANKFORGE_ASSIGN_OR_RETURN(const EvaluatedModel opened,
                             OpenForEvaluation(arguments));
  CompareBos(opened.session->adapter, arguments.common.adapter, BosMode::kAuto);
  const Result<ChoiceEvaluation> evaluation = [&] {
    Progress progress("eval");
    return EvaluateChoices(*opened.session->model, questions,
                           [&](size_t done, size_t total) {
                             progress.Update(done, total, "questions");
                           });
  }();
  if (!evaluation.ok()) return evaluation.status();

  // Standard error of a share of so many questions.
  const auto error = [&](double accuracy) {
    return std::sqrt(accuracy * (1 - accuracy) /
                     static_cast<double>(evaluation->questions));
  };
  if (arguments.common.json) {
    Json document = ToJson(arguments, opened, *evaluation);
    document["questions"] = evaluation->questions;
    document["questions_without_prefix"] = evaluation->questions_without_prefix;
    document["accuracy"] = Rounded(evaluation->accuracy);
    document["accuracy_error"] = Rounded(error(evaluation->accuracy));
    document["accuracy_per_byte"] = Rounded(evaluation->accuracy_per_byte);
    document["accuracy_per_byte_error"] =
        Rounded(error(evaluation->accuracy_per_byte));
    document["answer_loss"] = Rounded(evaluation->answer_loss, 9);
    if (!evaluation->layers.empty()) {
      document["layer_skip"] = SkipsToJson(*evaluation, "questions");
    }
    PrintJson(document);
    return {};
  }
  Print("accuracy            {:.4f}  +- {:.4f}\n", evaluation->accuracy,
        error(evaluation->accuracy));
  Print("accuracy_per_byte   {:.4f}  +- {:.4f}\n",
        evaluation->accuracy_per_byte, error(evaluation->accuracy_per_byte));
  Print("answer_loss         {:.6f}\n", evaluation->answer_loss);
  Print("questions           {}\n", evaluation->questions);
  if (evaluation->questions_without_prefix > 0) {
    Print(
        "                    {} of them have a context whose tokens change "
        "with a choice\n",
        evaluation->questions_without_prefix);
  }
  PrintSkips(*evaluation, opened.session->model->config().layers, "questions");
  PrintWork(opened, *evaluation);
  return {};
}

Status RunEval(const EvalArguments& arguments) {
  return arguments.choices.empty() ? RunPerplexity(arguments)
                                   : RunChoices(arguments);
}

// Exactly one of --text, --ids and --choices; the last is returned.
CLI::Option* AddWhatToEvaluateOn(CLI::App& command, EvalArguments& arguments) {
  CLI::Option_group* source = command.add_option_group("what to evaluate on");
  source
      ->add_option("--text", arguments.source.text,
                   "Text file; -: standard input")
      ->transform(TextInput());
  source
      ->add_option("--ids", arguments.source.ids,
                   "Token ids: a .safetensors file with one integer tensor, "
                   "or a JSON list")
      ->transform(TextInput());
  CLI::Option* choices =
      source
          ->add_option("--choices", arguments.choices,
                       "Questions with choices, one JSON object per line: "
                       "context, choices, answer")
          ->transform(TextInput());
  source->require_option(1);
  AddBos(command, arguments.source.bos);
  return choices;
}

// How a text is run; choices have no windows.
void AddWindows(CLI::App& command, EvaluationOptions& options,
                CLI::Option* choices) {
  command
      .add_option("--window", options.window,
                  "Tokens per window; each starts from an empty cache")
      ->check(CLI::Range(2, 1 << 20))
      ->excludes(choices);
  command
      .add_option("--windows", options.windows,
                  "Evaluate the first N windows; 0: all")
      ->excludes(choices);
  CLI::Option* const decode = command.add_flag(
      "--decode", options.decode,
      "Run token by token, with the kernels that decoding uses (slower; the "
      "same sums in another order)");
  decode->excludes(choices);
  command
      .add_option("--decode-from", options.decode_from,
                  "Tokens of a window that are its prompt: those after them "
                  "are decoded, and only they count; layers are left out as in "
                  "generate; 0: off")
      ->check(WholeFrom(0))
      ->excludes(choices)
      ->excludes(decode);
}

}  // namespace

void AddEval(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand(
      "eval",
      "Perplexity over a text or accuracy of choices, with effective FLOPs and "
      "bytes per token");
  auto arguments = std::make_shared<EvalArguments>();
  AddModel(*command, arguments->model)->required();
  CLI::Option* choices = AddWhatToEvaluateOn(*command, *arguments);
  AddWindows(*command, arguments->evaluation, choices);
  AddTauScale(*command, arguments->tau_scale);
  CLI::Option* adapter = AddAdapter(*command, arguments->common);
  AddLayerSkip(*command, arguments->common);
  AddTypes(*command, arguments->common);
  AddTableOption(*command, arguments->common);
  CLI::Option* pack = AddPackOption(*command, arguments->common);
  AddOptimized(*command, arguments->common);
  command
      ->add_flag("--layers", arguments->layers,
                 "Also show of each adapted layer the error of its output "
                 "against the dense layer on the same input, and how much its "
                 "ranks contribute (packs the dense weights as well)")
      ->needs(adapter)
      ->excludes(pack);
  CLI::Option* const against_dense = command->add_flag(
      "--against-dense", arguments->against_dense,
      "Also run the dense model in f32 and show how far predictions move and "
      "what the text's log-likelihood loses, each with its standard error");
  against_dense->excludes(choices);
  command
      ->add_flag("--against-exact", arguments->against_exact,
                 "The same with this model as --activations f32 runs it, and "
                 "what its rounded inputs cost in perplexity")
      ->excludes(choices)
      ->excludes(against_dense)
      ->excludes(pack)
      ->excludes(command->get_option("--decode-from"));
  AddThreads(*command, arguments->common);
  AddJson(*command, arguments->common);
  AddPlugins(*command, action);
  SetAction(*command, action, RunEval, arguments);
}

}  // namespace rankforge
