#include "tuner/forge/compile.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <mutex>
#include <sstream>
#include <system_error>
#include <thread>
#include <utility>

#include "base/atomic_file.h"
#include "base/child_process.h"
#include "runtime/plugin_file.h"

namespace rankforge {
namespace {

namespace fs = std::filesystem;

using Words = std::vector<std::string>;

// The line of a compiler's output that says what is wrong.
std::string FirstError(const std::string& output) {
  std::istringstream lines(output);
  std::string first;
  for (std::string line; std::getline(lines, line);) {
    if (line.find("error:") != std::string::npos) return line;
    if (first.empty()) first = line;
  }
  return first.empty() ? "it says nothing" : first;
}

// Runs `command`, which makes `file`. On failure, `log` holds all it says.
Status RunLogged(const Words& command, const std::string& file,
                 const std::string& log) {
  const Result<ChildResult> child = RunChild(command);
  if (!child.ok()) {
    return Failed(fmt::format("{}: {}: {}", file, command.front(),
                              child.status().message()));
  }
  if (child->exit_code == 0) return {};
  RANKFORGE_RETURN_IF_ERROR(WriteFileAtomically(log, child->output));
  return Failed(fmt::format("{}: {} failed: {:.300}; the rest is in {}", file,
                            command.front(), FirstError(child->output), log));
}

Status Rename(const std::string& from, const std::string& to) {
  std::error_code error;
  fs::rename(from, to, error);
  return error
             ? Failed(fmt::format("{}: cannot write: {}", to, error.message()))
             : Status();
}

// Where `file` is made until it is whole and gets its name; other processes may
// be making it, too.
std::string PartialOf(const std::string& file) {
  return fmt::format("{}.{}.partial", file, getpid());
}

Status Compile(const Compilation& file, const Compiler& compiler) {
  const std::string partial = PartialOf(file.object);
  Words command = {compiler.program};
  command.insert(command.end(), compiler.flags.begin(), compiler.flags.end());
  command.insert(command.end(), {"-c", file.source, "-o", partial});
  RANKFORGE_RETURN_IF_ERROR(RunLogged(command, file.source, file.log));
  return Rename(partial, file.object);
}

}  // namespace

Result<std::string> VersionOf(const std::string& compiler) {
  const Result<ChildResult> child = RunChild({compiler, "--version"});
  if (child.ok() && child->exit_code == 0) return child->output;
  return EnvironmentError(fmt::format(
      "compiler {}: {}; name a C++20 compiler with --compiler or CXX", compiler,
      child.ok() ? "it fails on --version" : child.status().message()));
}

Status CompileAll(std::span<const Compilation> files, const Compiler& compiler,
                  size_t jobs, const CompileProgress& progress) {
  std::atomic<size_t> next = 0;
  std::mutex mutex;  // of `done` and `status`
  size_t done = 0;
  Status status;
  const auto work = [&] {
    for (size_t i = next++; i < files.size(); i = next++) {
      Status compiled = Compile(files[i], compiler);
      const std::lock_guard lock(mutex);
      if (!compiled.ok()) {
        if (status.ok()) status = std::move(compiled);
        next = files.size();
        return;
      }
      ++done;
      if (progress) progress(done, files.size(), files[i].name);
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min(jobs, files.size()); ++i) {
    threads.emplace_back(work);
  }
  work();
  for (std::thread& thread : threads) thread.join();
  return status;
}

Status LinkPlugin(std::span<const Compilation> files,
                  const std::string& compiler, const std::string& exports,
                  const std::string& plugin, const std::string& log) {
  const std::string partial = PartialOf(plugin);
  // Not -Wl, which would cut the path at a comma.
  Words command = {compiler, "-shared", "-Wl,--no-undefined", "-Xlinker",
                   "--version-script=" + exports};
  for (const Compilation& file : files) command.push_back(file.object);
  command.insert(command.end(), {"-o", partial});
  RANKFORGE_RETURN_IF_ERROR(RunLogged(command, plugin, log));
  RANKFORGE_RETURN_IF_ERROR(SealPlugin(partial));
  return Rename(partial, plugin);
}

}  // namespace rankforge
