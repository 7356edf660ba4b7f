#include "cli/describe/description.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>

namespace rankforge {
namespace {

// The names in the first braces of a type as CLI11 shows it: "{a,b}", or
// "value in {a->0,b->1} OR {0,1}".
std::vector<std::string> ChoicesIn(std::string_view type) {
  std::vector<std::string> choices;
  const size_t open = type.find('{');
  const size_t close = type.find('}', open);
  if (open == type.npos || close == type.npos) return choices;
  for (const std::string& name : CLI::detail::split(
           std::string(type.substr(open + 1, close - open - 1)), ',')) {
    choices.push_back(name.substr(0, name.find("->")));
  }
  return choices;
}

// What the type that CLI11 shows says of the value: "TEXT:FILE", "UINT:usable
// cores".
void DescribeValue(const std::string& type, OptionDescription& option) {
  const std::string shown = type.substr(0, type.find(':'));
  option.choices = ChoicesIn(type);
  if (!option.choices.empty()) {
    option.kind = ValueKind::kChoice;
    option.value = fmt::format("{}", fmt::join(option.choices, "|"));
  } else if (type.ends_with("DIR")) {
    option.kind = ValueKind::kFolder;
    option.value = "FOLDER";
  } else if (shown == "TEXT") {
    option.kind = ValueKind::kFile;
    option.value = type.ends_with("FILE") ? "FILE" : "TEXT";
  } else {
    option.kind = ValueKind::kNumber;
    option.value = shown;
  }
}

OptionDescription DescribeOption(const CLI::Option& option,
                                 const std::string& group) {
  OptionDescription description;
  for (const std::string& name : option.get_snames()) {
    description.names.push_back("-" + name);
  }
  for (const std::string& name : option.get_lnames()) {
    description.names.push_back("--" + name);
  }
  if (option.get_items_expected_max() > 0) {
    DescribeValue(option.get_type_name(), description);
    description.default_value = option.get_default_str();
  }
  if (description.positional()) description.value = option.get_name(true);
  description.text = option.get_description();
  description.group = group;
  description.required = option.get_required();
  description.repeats = option.get_expected_max() > 1;
  return description;
}

CommandDescription DescribeCommand(const CLI::App& command,
                                   const std::vector<std::string>& words) {
  CommandDescription description;
  description.words = words;
  description.text = command.get_description();
  for (const CLI::Option* option : command.get_options()) {
    description.options.push_back(DescribeOption(*option, ""));
  }
  for (const CLI::App* below : command.get_subcommands({})) {
    if (!below->get_name().empty()) {
      std::vector<std::string> more = words;
      more.push_back(below->get_name());
      description.commands.push_back(DescribeCommand(*below, more));
      continue;
    }
    // A group of options is a command without a name.
    for (const CLI::Option* option : below->get_options()) {
      description.options.push_back(
          DescribeOption(*option, below->get_group()));
    }
  }
  return description;
}

void AddAll(const CommandDescription& command,
            std::vector<const CommandDescription*>& all) {
  all.push_back(&command);
  for (const CommandDescription& below : command.commands) AddAll(below, all);
}

}  // namespace

std::string CommandDescription::path() const {
  return fmt::format("{}", fmt::join(words.begin() + 1, words.end(), " "));
}

CommandDescription Describe(const CLI::App& program) {
  // Its own name is the path by which it was called.
  return DescribeCommand(program, {"rankforge"});
}

std::vector<const CommandDescription*> AllOf(
    const CommandDescription& program) {
  std::vector<const CommandDescription*> all;
  AddAll(program, all);
  return all;
}

}  // namespace rankforge
