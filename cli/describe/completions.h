// Completions of the command line for shells.
#ifndef RANKFORGE_CLI_DESCRIBE_COMPLETIONS_H_
#define RANKFORGE_CLI_DESCRIBE_COMPLETIONS_H_

#include <string>

#include "cli/describe/description.h"

namespace rankforge {

// A script for bash: commands, options, and values of options. Files where an
// option takes a text, nothing where it takes a number.
std::string BashCompletion(const CommandDescription& program);

// The same for zsh, with the text of each option.
std::string ZshCompletion(const CommandDescription& program);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_DESCRIBE_COMPLETIONS_H_
