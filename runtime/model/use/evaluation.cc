#include "runtime/model/use/evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "runtime/threads/parallel.h"

namespace rankforge {
namespace {

// log of the sum of exp(logits).
double LogSum(std::span<const float> logits) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit} - largest);
  return std::log(sum) + largest;
}

// -log softmax(logits)[id]. In double, because means over thousands of tokens
// are compared with golden values to a hundredth of a per cent.
double Loss(std::span<const float> logits, int id) {
  return LogSum(logits) - logits[static_cast<size_t>(id)];
}

Status CheckIds(std::span<const int> ids, size_t vocab) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || static_cast<size_t>(ids[i]) >= vocab) {
      return Failed(
          fmt::format("evaluate: token id {}, the {}. of all, is outside the "
                      "vocabulary of {}; use this model's tokenizer",
                      ids[i], i + 1, vocab));
    }
  }
  return {};
}

// Quantiles over tokens of the share of channels that a token keeps.
std::map<std::string, double> DensityQuantiles(
    const std::vector<uint64_t>& tokens_by_kept) {
  const auto tokens = std::accumulate(tokens_by_kept.begin(),
                                      tokens_by_kept.end(), uint64_t{0});
  const auto channels = static_cast<double>(tokens_by_kept.size() - 1);
  std::map<std::string, double> quantiles;
  for (const auto& [name, q] : {std::pair{"0.05", 0.05},
                                {"0.25", 0.25},
                                {"0.5", 0.5},
                                {"0.75", 0.75},
                                {"0.95", 0.95}}) {
    const auto rank =
        static_cast<uint64_t>(q * static_cast<double>(tokens - 1));
    size_t kept = 0;
    for (uint64_t below = tokens_by_kept[0]; below <= rank;
         below += tokens_by_kept[kept]) {
      ++kept;
    }
    quantiles[name] = static_cast<double>(kept) / channels;
  }
  return quantiles;
}

Work WorkOf(const ModelConfig& config, const ForwardCounters& counters) {
  const auto tokens = static_cast<double>(counters.tokens);
  Work work;
  work.block_macs = counters.block_macs / tokens;
  work.dense_block_macs = static_cast<double>(config.LinearMacs());
  work.linear_flops_ratio = work.block_macs / work.dense_block_macs;
  work.bytes_per_token = counters.weight_bytes / tokens;
  for (const auto& [module, density] : counters.density) {
    if (density.total == 0) continue;  // of a layer that was left out
    work.density[module] = density.kept / density.total;
    work.density_quantiles[module] = DensityQuantiles(density.tokens_by_kept);
  }
  return work;
}

// losses[i] = Loss of targets[i] in row i of logits (targets.size(), vocab).
void Losses(Model& model, std::span<const float> logits,
            std::span<const int> targets, std::vector<double>& losses) {
  const size_t vocab = model.config().vocab;
  losses.resize(targets.size());
  ParallelFor(model.executor(), targets.size(), [&](size_t i, size_t) {
    losses[i] = Loss(logits.subspan(i * vocab, vocab), targets[i]);
  });
}

// The sums that make a TokenMean.
class TokenSum {
 public:
  void Add(const std::vector<double>& values) {
    for (const double value : values) {
      sum_ += value;
      squares_ += value * value;
    }
    count_ += static_cast<double>(values.size());
  }
  TokenMean Mean() const {
    const double mean = sum_ / count_;
    const double variance = std::max(squares_ / count_ - mean * mean, 0.0);
    return {mean, std::sqrt(variance / count_)};
  }

 private:
  double sum_ = 0, squares_ = 0, count_ = 0;
};

// The Kullback-Leibler divergence of q = softmax(logits) from p =
// softmax(reference).
double Divergence(std::span<const float> reference,
                  std::span<const float> logits) {
  const double p_sum = LogSum(reference), q_sum = LogSum(logits);
  double divergence = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double log_p = reference[i] - p_sum;
    divergence += std::exp(log_p) * (log_p - (logits[i] - q_sum));
  }
  return divergence;
}

