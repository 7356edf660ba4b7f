// A tokenizer of byte pairs, with the steps before and after its model.
#ifndef RANKFORGE_RUNTIME_MODEL_TEXT_BYTE_PAIR_TOKENIZER_H_
#define RANKFORGE_RUNTIME_MODEL_TEXT_BYTE_PAIR_TOKENIZER_H_

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/model/text/added_tokens.h"
#include "runtime/model/text/byte_pair_model.h"
#include "runtime/model/text/normalizer.h"
#include "runtime/model/text/pre_tokenizer.h"
#include "runtime/model/text/token_decoder.h"

namespace rankforge {

// What a tokenizer.json says.
struct BytePairParts {
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre_tokenizer;
  BytePairModel model{{}};
  std::vector<AddedToken> added;
  // Ids before and after a text.
  std::vector<int> prefix, suffix;
  // None: tokens are separated by spaces.
  std::optional<std::vector<DecoderStep>> decoder;
  // What is not honoured, a sentence each.
  std::vector<std::string> notes;
};

class BytePairTokenizer {
 public:
  explicit BytePairTokenizer(BytePairParts parts);

  // Without prefix and suffix. Bytes that are not UTF-8 count as U+FFFD.
  std::vector<int> Encode(std::string_view text) const;
  // Special tokens and unknown ids stand for no text. (The tokenizers library
  // gives the text of those that its normalizer changes.) Bytes that are not
  // UTF-8 become U+FFFD.
  std::string Decode(std::span<const int> ids) const;
  // One more than the largest id.
  size_t vocab() const;
  const BytePairParts& parts() const { return parts_; }

 private:
  void EncodeNormal(std::string_view text, bool first,
                    std::vector<int>& ids) const;

  BytePairParts parts_;
  AddedTokenFinder finder_;                          // in text as it is
  AddedTokenFinder normalized_finder_;               // in normalised text
  std::unordered_map<int, std::string> added_text_;  // special tokens: none
  int largest_id_ = -1;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_TEXT_BYTE_PAIR_TOKENIZER_H_
