// What a tokenizer looks for in a text: a regular expression, a string, or
// characters of a class.
#ifndef RANKFORGE_RUNTIME_MODEL_TEXT_PATTERN_H_
#define RANKFORGE_RUNTIME_MODEL_TEXT_PATTERN_H_

#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/status.h"

namespace rankforge {

// A part of a text that matches, or that lies between matches.
struct TextPart {
  size_t begin = 0;
  size_t end = 0;
  bool matches = false;
};

class TextPattern {
 public:
  // A pattern in the syntax of Oniguruma. A message of an error says what is
  // wrong with it.
  static Result<TextPattern> Regex(std::string_view pattern);
  // An empty string matches between any two characters.
  static TextPattern Literal(std::string text);
  // Each character for which `contains` is true matches for itself.
  static TextPattern Characters(bool (*contains)(char32_t));

  // All of `text`, which is valid UTF-8, from its start to its end. An empty
  // match is an empty part; it begins nowhere where a match ends. A pattern
  // that tries too long (ten million steps) matches nothing more.
  std::vector<TextPart> Parts(std::string_view text) const;

 private:
  struct Code;
  using ContainsCharacter = bool (*)(char32_t);

  std::variant<std::shared_ptr<const Code>, std::string, ContainsCharacter>
      kind_;
};

// `text` with `content` in the place of each match.
std::string Replaced(std::string_view text, const TextPattern& pattern,
                     std::string_view content);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_TEXT_PATTERN_H_
