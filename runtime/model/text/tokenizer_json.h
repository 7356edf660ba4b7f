// Reads tokenizer.json of Hugging Face, and the added tokens of the files
// beside it.
#ifndef RANKFORGE_RUNTIME_MODEL_TEXT_TOKENIZER_JSON_H_
#define RANKFORGE_RUNTIME_MODEL_TEXT_TOKENIZER_JSON_H_

#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/model/text/added_tokens.h"
#include "runtime/model/text/byte_pair_tokenizer.h"

namespace rankforge {

// The parts of the tokenizer in `text`. A kind of model or of a step that is
// not read is an error that names the field. A message does not name the file.
Result<BytePairParts> ReadTokenizerJson(const std::string& text);

// The field 'added_tokens' of a tokenizer.json.
Result<std::vector<AddedToken>> ReadAddedTokens(const std::string& text);

// What a tokenizer_config.json says.
struct TokenizerConfig {
  std::optional<bool> adds_bos;  // add_bos_token
  std::optional<bool> adds_eos;  // add_eos_token
  std::string bos;               // bos_token; empty: not there
  std::string eos;               // eos_token
  // All special tokens that it names: pad_token, ...
  std::vector<std::string> special;
  std::vector<AddedToken> added;  // added_tokens_decoder, by id
};
Result<TokenizerConfig> ReadTokenizerConfig(const std::string& text);

// An added_tokens.json: tokens by their content.
Result<std::vector<AddedToken>> ReadAddedTokensFile(const std::string& text);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_TEXT_TOKENIZER_JSON_H_