// Runs the reference on the windows that the model has run on.
class ReferenceRun {
 public:
  static Result<ReferenceRun> Create(Model& reference, size_t vocab,
                                     size_t inputs) {
    if (reference.config().vocab != vocab) {
      return UsageError(fmt::format(
          "evaluate: a vocabulary of {} against one of {}: compare models of "
          "the same tokens",
          vocab, reference.config().vocab));
    }
    RANKFORGE_ASSIGN_OR_RETURN(KvCache cache, reference.NewCache(inputs));
    return ReferenceRun(reference, std::move(cache), inputs);
  }

  // `logits` (n, vocab) are the model's predictions of the last n tokens of
  // `text`, and `losses` their losses.
  Status Add(std::span<const int> text, std::span<const float> logits,
             std::vector<double> losses) {
    cache_.Clear();
    const size_t inputs = text.size() - 1;
    RANKFORGE_RETURN_IF_ERROR(reference_->Forward(text.first(inputs), cache_,
                                                  logits_,
                                                  /*all_logits=*/true));
    const size_t n = losses.size();
    const size_t vocab = logits.size() / n;
    const std::span<const float> expected =
        std::span(logits_).subspan((inputs - n) * vocab);
    Losses(*reference_, expected, text.last(n), losses_);
    for (size_t i = 0; i < n; ++i) losses[i] -= losses_[i];
    excess_loss_.Add(losses);
    ParallelFor(reference_->executor(), n, [&](size_t i, size_t) {
      losses[i] = Divergence(expected.subspan(i * vocab, vocab),
                             logits.subspan(i * vocab, vocab));
    });
    divergence_.Add(losses);
    return {};
  }
  Difference Found() const { return {divergence_.Mean(), excess_loss_.Mean()}; }

 private:
  ReferenceRun(Model& reference, KvCache cache, size_t inputs)
      : reference_(&reference),
        cache_(std::move(cache)),
        logits_(inputs * reference.config().vocab) {}

  Model* reference_;
  KvCache cache_;
  std::vector<float> logits_;
  std::vector<double> losses_;
  TokenSum divergence_, excess_loss_;
};

// Runs windows of a text on the model that is evaluated.
class WindowRun {
 public:
  WindowRun(Model& model, const EvaluationOptions& options, KvCache cache)
      : model_(model), options_(options), cache_(std::move(cache)) {
    model_.ResetCounters();
  }

  // logits (n, vocab) become the predictions of the last n tokens of `text`.
  // With decode_from, n are all after the prompt; else, all but the first.
  Status Run(std::span<const int> text, std::span<float> logits) {
    cache_.Clear();
    if (options_.decode_from > 0) return RunPrompt(text, logits);
    // The last token of a window predicts nothing and is not run.
    const size_t inputs = text.size() - 1;
    return RunFrom(text.first(inputs), options_.decode ? 1 : inputs, logits);
  }
  Work Done() const {
    return WorkOf(model_.config(),
                  options_.decode_from > 0 ? decoded_ : model_.counters());
  }
  std::vector<LayerDecision> TakeDecisions() { return std::move(decisions_); }

 private:
  Status RunFrom(std::span<const int> ids, size_t at_once,
                 std::span<float> logits) {
    const size_t vocab = model_.config().vocab;
    for (size_t i = 0; i < ids.size(); i += at_once) {
      RANKFORGE_RETURN_IF_ERROR(
          model_.Forward(ids.subspan(i, at_once), cache_,
                         logits.subspan(i * vocab, at_once * vocab),
                         /*all_logits=*/true));
    }
    return {};
  }
  Status RunPrompt(std::span<const int> text, std::span<float> logits) {
    const size_t vocab = model_.config().vocab;
    const size_t prompt = options_.decode_from;
    RANKFORGE_RETURN_IF_ERROR(
        model_.Forward(text.first(prompt), cache_, logits.first(vocab)));
    RANKFORGE_RETURN_IF_ERROR(model_.EndPrompt(cache_));
    if (cache_.decision()) decisions_.push_back(*cache_.decision());
    model_.ResetCounters();
    RANKFORGE_RETURN_IF_ERROR(
        RunFrom(text.subspan(prompt, text.size() - prompt - 1), 1,
                logits.subspan(vocab)));
    decoded_ += model_.counters();
    return {};
  }

  Model& model_;
  const EvaluationOptions& options_;
  KvCache cache_;
  ForwardCounters decoded_;  // after the prompts
  std::vector<LayerDecision> decisions_;
};

