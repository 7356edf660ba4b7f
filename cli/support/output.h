// Everything the program prints goes through here: results on stdout as text or
// as one JSON document, messages on stderr as one line each.
#ifndef RANKFORGE_CLI_SUPPORT_OUTPUT_H_
#define RANKFORGE_CLI_SUPPORT_OUTPUT_H_

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "base/status.h"

namespace rankforge {

// Keys in the order in which they were added.
using Json = nlohmann::ordered_json;

// Parses a document from outside (ParseJson), which `name` names in messages.
Result<Json> ParseInput(const std::string& name, const std::string& text);

// `value` rounded to as many digits as its reader can use.
double Rounded(double value, int significant_digits = 6);

void PrintText(std::string_view text);
template <class... Args>
void Print(fmt::format_string<Args...> format, Args&&... args) {
  PrintText(fmt::format(format, std::forward<Args>(args)...));
}

void PrintJson(const Json& document);

// Opens /dev/null in place of standard streams that are closed, so that no
// output file gets their numbers. Called before anything is opened.
void KeepStandardStreams();

// Writes to stderr as it is. Messages are for information: a stderr that is
// closed, full or a broken pipe loses them and ends no work.
void PrintToStderr(std::string_view text);

// "rankforge: <message>" on stderr, on one line whatever the message holds.
void PrintMessage(std::string_view message);

// Fails when stdout did not take everything (a full disk, a closed pipe).
Status FlushOutput();

}  // namespace rankforge

#endif  // RANKFORGE_CLI_SUPPORT_OUTPUT_H_
