#include "cli/describe/completions.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>
#include <vector>

namespace rankforge {
namespace {

// `text` in single quotes, for both shells.
std::string Quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

// All commands as patterns of `case`, which tell words that are commands from
// values of options.
std::string CommandPatterns(const CommandDescription& program) {
  std::vector<std::string> paths;
  for (const CommandDescription* command : AllOf(program)) {
    if (!command->path().empty()) paths.push_back(Quoted(command->path()));
  }
  return fmt::format("{}", fmt::join(paths, " | "));
}

// What bash offers for a word that is no value: commands and options.
std::vector<std::string> WordsOf(const CommandDescription& command) {
  std::vector<std::string> words;
  for (const CommandDescription& below : command.commands) {
    words.push_back(below.words.back());
  }
  for (const OptionDescription& option : command.options) {
    words.insert(words.end(), option.names.begin(), option.names.end());
  }
  return words;
}

bool TakesFiles(const CommandDescription& command) {
  return std::ranges::any_of(command.options, &OptionDescription::positional);
}

constexpr char kBashBegin[] =
    R"(# Completions of bash for rankforge. Made by `rankforge describe`.
_rankforge() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}}
  local command= take=words words= i
  # bash makes three words of --option=value.
  if [[ $current == = ]]; then
    current=
  elif [[ $previous == = ]]; then
    previous=${{COMP_WORDS[COMP_CWORD - 2]}}
  fi
  for ((i = 1; i < COMP_CWORD; ++i)); do
    case "${{command:+$command }}${{COMP_WORDS[i]}}" in
      {}) command=${{command:+$command }}${{COMP_WORDS[i]}} ;;
    esac
  done
  case $command in
)";
constexpr char kBashEnd[] = R"(  esac
  # The value of an option comes before everything.
  case "$command $previous" in
{}  esac
  case $take in
    words) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current") ;;
    files) mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
    folders) mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
    nothing) COMPREPLY=() ;;
  esac
  if [[ $take == f* ]]; then compopt -o filenames 2>/dev/null; fi
}}
complete -F _rankforge rankforge
)";

// What bash takes for the value of `option`, as assignments.
std::string BashTake(const OptionDescription& option) {
  switch (option.kind) {
    case ValueKind::kChoice:
      return fmt::format(
          "take=words words={}",
          Quoted(fmt::format("{}", fmt::join(option.choices, " "))));
    case ValueKind::kFile:
      return "take=files";
    case ValueKind::kFolder:
      return "take=folders";
    case ValueKind::kNumber:
    case ValueKind::kNone:
      break;
  }
  return "take=nothing";
}

// A text inside a specification of zsh's _arguments.
std::string InBrackets(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

std::string ZshValue(const OptionDescription& option) {
  switch (option.kind) {
    case ValueKind::kChoice:
      return fmt::format(":value:({})", fmt::join(option.choices, " "));
    case ValueKind::kFile:
      return ":file:_files";
    case ValueKind::kFolder:
      return ":folder:_files -/";
    case ValueKind::kNumber:
      return ":number: ";
    case ValueKind::kNone:
      break;
  }
  return "";
}

// One specification for each name of the option.
std::vector<std::string> ZshSpecifications(const OptionDescription& option) {
  if (option.positional()) return {"*" + ZshValue(option)};
  std::vector<std::string> specifications;
  for (const std::string& name : option.names) {
    specifications.push_back(
        fmt::format("{}{}[{}]{}", option.repeats ? "*" : "", name,
                    InBrackets(option.text), ZshValue(option)));
  }
  return specifications;
}

constexpr char kZshBegin[] = R"(#compdef rankforge
# Completions of zsh for rankforge. Made by `rankforge describe`.
_rankforge() {{
  local command=
  integer i last=1
  for ((i = 2; i < CURRENT; ++i)); do
    case "${{command:+$command }}$words[i]" in
      ({}) command=${{command:+$command }}$words[i]; last=i ;;
    esac
  done
  # _arguments reads from the last command on.
  shift $((last - 1)) words
  ((CURRENT -= last - 1))
  case $command in
)";

}  // namespace

std::string BashCompletion(const CommandDescription& program) {
  std::string script = fmt::format(kBashBegin, CommandPatterns(program));
  std::string values;
  for (const CommandDescription* command : AllOf(program)) {
    const std::string words =
        fmt::format("{}", fmt::join(WordsOf(*command), " "));
    script += fmt::format("    {}) words={} ;;\n", Quoted(command->path()),
                          Quoted(words));
    for (const OptionDescription& option : command->options) {
      for (const std::string& name : option.names) {
        if (option.value.empty()) continue;
        values +=
            fmt::format("    {}) {} ;;\n", Quoted(command->path() + " " + name),
                        BashTake(option));
      }
    }
    if (!TakesFiles(*command)) continue;
    // Behind the options, so that their values come first.
    values += fmt::format("    {}*) [[ $current == -* ]] || take=files ;;\n",
                          Quoted(command->path() + " "));
  }
  return script + fmt::format(kBashEnd, values);
}

std::string ZshCompletion(const CommandDescription& program) {
  std::string script = fmt::format(kZshBegin, CommandPatterns(program));
  for (const CommandDescription* command : AllOf(program)) {
    script += fmt::format("    ({}) _arguments", Quoted(command->path()));
    for (const OptionDescription& option : command->options) {
      for (const std::string& specification : ZshSpecifications(option)) {
        script += " \\\n        " + Quoted(specification);
      }
    }
    if (!command->commands.empty()) {
      std::vector<std::string> names;
      for (const CommandDescription& below : command->commands) {
        names.push_back(fmt::format("{}\\:{}", below.words.back(),
                                    Quoted(InBrackets(below.text))));
      }
      script += " \\\n        " +
                Quoted(fmt::format("1:command:(({}))", fmt::join(names, " ")));
    }
    script += " ;;\n";
  }
  return script + "  esac\n}\n_rankforge \"$@\"\n";
}

}  // namespace rankforge
