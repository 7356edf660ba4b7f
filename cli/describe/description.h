// What the parser knows of the program, as data. Manual pages and completions
// are made from it, so they name what --help names.
#ifndef RANKFORGE_CLI_DESCRIBE_DESCRIPTION_H_
#define RANKFORGE_CLI_DESCRIBE_DESCRIPTION_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace rankforge {

// What a shell offers as the value of an option.
enum class ValueKind { kNone, kChoice, kFile, kFolder, kNumber };

struct OptionDescription {
  std::vector<std::string> names;  // "-n", "--max-tokens"; empty: positional
  std::string value;  // in pages: "FILE", "a|b"; empty: the option is a flag
  ValueKind kind = ValueKind::kNone;
  std::vector<std::string> choices;  // of kChoice
  std::string text;
  std::string default_value;  // empty: none
  std::string group;          // "what to draw"; empty: the command's own
  bool required = false;
  bool repeats = false;  // takes several values

  bool positional() const { return names.empty(); }
};

struct CommandDescription {
  std::vector<std::string> words;  // "rankforge", "table", "show"
  std::string text;
  std::vector<OptionDescription> options;    // with --help, in its order
  std::vector<CommandDescription> commands;  // the subcommands

  // "table show"; empty for the program itself.
  std::string path() const;
};

CommandDescription Describe(const CLI::App& program);

// The program, its commands and theirs, each before those below it.
std::vector<const CommandDescription*> AllOf(const CommandDescription& program);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_DESCRIBE_DESCRIPTION_H_
