// How well a model predicts: perplexity over a text, and answers to multiple
// choice questions.
#ifndef RANKFORGE_RUNTIME_MODEL_USE_EVALUATION_H_
#define RANKFORGE_RUNTIME_MODEL_USE_EVALUATION_H_

#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/model/forward/model.h"

namespace rankforge {

// The work of an evaluation, from the model's counters.
struct Work {
  // Multiply-adds per token of the linear layers inside blocks: what the masks
  // keep, what the dense model has, and the ratio of both.
  double block_macs = 0;
  double dense_block_macs = 0;
  double linear_flops_ratio = 1;
  double bytes_per_token = 0;  // of all weights, lm_head included
  // By adapted module: the share of channels that a token keeps. The mean over
  // tokens, and the quantiles "0.05", "0.25", "0.5", "0.75" and "0.95".
  std::map<std::string, double> density;
  std::map<std::string, std::map<std::string, double>> density_quantiles;
  // What each prompt decided: the prefixes of windows with options.decode_from,
  // or the contexts of questions. Empty where the model never leaves out
  // layers.
  std::vector<LayerDecision> layers = {};
};

// A mean over tokens and its standard error, as if tokens were independent.
struct TokenMean {
  double mean = 0;
  double error = 0;
};

// Predictions q against the predictions p of another model.
struct Difference {
  TokenMean divergence;   // Kullback-Leibler, sum of p (log p - log q), nats
  TokenMean excess_loss;  // loss of q on the text minus that of p, nats
};

struct Evaluation : Work {
  double loss = 0;  // mean negative log-likelihood, nats
  double perplexity = 0;
  size_t tokens = 0;                          // predicted
  std::optional<Difference> difference = {};  // from options.reference
};

struct EvaluationOptions {
  size_t window = 256;
  size_t windows = 0;   // how many, from the start of the text; 0: all
  bool decode = false;  // token by token, with the kernels of decoding
  // The first so many tokens of a window are its prompt, and the others are
  // decoded after it; only they count, in the loss and in the work. 0: off.
  size_t decode_from = 0;
  // A model of the same vocabulary to run on the same windows; may be null.
  Model* reference = nullptr;
};

// Sees (done, total); may be empty.
using EvaluationProgress = std::function<void(size_t, size_t)>;

// Runs non-overlapping windows of options.window ids, each from an empty cache.
// The loss is over all tokens of a window but its first, which nothing
// predicts, or with options.decode_from over those after its prompt. The first
// of them is predicted by the prompt.
Result<Evaluation> Evaluate(Model& model, std::span<const int> ids,
                            const EvaluationOptions& options,
                            const EvaluationProgress& progress);

// A text and several continuations of it, one of which is right.
struct Question {
  struct Choice {
    std::vector<int> ids;  // at least one
    size_t bytes = 0;      // of its text
  };
  std::vector<int> context;  // at least one id
  std::vector<Choice> choices;
  size_t answer = 0;
  // Whether context and choice together begin with the tokens of the context
  // alone, for every choice.
  bool context_is_prefix = true;
};

struct ChoiceEvaluation : Work {
  size_t questions = 0;
  // Those whose context_is_prefix is false: their choices are judged by the
  // tokens after as many as the context has, after a context that no token
  // sequence of the text begins with.
  size_t questions_without_prefix = 0;
  // The share of questions whose answer has the largest log-likelihood of all
  // choices; of equals, the first counts. `accuracy_per_byte` divides
  // log-likelihoods by the bytes of a choice, so that short choices have no
  // advantage. lm-evaluation-harness calls them acc and acc_norm.
  double accuracy = 0;
  double accuracy_per_byte = 0;
  // Mean negative log-likelihood of the right choices, nats per token. It tells
  // models apart that choose alike.
  double answer_loss = 0;
};

// Where layers may be left out, the context is the prompt, and its choices are
// decoded after it.
Result<ChoiceEvaluation> EvaluateChoices(Model& model,
                                         std::span<const Question> questions,
                                         const EvaluationProgress& progress);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_USE_EVALUATION_H_
