// The tokenizer.json that the metadata of a GGUF file implies.
#ifndef RANKFORGE_RUNTIME_MODEL_FORMAT_GGUF_TOKENIZER_H_
#define RANKFORGE_RUNTIME_MODEL_FORMAT_GGUF_TOKENIZER_H_

#include <string>

#include "base/status.h"
#include "runtime/model/format/gguf.h"

namespace rankforge {

// Whether the metadata has a tokenizer.
bool HasTokenizer(const GgufFile& file);

// The text of tokenizer.json: byte-level BPE (tokenizer.ggml.model "gpt2"), or
// SentencePiece's BPE ("llama"), whose merges follow from the scores of its
// pieces. Errors name the field: another model, a pre-tokenizer that is not
// known, arrays that do not fit each other.
Result<std::string> GgufTokenizerJson(const GgufFile& file);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_GGUF_TOKENIZER_H_