Status CheckWindow(const EvaluationOptions& options) {
  if (options.window < 2) {
    return UsageError(fmt::format(
        "--window {}: a window needs at least two tokens", options.window));
  }
  if (options.decode_from > 0 && options.decode_from > options.window - 2) {
    return UsageError(fmt::format(
        "--decode-from {}: a window of {} tokens has none to decode after the "
        "first one; use a larger --window or a shorter prompt",
        options.decode_from, options.window));
  }
  if (options.decode_from > 0 && options.decode) {
    return UsageError(
        "--decode-from: excludes --decode, which has no prompt; leave it out");
  }
  return {};
}

Status CheckQuestion(size_t index, const Question& question, size_t vocab) {
  if (question.context.empty() || question.choices.empty() ||
      question.answer >= question.choices.size()) {
    return Failed(fmt::format(
        "evaluate: question {} needs a context of at least one token and the "
        "index of one of its choices as answer",
        index));
  }
  RANKFORGE_RETURN_IF_ERROR(CheckIds(question.context, vocab));
  for (const Question::Choice& choice : question.choices) {
    if (choice.ids.empty()) {
      return Failed(
          fmt::format("evaluate: question {} has a choice without tokens; "
                      "leave it out",
                      index));
    }
    RANKFORGE_RETURN_IF_ERROR(CheckIds(choice.ids, vocab));
  }
  return {};
}

// The most positions that a choice of the question takes.
size_t Length(const Question& question) {
  size_t longest = 0;
  for (const Question::Choice& choice : question.choices) {
    longest = std::max(longest, choice.ids.size());
  }
  return question.context.size() + longest;
}

// Runs a context once, and then its choices after it.
class ChoiceRun {
 public:
  ChoiceRun(Model& model, KvCache cache)
      : model_(model), cache_(std::move(cache)) {}

  // All of the context but its last token. That is run with every choice,
  // because it predicts the choice's first token. Where layers may be left out,
  // the context is the prompt, which runs as a whole.
  Status Begin(std::span<const int> context) {
    cache_.Clear();
    last_ = context.back();
    shared_ = context.size() - (model_.skips_layers() ? 0 : 1);
    if (model_.skips_layers()) {
      first_.resize(model_.config().vocab);
      RANKFORGE_RETURN_IF_ERROR(model_.Forward(context, cache_, first_));
      RANKFORGE_RETURN_IF_ERROR(model_.EndPrompt(cache_));
      if (cache_.decision()) decisions_.push_back(*cache_.decision());
      return {};
    }
    return shared_ > 0 ? model_.Forward(context.first(shared_), cache_, {})
                       : Status();
  }
  // logits_ (ids.size(), vocab) become the predictions of `ids`.
  Status Run(const std::vector<int>& ids) {
    const size_t vocab = model_.config().vocab;
    logits_.resize(ids.size() * vocab);
    cache_.Truncate(shared_);
    if (!model_.skips_layers()) {
      std::vector<int> inputs = {last_};
      inputs.insert(inputs.end(), ids.begin(), ids.end() - 1);
      return model_.Forward(inputs, cache_, logits_, /*all_logits=*/true);
    }
    std::ranges::copy(first_, logits_.begin());
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      RANKFORGE_RETURN_IF_ERROR(
          model_.Forward({&ids[i], 1}, cache_,
                         std::span(logits_).subspan((i + 1) * vocab, vocab)));
    }
    return {};
  }
  std::span<const float> logits() const { return logits_; }
  // One a question, where layers may be left out.
  std::vector<LayerDecision> TakeDecisions() { return std::move(decisions_); }

 private:
  Model& model_;
  KvCache cache_;
  std::vector<LayerDecision> decisions_;
  int last_ = 0;
  size_t shared_ = 0;         // positions that all choices have before them
  std::vector<float> first_;  // the prediction of a choice's first token
  std::vector<float> logits_;
};

size_t Largest(const std::vector<double>& values) {
  return static_cast<size_t>(std::max_element(values.begin(), values.end()) -
                             values.begin());
}

}  // namespace

