#include "program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "runtime/model/format/config.h"
#include "runtime/model/weights/synthetic.h"

extern char** environ;

namespace rankforge {
namespace {

namespace fs = std::filesystem;

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& string : strings) pointers.push_back(string.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> EnvironmentWith(
    const std::vector<std::string>& additions) {
  std::vector<std::string> variables = additions;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (std::strncmp(*variable, "RANKFORGE_", 10) != 0) {
      variables.emplace_back(*variable);
    }
  }
  return variables;
}

}  // namespace

std::vector<std::string> ProgramResult::Messages() const {
  std::vector<std::string> messages;
  std::istringstream lines(err);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("rankforge: ")) messages.push_back(line);
  }
  return messages;
}

ProgramResult RunProgram(const std::vector<std::string>& arguments,
                         const std::vector<std::string>& environment) {
  const TemporaryFolder folder;
  std::vector<std::string> words = {kTestedProgram};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<std::string> variables = EnvironmentWith(environment);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null",
                                   O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO,
                                   folder.Path("out").c_str(),
                                   O_WRONLY | O_CREAT, 0600);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO,
                                   folder.Path("err").c_str(),
                                   O_WRONLY | O_CREAT, 0600);
  pid_t process = 0;
  const int error =
      posix_spawn(&process, kTestedProgram, &actions, nullptr,
                  Pointers(words).data(), Pointers(variables).data());
  posix_spawn_file_actions_destroy(&actions);
  EXPECT_EQ(error, 0) << std::strerror(error);
  int status = 0;
  if (error != 0 || waitpid(process, &status, 0) != process) return {};
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1,
          ReadWhole(folder.Path("out")), ReadWhole(folder.Path("err"))};
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (fs::temp_directory_path() / "rankforge.XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) ADD_FAILURE() << std::strerror(errno);
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::vector<std::string> TemporaryFolder::Files() const {
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(path_)) {
    files.push_back(entry.path().string());
  }
  std::ranges::sort(files);
  return files;
}

std::string ReadWhole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

void WriteWhole(const std::string& path, std::string_view contents) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(contents.data(), static_cast<std::streamsize>(contents.size()));
  EXPECT_TRUE(file.good()) << path;
}

void MakeCheckpoint(const std::string& directory) {
  ModelConfig config;
  config.family = "llama";
  config.hidden = 64;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 16;
  config.mlp = 160;
  config.vocab = 4096;
  config.max_positions = 512;
  config.bos_id = 1;
  config.eos_ids = {2};
  const Status written = WriteSyntheticCheckpoint(config, 7, directory);
  ASSERT_TRUE(written.ok()) << written.message();
  fs::copy_file(RANKFORGE_SOURCE_DIR
                "/examples/models/llama-gqa-7m/tokenizer.model",
                directory + "/tokenizer.model");
}

void EditHeader(const std::string& path,
                const std::function<void(nlohmann::json&)>& edit) {
  const std::string file = ReadWhole(path);
  uint64_t size = 0;
  ASSERT_GE(file.size(), sizeof(size));
  std::memcpy(&size, file.data(), sizeof(size));
  nlohmann::json header = nlohmann::json::parse(file.substr(8, size));
  edit(header);
  const std::string text = header.dump();
  size = text.size();
  std::string edited(8, '\0');
  std::memcpy(edited.data(), &size, sizeof(size));
  uint64_t old_size = 0;
  std::memcpy(&old_size, file.data(), sizeof(old_size));
  WriteWhole(path, edited + text + file.substr(8 + old_size));
}

void EditJson(const std::string& path,
              const std::function<void(nlohmann::json&)>& edit) {
  nlohmann::json document = nlohmann::json::parse(ReadWhole(path));
  edit(document);
  WriteWhole(path, document.dump());
}

}  // namespace rankforge
