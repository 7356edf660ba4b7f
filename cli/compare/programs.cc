#include "cli/compare/programs.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sstream>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/child_process.h"
#include "cli/support/interrupt.h"
#include "cli/support/output.h"
#include "cli/support/progress.h"

namespace rankforge {
namespace {

namespace fs = std::filesystem;

using Words = std::vector<std::string>;

// A document with a hundred contexts has 50 KB.
constexpr size_t kMostBytes = size_t{1} << 24;

Result<std::string> PathOfThisProgram() {
  std::error_code error;
  const fs::path path = fs::read_symlink("/proc/self/exe", error);
  if (!error) return path.string();
  return EnvironmentError(
      fmt::format("/proc/self/exe: {}; mount /proc", error.message()));
}

Result<BenchProgram> OpenProgram(const std::string& path) {
  BenchProgram program;
  std::error_code error;
  // With a slash, or it would be looked for on PATH.
  program.path = fs::absolute(path, error).lexically_normal().string();
  if (!error) program.written = fs::last_write_time(program.path, error);
  if (error) return Failed(fmt::format("{}: {}", path, error.message()));
  if (access(program.path.c_str(), X_OK) == 0) return program;
  return Failed(
      fmt::format("{}: cannot be run: {}; name a rankforge with --compare",
                  path, std::strerror(errno)));
}

// Fails where somebody built `program` meanwhile.
Status CheckUnchanged(const BenchProgram& program) {
  std::error_code error;
  const auto written = fs::last_write_time(program.path, error);
  if (!error && written == program.written) return {};
  return Failed(program.path +
                ": was replaced while it ran; compare files that stay");
}

// The messages among what a program says on stderr.
Words MessagesIn(const std::string& errors) {
  constexpr std::string_view kStart = "rankforge: ";
  Words messages;
  std::istringstream lines(errors);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(kStart)) continue;
    messages.push_back(line.substr(kStart.size()));
  }
  return messages;
}

Status Ended(const BenchProgram& program, const ChildResult& child) {
  const Words messages = MessagesIn(child.errors);
  std::string why(messages.empty() ? LastLine(child.errors) : messages.back());
  if (why.empty()) why = "it says nothing";
  if (child.exit_code > 128) {
    return Failed(fmt::format("{}: signal {} ended `bench`: {:.300}",
                              program.path, child.exit_code - 128, why));
  }
  std::string_view next_step;
  if (messages.empty()) {
    next_step = "; name a rankforge with --compare";
  } else if (child.exit_code == static_cast<int>(StatusCode::kUsage)) {
    next_step = "; use options that both have";
  }
  return Failed(fmt::format("{}: `bench` ended with exit code {}: {:.300}{}",
                            program.path, child.exit_code, why, next_step));
}

// The times that `program` printed until it ended as `child` did.
Result<BenchTimes> TimesOf(const ChildResult& child, BenchProgram& program) {
  Result<BenchTimes> times = ReadBenchTimes(child.output);
  Words messages = MessagesIn(child.errors);
  // Ratios do not use the read bandwidth that was measured too low.
  if (child.exit_code == 1 && times.ok() && times->above_roofline) {
    ++program.above_roofline;
    if (!messages.empty()) messages.pop_back();  // which says so
  } else if (child.exit_code != 0) {
    return Ended(program, child);
  }
  if (!times.ok()) {
    return Failed(fmt::format(
        "{}: prints no document of `bench --json` as this program does: {}; "
        "name a rankforge of about the same age with --compare",
        program.path, times.status().message()));
  }
  for (std::string& message : messages) {
    if (std::ranges::count(program.messages, message) > 0) continue;
    program.messages.push_back(std::move(message));
  }
  return times;
}

Result<BenchTimes> RunOnce(const Words& words, BenchProgram& program) {
  RANKFORGE_RETURN_IF_ERROR(CheckUnchanged(program));
  Words command = {program.path, "bench"};
  command.insert(command.end(), words.begin(), words.end());
  const Result<ChildResult> child =
      RunChild(command, {.errors_apart = true,
                         .most_bytes = kMostBytes,
                         .cancelled = InterruptScope::Asked});
  if (InterruptScope::Asked()) {
    return Failed("interrupted, nothing is compared");
  }
  RANKFORGE_RETURN_IF_ERROR(CheckUnchanged(program));
  if (child.ok()) return TimesOf(*child, program);
  return Failed(fmt::format("{}: {}; name a rankforge with --compare",
                            program.path, child.status().message()));
}

// A preset is cut to fit the memory, threads default to the usable cores.
Status CheckWork(const BenchProgram& program, const BenchProgram& first) {
  const Json& wanted = first.runs.front().work;
  for (const auto& [field, value] : program.runs.back().work.items()) {
    if (value == wanted.at(field)) continue;
    return Failed(fmt::format(
        "{} ran with '{}' {}, {} with {}: times of different work are not "
        "compared; give the option that says it, or free memory",
        program.path, field, value.dump(), first.path,
        wanted.at(field).dump()));
  }
  return {};
}

Status CheckEntries(const BenchProgram& program) {
  const BenchTimes& first = program.runs.front();
  const BenchTimes& last = program.runs.back();
  for (const auto& [one, other] :
       {std::pair(&first, &last), std::pair(&last, &first)}) {
    for (const BenchEntry& entry : one->entries) {
      if (other->Find(entry.name) > 0) continue;
      return Failed(
          fmt::format("{}: has '{:.80}' in some runs only; repeat with more "
                      "tokens (-n)",
                      program.path, entry.name));
    }
  }
  return {};
}

}  // namespace

Result<BenchPrograms> OpenPrograms(const std::string& other) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::string path, PathOfThisProgram());
  RANKFORGE_ASSIGN_OR_RETURN(BenchProgram here, OpenProgram(path));
  RANKFORGE_ASSIGN_OR_RETURN(BenchProgram there, OpenProgram(other));
  return BenchPrograms{std::move(here), std::move(there)};
}

Status RunRounds(size_t rounds, const Words& words, BenchPrograms& programs) {
  const InterruptScope interrupts;
  Progress progress("compare");
  for (size_t turn = 0; turn < 2 * rounds; ++turn) {
    // The other one is first of all: it is the one that may not fit.
    BenchProgram& program = programs[(turn / 2 + turn + 1) % 2];
    progress.Update(turn, 2 * rounds, program.path);
    RANKFORGE_ASSIGN_OR_RETURN(BenchTimes times, RunOnce(words, program));
    program.runs.push_back(std::move(times));
    RANKFORGE_RETURN_IF_ERROR(CheckWork(program, programs[1]));
    RANKFORGE_RETURN_IF_ERROR(CheckEntries(program));
  }
  progress.Update(2 * rounds, 2 * rounds, "runs");
  return {};
}

}  // namespace rankforge
