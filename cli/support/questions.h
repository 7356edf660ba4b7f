// Questions with choices that `eval --choices` reads.
#ifndef RANKFORGE_CLI_SUPPORT_QUESTIONS_H_
#define RANKFORGE_CLI_SUPPORT_QUESTIONS_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/model/use/evaluation.h"

namespace rankforge {

// Reads one question from each line of the file `path`:
//   {"context": "Tom was sad. He", "choices": [" ran.", " table."], "answer":
//   0}
// A choice follows the context directly, so it starts with the space between
// them. The tokenizer of `model` splits context and choice together. The tokens
// of the choice are those after as many as the context alone has.
Result<std::vector<Question>> LoadQuestions(const std::string& model,
                                            const std::string& path);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_SUPPORT_QUESTIONS_H_
