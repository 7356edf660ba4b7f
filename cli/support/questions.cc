#include "cli/support/questions.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>
#include <string_view>

#include "base/files.h"
#include "cli/support/output.h"
#include "cli/support/session.h"
#include "cli/support/token_ids.h"

namespace rankforge {
namespace {

// `where`: file and line, for messages.
Result<Question> ParseQuestion(const std::string& where,
                               const std::string& line,
                               const Tokenizer& tokenizer) {
  const Result<Json> parsed = ParseInput(where, line);
  const Json json = parsed.ok() ? *parsed : Json();
  if (!json.is_object()) {
    return Failed(where + ": no JSON object; write one question per line");
  }
  const auto field = [&](const char* name) {
    const auto found = json.find(name);
    return found == json.end() ? Json() : *found;
  };
  const Json context = field("context"), choices = field("choices"),
             answer = field("answer");
  if (!context.is_string()) {
    return Failed(where + ": 'context' must be a string");
  }
  if (!choices.is_array() || choices.size() < 2 ||
      !std::all_of(choices.begin(), choices.end(),
                   [](const Json& choice) { return choice.is_string(); })) {
    return Failed(where + ": 'choices' must be a list of at least two strings");
  }
  if (!answer.is_number_unsigned() ||
      answer.get<uint64_t>() >= choices.size()) {
    return Failed(fmt::format(
        "{}: 'answer' must be the index of a choice, 0 to {}; it is {}", where,
        choices.size() - 1, answer.dump()));
  }
  Question question;
  const auto& text = context.get_ref<const std::string&>();
  question.context = tokenizer.Encode(text);
  if (question.context.empty()) {
    return Failed(where +
                  ": 'context' has no tokens; the first choice needs something "
                  "to follow");
  }
  question.answer = answer.get<size_t>();
  for (const Json& choice : choices) {
    const auto& continuation = choice.get_ref<const std::string&>();
    const std::vector<int> whole = tokenizer.Encode(text + continuation);
    if (!std::equal(question.context.begin(),
                    question.context.begin() +
                        static_cast<ptrdiff_t>(
                            std::min(question.context.size(), whole.size())),
                    whole.begin())) {
      question.context_is_prefix = false;
    }
    if (whole.size() <= question.context.size()) {
      return Failed(fmt::format("{}: choice {} adds no token to the context",
                                where, choice.dump()));
    }
    question.choices.push_back(
        {{whole.begin() + static_cast<ptrdiff_t>(question.context.size()),
          whole.end()},
         continuation.size()});
  }
  return question;
}

}  // namespace

Result<std::vector<Question>> LoadQuestions(const std::string& model,
                                            const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(const Tokenizer tokenizer, OpenTokenizer(model));
  RANKFORGE_ASSIGN_OR_RETURN(const std::string contents,
                             ReadTextFile(path, kMaxTextBytes));
  std::vector<Question> questions;
  std::istringstream lines(contents);
  std::string line;
  for (size_t number = 1; std::getline(lines, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    RANKFORGE_ASSIGN_OR_RETURN(
        Question question,
        ParseQuestion(fmt::format("{}: line {}", path, number), line,
                      tokenizer));
    questions.push_back(std::move(question));
  }
  if (questions.empty()) return Failed(path + ": has no questions");
  return questions;
}

}  // namespace rankforge
