#include "runtime/model/text/added_tokens.h"

#include <algorithm>

#include "runtime/model/text/unicode.h"

namespace rankforge {

namespace {

// The last character of `text`, which is not empty.
char32_t LastCharacter(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  std::string_view last = text.substr(at);
  return TakeCharacter(last);
}

// Where the White_Space at the end of `text` begins.
size_t SpaceBegin(std::string_view text) {
  while (!text.empty() && IsSpace(LastCharacter(text))) {
    size_t at = text.size() - 1;
    while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
    text = text.substr(0, at);
  }
  return text.size();
}

// Where the White_Space at the start of `text` ends.
size_t SpaceEnd(std::string_view text) {
  std::string_view rest = text;
  while (!rest.empty()) {
    std::string_view after = rest;
    if (!IsSpace(TakeCharacter(after))) break;
    rest = after;
  }
  return text.size() - rest.size();
}

bool IsSingleWord(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && IsWord(LastCharacter(text.substr(0, begin)))) return false;
  std::string_view after = text.substr(end);
  return after.empty() || !IsWord(TakeCharacter(after));
}

}  // namespace

void AddedTokenFinder::Add(const AddedToken& token, std::string_view content) {
  if (content.empty()) return;
  uint32_t node = 0;
  for (const char byte : content) {
    const Node* const next = Next(nodes_[node], byte);
    if (next != nullptr) {
      node = static_cast<uint32_t>(next - nodes_.data());
      continue;
    }
    const auto added = static_cast<uint32_t>(nodes_.size());
    nodes_[node].next.emplace_back(byte, added);
    nodes_.emplace_back();
    node = added;
  }
  if (nodes_[node].token >= 0) return;
  nodes_[node].token = static_cast<int>(tokens_.size());
  tokens_.push_back(token);
}

const AddedTokenFinder::Node* AddedTokenFinder::Next(const Node& node,
                                                     char byte) const {
  for (const auto& [key, next] : node.next) {
    if (key == byte) return &nodes_[next];
  }
  return nullptr;
}

const AddedToken* AddedTokenFinder::LongestAt(std::string_view text,
                                              size_t& size) const {
  const AddedToken* longest = nullptr;
  const Node* node = nodes_.data();
  for (size_t i = 0; i < text.size(); ++i) {
    node = Next(*node, text[i]);
    if (node == nullptr) break;
    if (node->token < 0) continue;
    longest = &tokens_[static_cast<size_t>(node->token)];
    size = i + 1;
  }
  return longest;
}

std::vector<AddedPart> AddedTokenFinder::Parts(std::string_view text) const {
  if (tokens_.empty()) {
    if (text.empty()) return {};
    return {{0, text.size(), -1}};
  }
  std::vector<AddedPart> parts;
  size_t covered = 0;  // by parts; the space after a token may be another one
  size_t size = 0;
  for (size_t at = 0; at < text.size();) {
    const AddedToken* const token = LongestAt(text.substr(at), size);
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + size;
    at = end;
    if (token->single_word && !IsSingleWord(text, begin, end)) continue;
    if (token->takes_left) {
      begin = covered + SpaceBegin(text.substr(covered, begin - covered));
    }
    if (token->takes_right) end += SpaceEnd(text.substr(end));
    if (covered < begin) parts.push_back({covered, begin, -1});
    parts.push_back({begin, end, token->id});
    covered = end;
  }
  if (covered < text.size()) parts.push_back({covered, text.size(), -1});
  return parts;
}

}  // namespace rankforge
