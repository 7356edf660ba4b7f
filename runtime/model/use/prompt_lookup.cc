#include "runtime/model/use/prompt_lookup.h"

namespace rankforge {

std::vector<int> PromptLookup::Draft(std::span<const int> text,
                                     size_t room) const {
  const size_t count = pause_ > 0 ? 0 : std::min(limit_, room);
  if (count == 0) return {};  // the search reads the whole text
  const size_t size = text.size();
  size_t longest = 0;
  size_t next = 0;  // what followed the best match begins here
  for (size_t end = size; end-- > 1 && longest < kLongestMatch;) {
    // How many tokens before `end` are those before the end of the text.
    size_t match = 0;
    const size_t most = std::min(end, kLongestMatch);
    while (match < most && text[end - 1 - match] == text[size - 1 - match]) {
      ++match;
    }
    if (match > longest) {
      longest = match;
      next = end;
    }
  }
  std::vector<int> draft;
  if (longest == 0) return draft;
  while (draft.size() < count) {
    const size_t at = next + draft.size();
    draft.push_back(at < size ? text[at] : draft[at - size]);
  }
  return draft;
}

void PromptLookup::Learn(size_t drafted, size_t accepted) {
  if (drafted == 0) {
    pause_ -= std::min<size_t>(pause_, 1);
    return;
  }
  limit_ = accepted < drafted
               ? std::max<size_t>(accepted, 1)
               // There may have been room for fewer than the limit.
               : std::min(most_, std::max(limit_, 2 * drafted));
  misses_ = accepted > 0 ? 0 : std::min(misses_ + 1, kPauses.size() - 1);
  pause_ = kPauses[misses_];
}

}  // namespace rankforge
