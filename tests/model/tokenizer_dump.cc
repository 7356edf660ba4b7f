// What a tokenizer makes of texts, for scripts/check_tokenizers.py:
//   tokenizer_dump FOLDER|FILE.json
// The first line of the output is about the tokenizer. Each line of the input
// is a text as a JSON string, or ids as a JSON array; a line of the output
// answers it.
#include <fmt/format.h>

#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/files.h"
#include "runtime/model/format/tokenizer.h"

namespace rankforge {
namespace {

using Json = nlohmann::json;

Result<Tokenizer> LoadFrom(const std::string& path) {
  if (!path.ends_with(".json")) return Tokenizer::Load(path);
  RANKFORGE_ASSIGN_OR_RETURN(const std::string text,
                             ReadTextFile(path, size_t{1} << 30));
  return Tokenizer::FromJson(text, path);
}

Json Answer(const Tokenizer& tokenizer, const Json& line) {
  const auto ids = line.is_string()
                       ? tokenizer.Encode(line.get_ref<const std::string&>())
                       : line.get<std::vector<int>>();
  DecodingStream stream(tokenizer);
  std::string streamed;
  for (const int id : ids) streamed += stream.Add(id);
  streamed += stream.Finish();
  return {
      {"ids", ids}, {"decoded", tokenizer.Decode(ids)}, {"streamed", streamed}};
}

void Print(const Json& line) {
  fmt::print("{}\n", line.dump(-1, ' ', true, Json::error_handler_t::replace));
}

int Run(const std::string& path) {
  const Result<Tokenizer> tokenizer = LoadFrom(path);
  if (!tokenizer.ok()) {
    Print({{"error", tokenizer.status().message()}});
    return 1;
  }
  Print({{"prefix", tokenizer->prefix()},
         {"suffix", tokenizer->suffix()},
         {"vocab", tokenizer->vocab()},
         {"notes", tokenizer->notes()}});
  for (std::string line; std::getline(std::cin, line);) {
    Print(Answer(*tokenizer, Json::parse(line)));
  }
  return 0;
}

}  // namespace
}  // namespace rankforge

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "tokenizer_dump FOLDER|FILE.json\n");
    return 2;
  }
  return rankforge::Run(argv[1]);
}
