// A command as a page for man(1).
#ifndef RANKFORGE_CLI_DESCRIBE_MAN_PAGE_H_
#define RANKFORGE_CLI_DESCRIBE_MAN_PAGE_H_

#include <string>

#include "cli/describe/description.h"

namespace rankforge {

// "rankforge-table-show", the name of the page of `command`.
std::string PageName(const CommandDescription& command);

// The page, in the macros of man(7). No date is in it: one program makes one
// text.
std::string ManPage(const CommandDescription& command,
                    const std::string& version);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_DESCRIBE_MAN_PAGE_H_
