#include "runtime/model/text/token_table.h"

#include <bit>

namespace rankforge {

namespace {

uint32_t Half(uint64_t hash) { return static_cast<uint32_t>(hash >> 32); }

}  // namespace

size_t TokenTable::SlotOf(std::string_view token, uint64_t hash) const {
  const size_t mask = slots_.size() - 1;
  size_t at = hash & mask;
  for (; slots_[at].token >= 0; at = (at + 1) & mask) {
    const Slot& slot = slots_[at];
    if (slot.hash == Half(hash) &&
        tokens_[static_cast<size_t>(slot.token)].text == token) {
      break;
    }
  }
  return at;
}

void TokenTable::Resize(size_t slots) {
  slots_.assign(slots, Slot());
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const uint64_t hash = HashOf(tokens_[i].text);
    slots_[SlotOf(tokens_[i].text, hash)] = {Half(hash),
                                             static_cast<int32_t>(i)};
  }
}

void TokenTable::Reserve(size_t tokens) {
  tokens_.reserve(tokens);
  const size_t slots = std::bit_ceil(2 * tokens + 1);
  if (slots > slots_.size()) Resize(slots);
}

bool TokenTable::Add(std::string_view token, int id) {
  // Half of the slots stay free: then few tokens are looked at.
  if (2 * tokens_.size() >= slots_.size()) Resize(2 * slots_.size());
  const uint64_t hash = HashOf(token);
  Slot& slot = slots_[SlotOf(token, hash)];
  if (slot.token >= 0) return false;
  slot = {Half(hash), static_cast<int32_t>(tokens_.size())};
  tokens_.push_back({std::string(token), id});
  return true;
}

int TokenTable::IdOf(std::string_view token) const {
  const Slot& slot = slots_[SlotOf(token, HashOf(token))];
  return slot.token < 0 ? -1 : tokens_[static_cast<size_t>(slot.token)].id;
}

}  // namespace rankforge
