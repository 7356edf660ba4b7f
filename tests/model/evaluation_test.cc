// Perplexity and choices against sums over single decode steps.
#include "runtime/model/use/evaluation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/model/model_testing.h"

namespace rankforge {
namespace {

class EvaluationTest : public testing::Test {
 protected:
  // The negative log-likelihood of ids[first..], each after all before it.
  double LossOf(Model& model, const std::vector<int>& ids, size_t first) {
    const std::vector<float> logits = DecodeLogits(model, ids);
    double loss = 0;
    for (size_t i = first; i < ids.size(); ++i) {
      const float* const row = &logits[(i - 1) * config_.vocab];
      double sum = 0;
      for (size_t id = 0; id < config_.vocab; ++id) {
        sum += std::exp(double{row[id]});
      }
      loss += std::log(sum) - row[ids[i]];
    }
    return loss;
  }

  const ModelConfig config_ = TinyConfig();
  const SyntheticWeights weights_{config_, 2};
};

TEST_F(EvaluationTest, PerplexityOfWindows) {
  Model model = MakeModel(config_, weights_);
  const std::vector<int> ids = SyntheticIds(config_, 70, 4);
  std::vector<size_t> progress;
  const auto result =
      Evaluate(model, ids, {16, 0}, [&](size_t done, size_t all) {
        EXPECT_EQ(all, 4);
        progress.push_back(done);
      });
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(progress, std::vector<size_t>({1, 2, 3, 4}));
  EXPECT_EQ(result->tokens, 4 * 15);
  EXPECT_DOUBLE_EQ(result->perplexity, std::exp(result->loss));
  EXPECT_DOUBLE_EQ(result->linear_flops_ratio, 1);

  // The same from single decode steps.
  double loss = 0;
  for (size_t window = 0; window < 4; ++window) {
    const auto text = std::span(ids).subspan(window * 16, 16);
    const auto logits = DecodeLogits(model, text);
    for (size_t i = 0; i < 15; ++i) {
      double sum = 0;
      for (size_t id = 0; id < config_.vocab; ++id) {
        sum += std::exp(double{logits[i * config_.vocab + id]});
      }
      loss += std::log(sum) -
              logits[i * config_.vocab + static_cast<size_t>(text[i + 1])];
    }
  }
  EXPECT_NEAR(result->loss, loss / 60, 1e-5);
  EXPECT_NEAR(
      Evaluate(model, ids, {.window = 16, .decode = true}, nullptr)->loss,
      loss / 60, 1e-9);

  EXPECT_EQ(Evaluate(model, ids, {16, 2}, nullptr)->tokens, 30);
  EXPECT_EQ(Evaluate(model, ids, {1, 0}, nullptr).status().code(),
            StatusCode::kUsage);
  EXPECT_FALSE(Evaluate(model, ids, {71, 0}, nullptr).ok());
  std::vector<int> outside = ids;
  outside[3] = 301;
  EXPECT_FALSE(Evaluate(model, outside, {16, 0}, nullptr).ok());
}

TEST_F(EvaluationTest, DifferenceFromAnotherModel) {
  Model model = MakeModel(config_, weights_);
  const SyntheticWeights others(config_, 3);
  Model reference = MakeModel(config_, others);
  const std::vector<int> ids = SyntheticIds(config_, 48, 4);
  const auto with = [&](Model& other) {
    return Evaluate(model, ids, {.window = 16, .reference = &other}, nullptr);
  };
  const auto result = with(reference);
  ASSERT_TRUE(result.ok()) << result.status().message();
  ASSERT_TRUE(result->difference);

  // The same from single decode steps.
  std::vector<double> divergences, excess;
  for (size_t window = 0; window < 3; ++window) {
    const auto text = std::span(ids).subspan(window * 16, 16);
    const auto q = DecodeLogits(model, text);
    const auto p = DecodeLogits(reference, text);
    for (size_t i = 0; i < 15; ++i) {
      const size_t row = i * config_.vocab;
      double p_sum = 0, q_sum = 0, divergence = 0;
      for (size_t id = 0; id < config_.vocab; ++id) {
        p_sum += std::exp(double{p[row + id]});
        q_sum += std::exp(double{q[row + id]});
      }
      const auto log_ratio = [&](size_t id) {  // log p - log q
        return (p[row + id] - std::log(p_sum)) -
               (q[row + id] - std::log(q_sum));
      };
      for (size_t id = 0; id < config_.vocab; ++id) {
        divergence += std::exp(double{p[row + id]}) / p_sum * log_ratio(id);
      }
      divergences.push_back(divergence);
      excess.push_back(log_ratio(static_cast<size_t>(text[i + 1])));
    }
  }
  const auto expect = [](const TokenMean& found,
                         const std::vector<double>& values) {
    double mean = 0, variance = 0;
    for (const double value : values) mean += value / 45;
    for (const double value : values) {
      variance += (value - mean) * (value - mean) / 45;
    }
    EXPECT_GT(found.error, 0);
    EXPECT_NEAR(found.mean, mean, 1e-5);
    EXPECT_NEAR(found.error, std::sqrt(variance / 45), 1e-5);
  };
  expect(result->difference->divergence, divergences);
  expect(result->difference->excess_loss, excess);
  EXPECT_NEAR(result->difference->excess_loss.mean,
              result->loss - Evaluate(reference, ids, {16, 0}, nullptr)->loss,
              1e-9);

  // From itself nothing; without a reference no word of it.
  Model same = MakeModel(config_, weights_);
  EXPECT_EQ(with(same)->difference->divergence.mean, 0);
  EXPECT_EQ(with(same)->difference->excess_loss.error, 0);
  EXPECT_FALSE(Evaluate(model, ids, {16, 0}, nullptr)->difference);
  ModelConfig fewer = config_;
  fewer.vocab -= 1;
  const SyntheticWeights few(fewer, 2);
  Model other = MakeModel(fewer, few);
  EXPECT_EQ(with(other).status().code(), StatusCode::kUsage);
}

// The answers are those that the sums of single steps choose: all are right.
TEST_F(EvaluationTest, ChoicesByLogLikelihood) {
  Model model = MakeModel(config_, weights_);
  std::vector<Question> questions;
  double answer_loss = 0, answer_tokens = 0;
  size_t differ = 0;  // the two scores choose differently
  for (int q = 0; q < 12; ++q) {
    Question question;
    question.context = SyntheticIds(config_, q == 0 ? 1 : 4 + q % 3, 50 + q);
    double best = std::numeric_limits<double>::infinity();
    double best_per_byte = best;
    size_t per_byte = 0;
    for (int c = 0; c < 3; ++c) {
      Question::Choice choice;
      choice.ids = SyntheticIds(config_, 1 + (q + c) % 3, 90 + 3 * q + c);
      choice.bytes = 2 * choice.ids.size() + 1;
      std::vector<int> whole = question.context;
      whole.insert(whole.end(), choice.ids.begin(), choice.ids.end());
      const double loss = LossOf(model, whole, question.context.size());
      if (loss < best) {
        best = loss;
        question.answer = question.choices.size();
      }
      if (loss / static_cast<double>(choice.bytes) < best_per_byte) {
        best_per_byte = loss / static_cast<double>(choice.bytes);
        per_byte = question.choices.size();
      }
      question.choices.push_back(choice);
    }
    differ += per_byte != question.answer;
    answer_loss += best;
    answer_tokens +=
        static_cast<double>(question.choices[question.answer].ids.size());
    questions.push_back(question);
  }
  ASSERT_GT(differ, 0);
  const auto result = EvaluateChoices(model, questions, nullptr);
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(result->questions, 12);
  EXPECT_EQ(result->accuracy, 1);
  EXPECT_DOUBLE_EQ(result->accuracy_per_byte,
                   1 - static_cast<double>(differ) / 12);
  EXPECT_NEAR(result->answer_loss, answer_loss / answer_tokens, 1e-5);
  EXPECT_DOUBLE_EQ(result->linear_flops_ratio, 1);
  EXPECT_GT(result->bytes_per_token, 0);

  // Another answer is wrong.
  questions[5].answer = (questions[5].answer + 1) % 3;
  EXPECT_DOUBLE_EQ(EvaluateChoices(model, questions, nullptr)->accuracy,
                   11.0 / 12);
}

TEST_F(EvaluationTest, QuestionsThatAreNone) {
  Model model = MakeModel(config_, weights_);
  const Question good = {{1, 2}, {{{3}, 1}, {{4, 5}, 2}}, 1};
  EXPECT_TRUE(EvaluateChoices(model, {&good, 1}, nullptr).ok());
  EXPECT_FALSE(EvaluateChoices(model, {}, nullptr).ok());
  const auto refused = [&](auto spoil) {
    Question question = good;
    spoil(question);
    return !EvaluateChoices(model, {&question, 1}, nullptr).ok();
  };
  EXPECT_TRUE(refused([](Question& q) { q.context.clear(); }));
  EXPECT_TRUE(refused([](Question& q) { q.choices.clear(); }));
  EXPECT_TRUE(refused([](Question& q) { q.choices[0].ids.clear(); }));
  EXPECT_TRUE(refused([](Question& q) { q.answer = 2; }));
  EXPECT_TRUE(refused([](Question& q) { q.choices[1].ids[0] = 301; }));
  EXPECT_TRUE(refused(
      [&](Question& q) { q.context.assign(config_.max_positions, 1); }));
}

}  // namespace
}  // namespace rankforge
