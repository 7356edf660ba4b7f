#include "runtime/model/text/byte_pair_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <queue>
#include <tuple>
#include <utility>

#include "runtime/model/text/unicode.h"

namespace rankforge {

namespace {

uint64_t PairKey(int left, int right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 |
         static_cast<uint32_t>(right);
}

}  // namespace

size_t BytePairModel::PairHash::operator()(uint64_t pair) const {
  // Both ids reach the low bits, which choose the bucket.
  pair *= 0x9E3779B97F4A7C15;
  return static_cast<size_t>(pair ^ pair >> 32);
}

BytePairModel::BytePairModel(BytePairOptions options)
    : options_(std::move(options)) {
  character_ids_.fill(-1);
  byte_ids_.fill(-1);
}

void BytePairModel::Reserve(size_t tokens, size_t merges) {
  ids_.Reserve(tokens);
  tokens_.reserve(tokens);
  merges_.reserve(merges);
}

bool BytePairModel::AddToken(std::string_view token, int id) {
  if (!ids_.Add(token, id)) return false;
  largest_id_ = std::max(largest_id_, id);
  return tokens_.emplace(id, ids_.size() - 1).second;
}

Status BytePairModel::AddMerge(std::string_view left, std::string_view right) {
  const auto missing = [](std::string_view token) {
    return Failed(fmt::format("'vocab' lacks '{:.64}'", token));
  };
  const int first = IdOf(left), second = IdOf(right);
  if (first < 0) return missing(left);
  if (second < 0) return missing(right);
  if (right.size() < options_.prefix.size()) return missing(right);
  std::string whole(left);
  whole += right.substr(options_.prefix.size());
  const int merged = IdOf(whole);
  if (merged < 0) return missing(whole);
  // A pair that is there twice has its last rank.
  const auto rank = static_cast<int>(merges_.size());
  merges_[PairKey(first, second)] = Merge{rank, merged};
  return {};
}

void BytePairModel::Finish() {
  for (char32_t c = 0; c < character_ids_.size(); ++c) {
    std::string character;
    AppendCharacter(c, character);
    character_ids_[c] = IdOf(character);
  }
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    byte_ids_[byte] = IdOf(fmt::format("<0x{:02X}>", byte));
  }
  if (options_.unknown) unknown_id_ = IdOf(*options_.unknown);
}

int BytePairModel::IdOf(std::string_view token) const {
  return ids_.IdOf(token);
}

const std::string* BytePairModel::TokenOf(int id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : &ids_.text(found->second);
}

int BytePairModel::CharacterId(std::string_view character, bool first,
                               bool last) const {
  const bool plain =
      (first || options_.prefix.empty()) && (!last || options_.suffix.empty());
  if (!plain) {
    return IdOf((first ? "" : options_.prefix) + std::string(character) +
                (last ? options_.suffix : ""));
  }
  if (character.size() <= 2) {
    std::string_view rest = character;
    const char32_t value = TakeCharacter(rest);
    if (value < character_ids_.size()) return character_ids_[value];
  }
  return IdOf(character);
}

bool BytePairModel::AddBytes(std::string_view text,
                             std::vector<int>& ids) const {
  const size_t before = ids.size();
  for (const char byte : text) {
    const int id = byte_ids_[static_cast<uint8_t>(byte)];
    if (id < 0) {
      ids.resize(before);
      return false;
    }
    ids.push_back(id);
  }
  return true;
}

// The tokens of the characters of `piece`, before merging.
std::vector<int> BytePairModel::Initial(std::string_view piece) const {
  std::vector<int> ids;
  ids.reserve(piece.size());
  // Unknown characters wait: a token of bytes goes before them.
  size_t waiting = 0;
  const auto add_waiting = [&] {
    ids.insert(ids.end(), waiting, unknown_id_);
    waiting = 0;
  };
  for (size_t at = 0; at < piece.size();) {
    const std::string_view character =
        piece.substr(at, CharacterSize(piece.substr(at)));
    const bool first = at == 0;
    at += character.size();
    const bool last = at == piece.size();
    const int id = CharacterId(character, first, last);
    if (id >= 0) {
      add_waiting();
      ids.push_back(id);
      continue;
    }
    if (options_.falls_back) {
      const std::string text = (first ? "" : options_.prefix) +
                               std::string(character) +
                               (last ? options_.suffix : "");
      if (AddBytes(text, ids)) continue;
    }
    if (unknown_id_ < 0) continue;
    if (waiting > 0 && !options_.fuses_unknown) add_waiting();
    waiting = 1;
  }
  add_waiting();
  return ids;
}

// Merges the pair of neighbours with the lowest rank (of equals, the first)
// until no pair can be merged. Candidates are in a queue, because a piece may
// be as long as the text.
void BytePairModel::MergeAll(std::vector<Symbol>& symbols) const {
  // The rank, the place of the left symbol, and the merged token, because
  // another merge may change one of the two before this one's turn.
  using Candidate = std::tuple<int, int, int>;
  std::vector<Candidate> candidates;
  const auto at = [&](int place) -> Symbol& {
    return symbols[static_cast<size_t>(place)];
  };
  const auto find = [&](int left) -> const Merge* {
    if (left < 0 || at(left).next < 0) return nullptr;
    const auto merge = merges_.find(PairKey(at(left).id, at(at(left).next).id));
    return merge == merges_.end() ? nullptr : &merge->second;
  };
  for (int i = 0; i < static_cast<int>(symbols.size()); ++i) {
    if (const Merge* merge = find(i)) {
      candidates.emplace_back(merge->rank, i, merge->id);
    }
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(
      {}, std::move(candidates));
  const auto consider = [&](int left) {
    if (const Merge* merge = find(left)) {
      queue.emplace(merge->rank, left, merge->id);
    }
  };
  while (!queue.empty()) {
    const auto [rank, left, id] = queue.top();
    queue.pop();
    Symbol& symbol = at(left);
    if (symbol.id < 0) continue;
    const Merge* const merge = find(left);
    if (merge == nullptr || merge->id != id) continue;
    Symbol& gone = at(symbol.next);
    symbol.id = id;
    symbol.next = gone.next;
    gone.id = -1;
    if (symbol.next >= 0) at(symbol.next).previous = left;
    consider(symbol.previous);
    consider(left);
  }
}

void BytePairModel::Encode(std::string_view piece,
                           std::vector<int>& out) const {
  if (piece.empty()) return;
  if (options_.ignores_merges) {
    if (const int whole = IdOf(piece); whole >= 0) {
      out.push_back(whole);
      return;
    }
  }
  const std::vector<int> ids = Initial(piece);
  std::vector<Symbol> symbols(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    const int place = static_cast<int>(i);
    symbols[i] = {ids[i], place - 1, i + 1 == ids.size() ? -1 : place + 1};
  }
  MergeAll(symbols);
  for (const Symbol& symbol : symbols) {
    if (symbol.id >= 0) out.push_back(symbol.id);
  }
}

}  // namespace rankforge
