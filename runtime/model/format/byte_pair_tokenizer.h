// Byte-level BPE as `tokenizer.json` of Hugging Face describes it.
#ifndef RANKFORGE_RUNTIME_MODEL_FORMAT_BYTE_PAIR_TOKENIZER_H_
#define RANKFORGE_RUNTIME_MODEL_FORMAT_BYTE_PAIR_TOKENIZER_H_

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace rankforge {

class BytePairTokenizer {
 public:
  // The patterns of the pre-tokenizer (GPT-2's, or those of the file) cut text
  // into pieces. Each piece is merged from its bytes. Other kinds of tokenizers
  // are errors that name the field.
  static Result<BytePairTokenizer> Load(const std::string& path);
  static Result<BytePairTokenizer> Parse(const std::string& text,
                                         const std::string& name);
  ~BytePairTokenizer();
  BytePairTokenizer(BytePairTokenizer&&) noexcept;
  BytePairTokenizer& operator=(BytePairTokenizer&&) noexcept;

  // Added tokens ("<|endoftext|>") are recognised in the text. Bytes that are
  // not UTF-8 are encoded as bytes.
  std::vector<int> Encode(std::string_view text) const;
  // Special and unknown tokens stand for no text. Bytes that are not UTF-8
  // become U+FFFD.
  std::string Decode(std::span<const int> ids) const;
  // One more than the largest id.
  size_t vocab() const;

 private:
  struct Impl;
  explicit BytePairTokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_BYTE_PAIR_TOKENIZER_H_
