// What a tokenizer changes in a text before it cuts it.
#ifndef RANKFORGE_RUNTIME_MODEL_TEXT_NORMALIZER_H_
#define RANKFORGE_RUNTIME_MODEL_TEXT_NORMALIZER_H_

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/model/text/pattern.h"

namespace rankforge {

// Unicode's forms.
struct UnicodeForm {
  bool composes = false;
  bool compatible = false;  // replaces ligatures, widths, ...
};
struct LowercaseStep {};
// Each byte becomes the character that stands for it.
struct ByteCharactersStep {};
// Puts `text` before a text that is not empty.
struct PrependStep {
  std::string text;
};
struct ReplaceStep {
  TextPattern pattern;
  std::string content;
};
// Removes White_Space at the ends.
struct TrimStep {
  bool left = false;
  bool right = false;
};

using NormalizerStep =
    std::variant<UnicodeForm, LowercaseStep, ByteCharactersStep, PrependStep,
                 ReplaceStep, TrimStep>;

// The steps, one after the other. `text` is valid UTF-8, and so is the result.
// A step whose result is far longer than the text is the last one: steps of a
// hostile file may each double it.
std::string Normalized(const std::vector<NormalizerStep>& steps,
                       std::string_view text);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_TEXT_NORMALIZER_H_
