#include "runtime/model/text/byte_pair_tokenizer.h"

#include <algorithm>
#include <utility>

#include "runtime/model/text/unicode.h"

namespace rankforge {

BytePairTokenizer::BytePairTokenizer(BytePairParts parts)
    : parts_(std::move(parts)), largest_id_(parts_.model.largest_id()) {
  // Of two tokens with the same content, a special one counts.
  // clang 14 does not compile std::ranges' own.
  std::stable_partition(parts_.added.begin(), parts_.added.end(),
                        [](const AddedToken& token) { return token.special; });
  for (const AddedToken& token : parts_.added) {
    const std::string content =
        token.normalized ? Normalized(parts_.normalizer, token.content)
                         : token.content;
    (token.normalized ? normalized_finder_ : finder_).Add(token, content);
    // A normalised token also stands for normalised text.
    added_text_.emplace(token.id, token.special ? "" : content);
    largest_id_ = std::max(largest_id_, token.id);
  }
}

std::vector<int> BytePairTokenizer::Encode(std::string_view text) const {
  return finder_.Encode(
      WithoutInvalid(text),
      [&](std::string_view between, bool begins, std::vector<int>& ids) {
        EncodeNormal(Normalized(parts_.normalizer, between), begins, ids);
      });
}

// Encodes normalised text. `first`: it begins the text of the user.
void BytePairTokenizer::EncodeNormal(std::string_view text, bool first,
                                     std::vector<int>& ids) const {
  for (const AddedPart& part : normalized_finder_.Parts(text)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    ForEachPiece(
        parts_.pre_tokenizer, text.substr(part.begin, part.end - part.begin),
        first && part.begin == 0,
        [&](std::string_view piece) { parts_.model.Encode(piece, ids); });
  }
}

std::string BytePairTokenizer::Decode(std::span<const int> ids) const {
  std::vector<std::string> tokens;
  std::string text;  // of tokens without a decoder
  for (const int id : ids) {
    const auto added = added_text_.find(id);
    const std::string* const token =
        added != added_text_.end() ? &added->second : parts_.model.TokenOf(id);
    // An added token that is empty is special.
    if (token != nullptr && !token->empty()) tokens.push_back(*token);
  }
  if (parts_.decoder) return TextOf(*parts_.decoder, std::move(tokens));
  for (const std::string& token : tokens) {
    if (!text.empty()) text += ' ';
    text += token;
  }
  return text;
}

size_t BytePairTokenizer::vocab() const {
  return static_cast<size_t>(largest_id_) + 1;
}

}  // namespace rankforge
