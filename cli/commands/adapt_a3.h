// `rankforge adapt --method a3`: writes a smaller checkpoint.
#ifndef RANKFORGE_CLI_COMMANDS_ADAPT_A3_H_
#define RANKFORGE_CLI_COMMANDS_ADAPT_A3_H_

#include <CLI/CLI.hpp>
#include <span>
#include <string>
#include <vector>

#include "adapt/a3/a3.h"
#include "base/status.h"
#include "runtime/model/format/checkpoint.h"

namespace rankforge {

struct A3Arguments {
  A3Options options;
  std::vector<std::string> components;  // empty: all
  std::vector<std::string> without;
  std::string out;
  bool json = false;
};

// Adds the options that method a3 alone reads, and returns them.
std::vector<CLI::Option*> AddA3Options(CLI::App& command,
                                       A3Arguments& arguments);
Status RunA3(const A3Arguments& arguments, const Checkpoint& checkpoint,
             std::span<const int> ids);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_COMMANDS_ADAPT_A3_H_
