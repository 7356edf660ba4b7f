// Token ids that commands read: a text, or ids that another program made.
#ifndef RANKFORGE_CLI_SUPPORT_TOKEN_IDS_H_
#define RANKFORGE_CLI_SUPPORT_TOKEN_IDS_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/status.h"

namespace rankforge {

// A file, named in one of two ways.
struct TokenSource {
  std::string text;  // a text
  std::string ids;   // a JSON list, or safetensors with a tensor of I32 or I64
};

// --calibration and --calibration-ids, of which one must be given. `purpose` is
// what the tokens are for: "calibrate on".
void AddCalibration(CLI::App& command, const std::string& purpose,
                    TokenSource& source);

// The ids of `source`, a text's by the tokenizer of `model`. No ids are an
// error.
Result<std::vector<int>> LoadIds(const std::string& model,
                                 const TokenSource& source);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_SUPPORT_TOKEN_IDS_H_