Result<Evaluation> Evaluate(Model& model, std::span<const int> ids,
                            const EvaluationOptions& options,
                            const EvaluationProgress& progress) {
  RANKFORGE_RETURN_IF_ERROR(CheckWindow(options));
  const size_t window = options.window;
  const size_t available = ids.size() / window;
  const size_t total =
      options.windows == 0 ? available : std::min(options.windows, available);
  if (total == 0) {
    return Failed(
        fmt::format("evaluate: {} token ids are less than one window "
                    "of {}; give a longer text or a smaller --window",
                    ids.size(), window));
  }
  const size_t vocab = model.config().vocab;
  const size_t inputs = window - 1;
  RANKFORGE_ASSIGN_OR_RETURN(KvCache cache, model.NewCache(inputs));
  WindowRun run(model, options, std::move(cache));
  const size_t predicted =
      options.decode_from > 0 ? window - options.decode_from : inputs;
  std::vector<float> logits(predicted * vocab);
  std::vector<double> losses;
  std::optional<ReferenceRun> reference;
  if (options.reference != nullptr) {
    RANKFORGE_ASSIGN_OR_RETURN(
        reference, ReferenceRun::Create(*options.reference, vocab, inputs));
  }

  double loss = 0;
  for (size_t w = 0; w < total; ++w) {
    const std::span<const int> text = ids.subspan(w * window, window);
    RANKFORGE_RETURN_IF_ERROR(CheckIds(text, vocab));
    RANKFORGE_RETURN_IF_ERROR(run.Run(text, logits));
    Losses(model, logits, text.last(predicted), losses);
    loss = std::accumulate(losses.begin(), losses.end(), loss);
    if (reference) {
      RANKFORGE_RETURN_IF_ERROR(reference->Add(text, logits, losses));
    }
    if (progress) progress(w + 1, total);
  }

  Evaluation evaluation{run.Done()};
  evaluation.layers = run.TakeDecisions();
  evaluation.tokens = total * predicted;
  evaluation.loss = loss / static_cast<double>(evaluation.tokens);
  evaluation.perplexity = std::exp(evaluation.loss);
  if (reference) evaluation.difference = reference->Found();
  return evaluation;
}

Result<ChoiceEvaluation> EvaluateChoices(Model& model,
                                         std::span<const Question> questions,
                                         const EvaluationProgress& progress) {
  const size_t vocab = model.config().vocab;
  if (questions.empty()) return Failed("evaluate: there are no questions");
  size_t capacity = 0;
  for (size_t q = 0; q < questions.size(); ++q) {
    RANKFORGE_RETURN_IF_ERROR(CheckQuestion(q, questions[q], vocab));
    capacity = std::max(capacity, Length(questions[q]));
  }
  RANKFORGE_ASSIGN_OR_RETURN(KvCache cache, model.NewCache(capacity));
  ChoiceRun run(model, std::move(cache));
  std::vector<double> losses, by_choice, by_byte;
  model.ResetCounters();

  size_t right = 0, right_per_byte = 0, answer_tokens = 0, without_prefix = 0;
  double answer_loss = 0;
  for (size_t q = 0; q < questions.size(); ++q) {
    const Question& question = questions[q];
    without_prefix += !question.context_is_prefix;
    RANKFORGE_RETURN_IF_ERROR(run.Begin(question.context));
    by_choice.clear();
    by_byte.clear();
    for (const Question::Choice& choice : question.choices) {
      RANKFORGE_RETURN_IF_ERROR(run.Run(choice.ids));
      Losses(model, run.logits(), choice.ids, losses);
      const double loss = std::accumulate(losses.begin(), losses.end(), 0.0);
      by_choice.push_back(-loss);
      by_byte.push_back(-loss /
                        static_cast<double>(std::max(choice.bytes, size_t{1})));
    }
    right += Largest(by_choice) == question.answer;
    right_per_byte += Largest(by_byte) == question.answer;
    answer_loss -= by_choice[question.answer];
    answer_tokens += question.choices[question.answer].ids.size();
    if (progress) progress(q + 1, questions.size());
  }

  ChoiceEvaluation evaluation{WorkOf(model.config(), model.counters())};
  evaluation.layers = run.TakeDecisions();
  const auto count = static_cast<double>(questions.size());
  evaluation.questions = questions.size();
  evaluation.questions_without_prefix = without_prefix;
  evaluation.accuracy = static_cast<double>(right) / count;
  evaluation.accuracy_per_byte = static_cast<double>(right_per_byte) / count;
  evaluation.answer_loss = answer_loss / static_cast<double>(answer_tokens);
  return evaluation;
}

}  // namespace rankforge
