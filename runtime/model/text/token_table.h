// The tokens of a vocabulary by their text.
#ifndef RANKFORGE_RUNTIME_MODEL_TEXT_TOKEN_TABLE_H_
#define RANKFORGE_RUNTIME_MODEL_TEXT_TOKEN_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace rankforge {

// A hash table in one array. Reading merges asks it three times for each, and
// every answer of std::unordered_map lies behind three pointers.
class TokenTable {
 public:
  void Reserve(size_t tokens);
  // False if `token` is there already.
  bool Add(std::string_view token, int id);
  // -1: there is no such token.
  int IdOf(std::string_view token) const;
  size_t size() const { return tokens_.size(); }
  // In the order in which they were added.
  const std::string& text(size_t index) const { return tokens_[index].text; }

 private:
  struct Token {
    std::string text;
    int id;
  };
  // Half of a hash, whose other half chooses the slot.
  struct Slot {
    uint32_t hash = 0;
    int32_t token = -1;  // an index; -1: the slot is free
  };
  static uint64_t HashOf(std::string_view token) {
    return std::hash<std::string_view>()(token);
  }
  // The slot of `token`, or the free one where it would be.
  size_t SlotOf(std::string_view token, uint64_t hash) const;
  void Resize(size_t slots);

  std::vector<Token> tokens_;
  std::vector<Slot> slots_ = std::vector<Slot>(16);  // a power of two
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_TEXT_TOKEN_TABLE_H_
