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

// The work since ResetCounters.
Work WorkOf(const Model& model) {
  const ForwardCounters counters = model.counters();
  const ModelConfig& config = model.config();
  const auto tokens = static_cast<double>(counters.tokens);
  Work work;
  work.block_macs = counters.block_macs / tokens;
  work.dense_block_macs = static_cast<double>(config.LinearMacs());
  work.linear_flops_ratio = work.block_macs / work.dense_block_macs;
  work.bytes_per_token = counters.weight_bytes / tokens;
  for (const auto& [module, density] : counters.density) {
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

  // `logits` (text.size() - 1, vocab) are the model's predictions of all tokens
  // of `text` but the first, and `losses` their losses.
  Status Add(std::span<const int> text, std::span<const float> logits,
             std::vector<double> losses) {
    cache_.Clear();
    const size_t inputs = text.size() - 1;
    RANKFORGE_RETURN_IF_ERROR(reference_->Forward(text.first(inputs), cache_,
                                                  logits_,
                                                  /*all_logits=*/true));
    Losses(*reference_, logits_, text.subspan(1), losses_);
    for (size_t i = 0; i < inputs; ++i) losses[i] -= losses_[i];
    excess_loss_.Add(losses);
    const size_t vocab = logits.size() / inputs;
    ParallelFor(reference_->executor(), inputs, [&](size_t i, size_t) {
      losses[i] = Divergence(std::span(logits_).subspan(i * vocab, vocab),
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

size_t Largest(const std::vector<double>& values) {
  return static_cast<size_t>(std::max_element(values.begin(), values.end()) -
                             values.begin());
}

}  // namespace

Result<Evaluation> Evaluate(Model& model, std::span<const int> ids,
                            const EvaluationOptions& options,
                            const EvaluationProgress& progress) {
  const size_t window = options.window;
  if (window < 2) {
    return UsageError(
        fmt::format("--window {}: a window needs at least two tokens", window));
  }
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
  // The last token of a window predicts nothing and is not run.
  const size_t inputs = window - 1;
  RANKFORGE_ASSIGN_OR_RETURN(KvCache cache, model.NewCache(inputs));
  std::vector<float> logits(inputs * vocab);
  std::vector<double> losses;
  model.ResetCounters();
  std::optional<ReferenceRun> reference;
  if (options.reference != nullptr) {
    RANKFORGE_ASSIGN_OR_RETURN(
        reference, ReferenceRun::Create(*options.reference, vocab, inputs));
  }

  double loss = 0;
  for (size_t w = 0; w < total; ++w) {
    const std::span<const int> text = ids.subspan(w * window, window);
    RANKFORGE_RETURN_IF_ERROR(CheckIds(text, vocab));
    cache.Clear();
    const size_t at_once = options.decode ? 1 : inputs;
    for (size_t i = 0; i < inputs; i += at_once) {
      RANKFORGE_RETURN_IF_ERROR(
          model.Forward(text.subspan(i, at_once), cache,
                        std::span(logits).subspan(i * vocab, at_once * vocab),
                        /*all_logits=*/true));
    }
    Losses(model, logits, text.subspan(1), losses);
    loss = std::accumulate(losses.begin(), losses.end(), loss);
    if (reference) {
      RANKFORGE_RETURN_IF_ERROR(reference->Add(text, logits, losses));
    }
    if (progress) progress(w + 1, total);
  }

  Evaluation evaluation{WorkOf(model)};
  evaluation.tokens = total * inputs;
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
  std::vector<float> logits;
  std::vector<double> losses, by_choice, by_byte;
  model.ResetCounters();

  size_t right = 0, right_per_byte = 0, answer_tokens = 0, without_prefix = 0;
  double answer_loss = 0;
  for (size_t q = 0; q < questions.size(); ++q) {
    const Question& question = questions[q];
    without_prefix += !question.context_is_prefix;
    // The context is run once, but for its last token. That is run with every
    // choice, because it predicts the choice's first token.
    const std::span<const int> context = question.context;
    const size_t shared = context.size() - 1;
    cache.Clear();
    if (shared > 0) {
      RANKFORGE_RETURN_IF_ERROR(
          model.Forward(context.first(shared), cache, {}));
    }
    by_choice.clear();
    by_byte.clear();
    for (const Question::Choice& choice : question.choices) {
      std::vector<int> inputs = {context.back()};
      inputs.insert(inputs.end(), choice.ids.begin(), choice.ids.end() - 1);
      logits.resize(inputs.size() * vocab);
      cache.Truncate(shared);
      RANKFORGE_RETURN_IF_ERROR(
          model.Forward(inputs, cache, logits, /*all_logits=*/true));
      Losses(model, logits, choice.ids, losses);
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

  ChoiceEvaluation evaluation{WorkOf(model)};
  const auto count = static_cast<double>(questions.size());
  evaluation.questions = questions.size();
  evaluation.questions_without_prefix = without_prefix;
  evaluation.accuracy = static_cast<double>(right) / count;
  evaluation.accuracy_per_byte = static_cast<double>(right_per_byte) / count;
  evaluation.answer_loss = answer_loss / static_cast<double>(answer_tokens);
  return evaluation;
}

}  // namespace rankforge
