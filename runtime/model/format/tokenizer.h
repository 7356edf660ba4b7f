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
  // Reads the tokenizer of a GGUF file; or of a folder tokenizer.model
  // (SentencePiece) or, if that is missing, tokenizer.json (byte-level BPE).
  static Result<Tokenizer> Load(const std::string& model);
  // Of the text of a tokenizer.json, which messages call `name`.
  static Result<Tokenizer> FromJson(const std::string& text,
                                    const std::string& name);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // The whole text as one string; no BOS or EOS is added.
  std::vector<int> Encode(std::string_view text) const;
  std::string Decode(std::span<const int> ids) const;
  size_t vocab() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_TOKENIZER_H_
