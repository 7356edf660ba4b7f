// Text to token ids and back, with a checkpoint's own tokenizer.
#ifndef RANKFORGE_RUNTIME_MODEL_FORMAT_TOKENIZER_H_
#define RANKFORGE_RUNTIME_MODEL_FORMAT_TOKENIZER_H_

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace rankforge {

class Tokenizer {
 public:
  // Whether `model`, a folder or a GGUF file, has a tokenizer.
  static bool IsIn(const std::string& model);
  // Reads the tokenizer of a GGUF file; or of a folder tokenizer.json (byte
  // pairs) or, if that is missing or of a kind that is not read,
  // tokenizer.model (SentencePiece), with the added tokens of the files beside
  // it.
  static Result<Tokenizer> Load(const std::string& model);
  // Reads the text of a tokenizer.json. Messages begin with `name`.
  static Result<Tokenizer> FromJson(const std::string& text,
                                    const std::string& name);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // The whole text as one string. Neither prefix nor suffix is added. Bytes
  // that are not UTF-8 count as U+FFFD.
  std::vector<int> Encode(std::string_view text) const;
  // A text as the model was trained to see its start: `prefix` and the text. A
  // text that begins with the prefix itself gets no second one.
  std::vector<int> EncodeFromStart(std::string_view text) const;
  // Special tokens and unknown ids stand for no text. Bytes that are not UTF-8
  // become U+FFFD.
  std::string Decode(std::span<const int> ids) const;
  // One more than the largest id.
  size_t vocab() const;

  // The ids that the tokenizer puts before a text (BOS) and after it (EOS).
  const std::vector<int>& prefix() const;
  const std::vector<int>& suffix() const;
  // What of the files is not honoured, a sentence each, with the file's name.
  const std::vector<std::string>& notes() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  static Result<Tokenizer> LoadFolder(const std::string& directory);
  static Result<Tokenizer> LoadJson(const std::string& directory);
  static Result<Tokenizer> LoadPieces(const std::string& directory);

  std::unique_ptr<Impl> impl_;
};

// Decodes ids as they come. A token may end inside a character; what is
// incomplete waits for the next one.
class DecodingStream {
 public:
  // `tokenizer` must outlive this.
  explicit DecodingStream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // What `id` adds to the text.
  std::string Add(int id);
  // What is left: an incomplete character as U+FFFD.
  std::string Finish();
  // Whether the text ends inside a character.
  bool holds() const { return held_ids_ > 0; }

 private:
  std::string Rest(std::string_view text);
  // `held`: bytes at the end that wait.
  void Forget(size_t held);

  const Tokenizer& tokenizer_;
  // The last ids. Earlier ones change nothing about what comes next.
  std::vector<int> ids_;
  size_t given_ = 0;     // bytes of the text of `ids_` that were returned
  size_t held_ids_ = 0;  // after which the text ended with U+FFFD
  size_t complete_ = 0;  // of `ids_`; the rest may become the next window
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_TOKENIZER_H_
