// Runs the program as a user does, and makes the files it is given.
#ifndef RANKFORGE_TESTS_CLI_PROGRAM_H_
#define RANKFORGE_TESTS_CLI_PROGRAM_H_

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace rankforge {

struct ProgramResult {
  int exit_code = -1;  // -1: ended by a signal
  std::string out;
  std::string err;

  // Lines of `err` that start with "rankforge: "; progress has none.
  std::vector<std::string> Messages() const;
};

// The program under test (tested_program.cc).
extern const char* const kTestedProgram;

// Runs it with `arguments`. `environment` holds NAME=VALUE; variables of
// the caller that start with RANKFORGE_ are not passed on.
ProgramResult RunProgram(const std::vector<std::string>& arguments,
                         const std::vector<std::string>& environment = {});

// A folder that exists for one test.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string Path(const std::string& name) const { return path_ + "/" + name; }
  // Every file below, sorted.
  std::vector<std::string> Files() const;

 private:
  std::string path_;
};

std::string ReadWhole(const std::string& path);
void WriteWhole(const std::string& path, std::string_view contents);

// Writes a Llama checkpoint of two small layers with random weights and the
// tokenizer of examples/models/llama-gqa-7m to `directory`.
void MakeCheckpoint(const std::string& directory);

// Passes the JSON header of a safetensors file through `edit`; data stays.
void EditHeader(const std::string& path,
                const std::function<void(nlohmann::json&)>& edit);
// The same for a file that is JSON as a whole.
void EditJson(const std::string& path,
              const std::function<void(nlohmann::json&)>& edit);

}  // namespace rankforge

#endif  // RANKFORGE_TESTS_CLI_PROGRAM_H_
