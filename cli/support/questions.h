// Questions with choices that `eval --choices` reads.
#ifndef RANKFORGE_CLI_SUPPORT_QUESTIONS_H_
#define RANKFORGE_CLI_SUPPORT_QUESTIONS_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/model/use/evaluation.h"

namespace rankforge {

// A line of the file `path` each:
//   {"context": "Tom was sad. He", "choices": [" cried.", " table."], "answer":
//   0}
// A choice goes on where the context ends: it brings the space between them.
// Tokens are those of both together by the tokenizer of `model`, without the
// first so many as the context alone has.
Result<std::vector<Question>> LoadQuestions(const std::string& model,
                                            const std::string& path);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_SUPPORT_QUESTIONS_H_
