// Byte-pair encoding: pieces of text to tokens by merging neighbours.
#ifndef RANKFORGE_RUNTIME_MODEL_TEXT_BYTE_PAIR_MODEL_H_
#define RANKFORGE_RUNTIME_MODEL_TEXT_BYTE_PAIR_MODEL_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "runtime/model/text/token_table.h"

namespace rankforge {

struct BytePairOptions {
  // Stands for characters without a token. Empty: they are dropped.
  std::optional<std::string> unknown;
  bool fuses_unknown = false;   // neighbours are one token
  bool falls_back = false;      // to tokens of bytes, "<0x41>"
  bool ignores_merges = false;  // for pieces that are tokens
  std::string prefix;           // of tokens that do not begin a piece
  std::string suffix;           // of tokens that end a piece
};

class BytePairModel {
 public:
  explicit BytePairModel(BytePairOptions options);

  // Adds a token; false if the token or its id is there already.
  bool AddToken(std::string_view token, int id);
  // Adds a merge, which ranks after those before it. A message says which
  // token is missing.
  Status AddMerge(std::string_view left, std::string_view right);
  // Is called after the last token and merge. `tokens` are reserved before.
  void Reserve(size_t tokens, size_t merges);
  void Finish();

  // -1: there is no such token.
  int IdOf(std::string_view token) const;
  // Null: there is no such id.
  const std::string* TokenOf(int id) const;
  size_t size() const { return ids_.size(); }
  int largest_id() const { return largest_id_; }
  const BytePairOptions& options() const { return options_; }

  // Adds the tokens of `piece`, which is valid UTF-8.
  void Encode(std::string_view piece, std::vector<int>& out) const;

 private:
  struct Merge {
    int rank = 0;
    int id = 0;  // of the merged token
  };
  struct Symbol {
    int id;  // -1: is merged into the one before it
    int previous, next;
  };
  struct PairHash {
    size_t operator()(uint64_t pair) const;
  };

  int CharacterId(std::string_view character, bool first, bool last) const;
  // Adds the tokens of the bytes of `text`; false if one of them has none.
  bool AddBytes(std::string_view text, std::vector<int>& ids) const;
  std::vector<int> Initial(std::string_view piece) const;
  void MergeAll(std::vector<Symbol>& symbols) const;

  BytePairOptions options_;
  TokenTable ids_;
  std::unordered_map<int, size_t> tokens_;  // indices into `ids_`, by id
  std::unordered_map<uint64_t, Merge, PairHash> merges_;
  // Tokens of the characters below 384, among them those that stand for bytes.
  std::array<int, 384> character_ids_;
  std::array<int, 256> byte_ids_;  // of "<0x41>"
  int unknown_id_ = -1;
  int largest_id_ = -1;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_TEXT_BYTE_PAIR_MODEL_H_
