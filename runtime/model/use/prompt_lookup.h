// Drafts of what follows a text, copied from the text itself: generation then
// checks several tokens in one pass (Model::Decode). Needs no second model.
#ifndef RANKFORGE_RUNTIME_MODEL_USE_PROMPT_LOOKUP_H_
#define RANKFORGE_RUNTIME_MODEL_USE_PROMPT_LOOKUP_H_

#include <algorithm>
#include <array>
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
  // Empty: the last token is there for the first time, or drafts pause.
  std::vector<int> Draft(std::span<const int> text, size_t room) const;

  // `accepted` of the `drafted` tokens were right. A draft that was right as a
  // whole makes the next one up to twice as long; another makes it as long as
  // what was right, because each wrong token costs time. Drafts of which
  // nothing was right, in a row, are followed by a pause (kPauses). Each pass
  // without a draft, 0 of 0, is one of it.
  void Learn(size_t drafted, size_t accepted);

 private:
  static constexpr size_t kLongestMatch = 3;
  // Passes without a draft after so many drafts in a row of which nothing was
  // right. Where products have no kernels for several tokens, such a draft
  // costs as much arithmetic as a token: after four it is one pass in 8. Longer
  // pauses would miss more of where a text begins to repeat.
  static constexpr std::array<size_t, 5> kPauses = {0, 0, 1, 3, 7};

  size_t most_;
  size_t limit_;
  size_t misses_ = 0;  // an index of kPauses
  size_t pause_ = 0;   // passes that are left of it
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_USE_PROMPT_LOOKUP_H_
