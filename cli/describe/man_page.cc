#include "cli/describe/man_page.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string_view>

namespace rankforge {
namespace {

// `text` as roff prints it: backslashes, hyphens that are copied to a command
// line, and lines that begin like a request.
std::string Roff(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n')) {
      out += "\\&";
    }
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      out += c;
    }
  }
  return out;
}

std::string Bold(std::string_view text) { return "\\fB" + Roff(text) + "\\fR"; }

// "-n, --max-tokens UINT", or the name of what is positional.
std::string Heading(const OptionDescription& option) {
  const std::string value =
      option.repeats ? option.value + "..." : option.value;
  const std::string italic = value.empty() ? "" : "\\fI" + Roff(value) + "\\fR";
  if (option.positional()) return italic;
  std::string names;
  for (const std::string& name : option.names) {
    names += (names.empty() ? "" : ", ") + Bold(name);
  }
  return value.empty() ? names : names + " " + italic;
}

std::string Synopsis(const CommandDescription& command) {
  std::string line = Bold(fmt::format("{}", fmt::join(command.words, " ")));
  if (!command.commands.empty()) line += " \\fICOMMAND\\fR";
  for (const OptionDescription& option : command.options) {
    if (option.required && !option.positional()) line += " " + Heading(option);
  }
  line += " [\\fIOPTION\\fR]...";
  for (const OptionDescription& option : command.options) {
    if (!option.positional()) continue;
    line +=
        option.required ? " " + Heading(option) : " [" + Heading(option) + "]";
  }
  return line;
}

std::string Options(const CommandDescription& command) {
  std::string text;
  std::string group;
  for (const OptionDescription& option : command.options) {
    if (option.group != group) {
      group = option.group;
      text += ".SS \"" + Roff(group) + "\"\n";
    }
    text += ".TP\n" + Heading(option) + "\n" + Roff(option.text);
    if (option.required) text += " (required)";
    if (!option.default_value.empty()) {
      text += " [" + Roff(option.default_value) + "]";
    }
    text += "\n";
  }
  return text;
}

}  // namespace

std::string PageName(const CommandDescription& command) {
  return fmt::format("{}", fmt::join(command.words, "-"));
}

std::string ManPage(const CommandDescription& command,
                    const std::string& version) {
  const std::string name = PageName(command);
  std::string upper = name;
  for (char& c : upper) c = static_cast<char>(std::toupper(c));
  // The first line names, the others describe.
  const size_t line = command.text.find('\n');
  std::string page = fmt::format(
      ".\\\" Made by `rankforge describe`.\n"
      ".TH \"{}\" 1 \"\" \"rankforge {}\" \"User Commands\"\n"
      ".SH NAME\n{} \\- {}\n.SH SYNOPSIS\n{}\n",
      Roff(upper), version, Roff(name), Roff(command.text.substr(0, line)),
      Synopsis(command));
  if (line != std::string::npos) {
    page += ".SH DESCRIPTION\n" + Roff(command.text.substr(line + 1)) + "\n";
  }
  if (!command.commands.empty()) page += ".SH COMMANDS\n";
  for (const CommandDescription& below : command.commands) {
    page += fmt::format(".TP\n{}(1)\n{}\n", Bold(PageName(below)),
                        Roff(below.text));
  }
  page += ".SH OPTIONS\n" + Options(command);
  if (command.words.size() > 1) {
    const std::vector<std::string> above(command.words.begin(),
                                         command.words.end() - 1);
    page += fmt::format(".SH SEE ALSO\n{}(1)\n",
                        Bold(fmt::format("{}", fmt::join(above, "-"))));
  }
  return page;
}

}  // namespace rankforge
