// Token ids that commands read: a text, or ids that another program made.
#ifndef RANKFORGE_CLI_TOKEN_IDS_H_
#define RANKFORGE_CLI_TOKEN_IDS_H_

#include <string>
#include <vector>

#include "runtime/status.h"

namespace rankforge {

// The ids of the file `ids` (a JSON list, or a safetensors file with one tensor
// of I32 or I64), or those of the file `text` by the tokenizer of `model` where
// `ids` is empty. No ids are an error.
Result<std::vector<int>> LoadIds(const std::string& model,
                                 const std::string& text,
                                 const std::string& ids);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_TOKEN_IDS_H_
