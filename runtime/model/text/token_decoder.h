// From the tokens of a text back to the text.
#ifndef RANKFORGE_RUNTIME_MODEL_TEXT_TOKEN_DECODER_H_
#define RANKFORGE_RUNTIME_MODEL_TEXT_TOKEN_DECODER_H_

#include <string>
#include <variant>
#include <vector>

#include "runtime/model/text/pattern.h"

namespace rankforge {

// The characters of all tokens become the bytes that they stand for. A token
// with another character keeps it.
struct BytesOfCharacters {};
// Neighbours such as "<0x41>" become the text of these bytes, or U+FFFD for
// each byte if they are not UTF-8.
struct BytesOfNames {};
// All tokens become one.
struct FuseTokens {};
struct ReplaceInTokens {
  TextPattern pattern;
  std::string content;
};
// Removes up to so many of a character at the ends of each token.
struct StripTokens {
  char32_t character = ' ';
  size_t start = 0;
  size_t stop = 0;
};
// `replacement` becomes a space, or nothing in the first token.
struct MetaspaceTokens {
  char32_t replacement = 0;
  bool drops_first = false;
};

using DecoderStep = std::variant<BytesOfCharacters, BytesOfNames, FuseTokens,
                                 ReplaceInTokens, StripTokens, MetaspaceTokens>;

// The text of `tokens` after all steps.
std::string TextOf(const std::vector<DecoderStep>& steps,
                   std::vector<std::string> tokens);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_TEXT_TOKEN_DECODER_H_
