// A tokenizer.model of SentencePiece, with the tokens that other files add.
#ifndef RANKFORGE_RUNTIME_MODEL_TEXT_SENTENCE_PIECE_TOKENIZER_H_
#define RANKFORGE_RUNTIME_MODEL_TEXT_SENTENCE_PIECE_TOKENIZER_H_

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "runtime/model/text/added_tokens.h"

namespace rankforge {

class SentencePieceTokenizer {
 public:
  // `model` is the content of the file. Control pieces ("<s>") and the unknown
  // piece are special tokens besides those of `added`. Of two tokens with the
  // same content or id, the first of `added` counts.
  static Result<SentencePieceTokenizer> Parse(const std::string& model,
                                              std::vector<AddedToken> added);
  ~SentencePieceTokenizer();
  SentencePieceTokenizer(SentencePieceTokenizer&&) noexcept;
  SentencePieceTokenizer& operator=(SentencePieceTokenizer&&) noexcept;

  // The text between two added tokens is encoded as a text of its own.
  std::vector<int> Encode(std::string_view text) const;
  // Special tokens and unknown ids stand for no text.
  std::string Decode(std::span<const int> ids) const;
  size_t vocab() const;
  // The id of a piece or of an added token; -1: there is none.
  int IdOf(const std::string& token) const;
  // The id that the file declares; -1: none.
  int bos_id() const;
  int eos_id() const;

 private:
  struct Library;
  explicit SentencePieceTokenizer(std::unique_ptr<Library> library);
  bool AddsSpace() const;
  // Adds the text of pieces. `first`: no text comes before it.
  void DecodePieces(std::vector<int>& pieces, bool first,
                    std::string& text) const;

  std::unique_ptr<Library> library_;
  AddedTokenFinder finder_;
  std::unordered_map<int, AddedToken> added_;
  bool adds_space_ = false;  // before a text
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_TEXT_SENTENCE_PIECE_TOKENIZER_H_
