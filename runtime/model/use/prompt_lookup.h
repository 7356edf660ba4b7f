// Drafts of what follows a text, copied from the text itself: generation then
// checks several tokens in one pass (Model::Decode). Needs no second model.
#ifndef RANKFORGE_RUNTIME_MODEL_USE_PROMPT_LOOKUP_H_
#define RANKFORGE_RUNTIME_MODEL_USE_PROMPT_LOOKUP_H_

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "meta/variant.h"

namespace rankforge {

// The token that a pass runs anyway comes before those of a draft.
inline constexpr size_t kMostDrafted = kMostTokens - 1;

class PromptLookup {
 public:
  // Drafts have up to `most` tokens, at most kMostDrafted; 0: none.
  explicit PromptLookup(size_t most)
      : most_(std::min(most, kMostDrafted)), limit_(most_) {}

  // Up to `room` tokens: those that followed when the last tokens of `text`
  // were there before. The longest end of the text counts, of up to
  // kLongestMatch tokens, and of its places the latest. A draft that reaches
  // the end of the text goes on with itself: what repeats is repeated.
  // Empty: the last token is there for the first time.
  std::vector<int> Draft(std::span<const int> text, size_t room) const;

  // `accepted` of the `drafted` tokens were right. A draft that was right as a
  // whole makes the next one up to twice as long; another makes it as long as
  // what was right, because each wrong token costs time.
  void Learn(size_t drafted, size_t accepted);

 private:
  static constexpr size_t kLongestMatch = 3;

  size_t most_;
  size_t limit_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_USE_PROMPT_LOOKUP_H_
