// Patterns in the syntax of Oniguruma, which tokenizers are written in, for
// PCRE2.
#ifndef RANKFORGE_RUNTIME_MODEL_TEXT_PATTERN_SYNTAX_H_
#define RANKFORGE_RUNTIME_MODEL_TEXT_PATTERN_SYNTAX_H_

#include <string>
#include <string_view>

#include "base/status.h"

namespace rankforge {

// A pattern of PCRE2 (UTF, UCP, multi-line, newlines are \n) that matches what
// `pattern` matches in Oniguruma. The two differ in what \s, \w, \h, \v and
// POSIX names mean, in sets inside sets ("[a-z&&[^aeiou]]"), in what follows
// {1,3}, and in the version of Unicode. What has no counterpart is an error.
Result<std::string> ToPcre2(std::string_view pattern);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_TEXT_PATTERN_SYNTAX_H_
