// Token ids that commands read: a text, or ids that another program made.
#ifndef RANKFORGE_CLI_SUPPORT_TOKEN_IDS_H_
#define RANKFORGE_CLI_SUPPORT_TOKEN_IDS_H_

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "runtime/model/format/adapter.h"
#include "runtime/model/format/tokenizer.h"

namespace rankforge {

// Whether a text begins with the token for that (BOS): as the checkpoint's
// tokenizer does it, or as the user says.
enum class BosMode { kAuto, kYes, kNo };

// One of the two files is named.
struct TokenSource {
  std::string text;  // a text
  std::string ids;   // a JSON list, or safetensors with a tensor of I32 or I64
  BosMode bos = BosMode::kAuto;  // of the text
};

// --bos auto|yes|no
void AddBos(CLI::App& command, BosMode& bos);

// What an adapter made from `source` records: "auto", "yes" or "no"; empty for
// ids, which are given whole.
std::string RecordedBos(const TokenSource& source);

// Prints a line if `adapter`, of the file `path`, was made from texts that
// begin in another way than `bos` says. Does nothing where it does not say.
void CompareBos(const std::optional<Adapter>& adapter, const std::string& path,
                BosMode bos);

// The ids of a text, from its start. An error if BOS is asked for and `model`
// has none.
Result<std::vector<int>> EncodeText(const std::string& model,
                                    const Tokenizer& tokenizer,
                                    std::string_view text, BosMode bos);

// --calibration and --calibration-ids, of which one must be given, and --bos.
// `purpose` is what the tokens are for: "calibrate on". Returns the group of
// the first two, for commands that need none of them.
CLI::Option_group& AddCalibration(CLI::App& command, const std::string& purpose,
                                  TokenSource& source);

// The tokenizer of `model`, which is a folder. Prints what of its files is not
// honoured.
Result<Tokenizer> OpenTokenizer(const std::string& model);

// The ids of "1,2,3". Errors name the place of what is none.
Result<std::vector<int>> ParseIds(std::string_view text);

// The ids of `source`; the tokenizer of `model` splits a text. Errors: there
// are none; ids with a --bos other than auto.
Result<std::vector<int>> LoadIds(const std::string& model,
                                 const TokenSource& source);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_SUPPORT_TOKEN_IDS_H_
