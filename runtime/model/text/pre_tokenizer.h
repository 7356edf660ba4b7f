// How a tokenizer cuts a text into the pieces that its model sees.
#ifndef RANKFORGE_RUNTIME_MODEL_TEXT_PRE_TOKENIZER_H_
#define RANKFORGE_RUNTIME_MODEL_TEXT_PRE_TOKENIZER_H_

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/model/text/pattern.h"

namespace rankforge {

// What becomes of the parts that match: no piece, a piece each, the end of the
// piece before, the start of the piece after, or one piece with matches beside
// it.
enum class SplitBehavior {
  kRemoved,
  kIsolated,
  kMergedWithPrevious,
  kMergedWithNext,
  kContiguous,
};
inline constexpr std::array kSplitBehaviors = {
    SplitBehavior::kRemoved, SplitBehavior::kIsolated,
    SplitBehavior::kMergedWithPrevious, SplitBehavior::kMergedWithNext,
    SplitBehavior::kContiguous};
std::string_view Name(SplitBehavior behavior);

struct SplitStep {
  TextPattern pattern;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // the parts that do not match count as matches
};

// Cuts with a pattern, if there is one. Then each byte becomes the character
// that stands for it.
struct ByteLevelStep {
  bool adds_space = false;  // before a piece that begins with none
  std::optional<TextPattern> pattern;
};

enum class PrependScheme { kAlways, kFirst, kNever };
inline constexpr std::array kPrependSchemes = {
    PrependScheme::kAlways, PrependScheme::kFirst, PrependScheme::kNever};
std::string_view Name(PrependScheme scheme);

// Spaces become `replacement`, which also begins each piece.
struct MetaspaceStep {
  std::string replacement;
  PrependScheme prepends = PrependScheme::kAlways;
  bool splits = true;
};

// Pieces of so many characters.
struct FixedLengthStep {
  size_t length = 1;
};

using PreTokenizerStep =
    std::variant<SplitStep, ByteLevelStep, MetaspaceStep, FixedLengthStep>;

// Gives each piece of `text` that is left after all steps to `use`. `first`:
// whether `text` begins the text that the user gave. Text is valid UTF-8.
void ForEachPiece(const std::vector<PreTokenizerStep>& steps,
                  std::string_view text, bool first,
                  const std::function<void(std::string_view)>& use);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_TEXT_PRE_TOKENIZER_H_
