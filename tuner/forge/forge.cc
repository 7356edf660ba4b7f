#include "tuner/forge/forge.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
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
#include "base/files.h"
#include "kernels/gemv/static_unit.h"
#include "kernels/targets.h"
#include "meta/variant.h"
#include "runtime/plugin_file.h"

namespace rankforge {
namespace {

namespace fs = std::filesystem;

using Words = std::vector<std::string>;

constexpr size_t kMaxSourceBytes = size_t{1} << 24;

// One file to compile, and where its object is.
struct Compilation {
  std::string name;
  std::string source;
  std::string object;
  std::string log;
};

std::string ReadFileOrNothing(const std::string& path) {
  const Result<std::string> text = ReadTextFile(path, kMaxSourceBytes);
  return text.ok() ? *text : "";
}

// Hash of all headers below `folder`, in the order of their paths.
uint64_t HashOfHeaders(const fs::path& folder, uint64_t hash) {
  std::vector<fs::path> headers;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(folder, error), end;
       !error && entry != end; entry.increment(error)) {
    if (entry->path().extension() == ".h") headers.push_back(entry->path());
  }
  std::ranges::sort(headers);
  for (const fs::path& header : headers) {
    hash = HashOf(ReadFileOrNothing(header.string()),
                  HashOf(header.filename().string(), hash));
  }
  return hash;
}

// What the units are compiled with, beside the target and the places. Nothing
// of -march: Highway chooses the instructions of the target, and what runs
// before the target is checked must run everywhere.
Words FlagsFor(const ForgeOptions& options, const std::string& version) {
  Words flags = {
      "-std=c++20", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden",
      "-ffp-contract=off", "-DHWY_COMPILE_ONLY_STATIC",
      "-DHWY_BASELINE_TARGETS=HWY_" + options.target,
      "-DRANKFORGE_VERSION=\"" RANKFORGE_VERSION "\"", "-I" + options.headers,
      // After the folders of the system, which it may be one of.
      "-idirafter", RANKFORGE_HIGHWAY_HEADERS};
  if (version.find("clang") != std::string::npos) {
    // As in cmake/Targets.cmake.
    flags.emplace_back("-fconstexpr-steps=16777216");
  }
  return flags;
}

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

// Runs `command`, which makes `file`. Where it fails, all it says is in `log`.
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

Status MakeFolder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  return error ? Failed(fmt::format("{}: cannot make this folder: {}", folder,
                                    error.message()))
               : Status();
}

Status WriteIfChanged(const std::string& path, const std::string& text) {
  if (ReadFileOrNothing(path) == text) return {};
  return WriteFileAtomically(path, text);
}

// Where `file` is made before it appears, whole, under its name; others may be
// making it, too.
std::string PartialOf(const std::string& file) {
  return fmt::format("{}.{}.partial", file, getpid());
}

Status Compile(const Compilation& file, const ForgeOptions& options,
               const Words& flags) {
  const std::string partial = PartialOf(file.object);
  Words command = {options.compiler};
  command.insert(command.end(), flags.begin(), flags.end());
  command.insert(command.end(), {"-c", file.source, "-o", partial});
  RANKFORGE_RETURN_IF_ERROR(RunLogged(command, file.source, file.log));
  return Rename(partial, file.object);
}

// Compiles all, `jobs` at a time; the first failure stops the rest.
Status CompileAll(std::span<const Compilation> files,
                  const ForgeOptions& options, const Words& flags) {
  std::atomic<size_t> next = 0;
  std::mutex mutex;  // of `done` and `status`
  size_t done = 0;
  Status status;
  const auto work = [&] {
    for (size_t i = next++; i < files.size(); i = next++) {
      Status compiled = Compile(files[i], options, flags);
      const std::lock_guard lock(mutex);
      if (!compiled.ok()) {
        if (status.ok()) status = std::move(compiled);
        next = files.size();
        return;
      }
      ++done;
      if (options.progress) options.progress(done, files.size(), files[i].name);
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min(options.jobs, files.size()); ++i) {
    threads.emplace_back(work);
  }
  work();
  for (std::thread& thread : threads) thread.join();
  return status;
}

Status Link(std::span<const Compilation> files, const ForgeOptions& options,
            const std::string& plugin) {
  // Templates of the standard library would be exported, and be taken from
  // whoever has them already.
  const std::string exports = options.folder + "/exports.map";
  RANKFORGE_RETURN_IF_ERROR(
      WriteIfChanged(exports, "{ global: rankforge_plugin; local: *; };\n"));
  const std::string partial = PartialOf(plugin);
  Words command = {options.compiler, "-shared", "-Wl,--no-undefined",
                   "-Wl,--version-script=" + exports};
  for (const Compilation& file : files) command.push_back(file.object);
  command.insert(command.end(), {"-o", partial});
  RANKFORGE_RETURN_IF_ERROR(
      RunLogged(command, plugin, options.folder + "/link.log"));
  RANKFORGE_RETURN_IF_ERROR(SealPlugin(partial));
  return Rename(partial, plugin);
}

Result<std::string> VersionOf(const std::string& compiler) {
  const Result<ChildResult> child = RunChild({compiler, "--version"});
  if (child.ok() && child->exit_code == 0) return child->output;
  return EnvironmentError(fmt::format(
      "compiler {}: {}; name a C++20 compiler with --compiler or CXX", compiler,
      child.ok() ? "it fails on --version" : child.status().message()));
}

// What is missing or wrong, before anything is written.
Status CheckOptions(ForgeOptions& options) {
  const Words usable = UsableTargetNames();
  if (options.target.empty() && !usable.empty()) options.target = usable[0];
  const Words compiled = CompiledTargetNames();
  if (std::ranges::count(compiled, options.target) == 0) {
    return UsageError(fmt::format("--target '{}': there are {}", options.target,
                                  fmt::join(compiled, ", ")));
  }
  const std::string needed = "/kernels/gemv/static_entries-inl.h";
  if (!fs::exists(options.headers + needed)) {
    return EnvironmentError(fmt::format(
        "headers of the kernels: {}{} is missing; name the folder that holds "
        "kernels/ and meta/ with --headers or RANKFORGE_HEADERS",
        options.headers, needed));
  }
  return {};
}

}  // namespace

Result<std::vector<StaticUnit>> UnitsOf(std::span<const Problem> problems) {
  std::vector<StaticUnit> units;
  for (const Problem& problem : problems) {
    const bool dense = problem.operation == Operation::kDense;
    const StaticUnit unit = {problem.operation, problem.type,
                             dense ? 1 : problem.granularity, problem.rows,
                             problem.cols};
    if (problem.batch == 1 &&
        std::max(unit.rows, unit.cols) <= kMaxStaticSide &&
        EntryCount(unit) > 0 && std::ranges::count(units, unit) == 0) {
      units.push_back(unit);
    }
  }
  if (units.empty()) {
    return UsageError("forge: none of the problems has variants for one shape");
  }
  return units;
}

Status WriteUnits(std::span<const StaticUnit> units,
                  const std::string& folder) {
  RANKFORGE_RETURN_IF_ERROR(MakeFolder(folder));
  for (const StaticUnit& unit : units) {
    RANKFORGE_RETURN_IF_ERROR(WriteIfChanged(
        folder + "/" + UnitName(unit) + ".cc", UnitSource(unit)));
  }
  return {};
}

Result<ForgeResult> Forge(std::span<const StaticUnit> units,
                          const ForgeOptions& asked) {
  ForgeOptions options = asked;
  RANKFORGE_RETURN_IF_ERROR(CheckOptions(options));
  RANKFORGE_ASSIGN_OR_RETURN(const std::string version,
                             VersionOf(options.compiler));
  RANKFORGE_RETURN_IF_ERROR(MakeFolder(options.folder + "/objects"));
  const std::string main_source = options.folder + "/plugin.cc";
  RANKFORGE_RETURN_IF_ERROR(WriteUnits(units, options.folder));
  RANKFORGE_RETURN_IF_ERROR(WriteIfChanged(main_source, PluginSource(units)));

  const Words flags = FlagsFor(options, version);
  uint64_t common = HashOf(version);
  for (const std::string& flag : flags) common = HashOf(flag, common);
  for (const char* room : {"meta", "kernels"}) {
    common = HashOfHeaders(fs::path(options.headers) / room, common);
  }
  common = HashOfHeaders(fs::path(RANKFORGE_HIGHWAY_HEADERS) / "hwy", common);

  std::vector<Compilation> files;
  const auto add = [&](const std::string& name, const std::string& text) {
    const std::string object = fmt::format(
        "{}/objects/{}-{:016x}.o", options.folder, name, HashOf(text, common));
    files.push_back({name, options.folder + "/" + name + ".cc", object,
                     options.folder + "/" + name + ".log"});
  };
  for (const StaticUnit& unit : units) add(UnitName(unit), UnitSource(unit));
  add("plugin", PluginSource(units));
  std::vector<Compilation> missing;
  std::ranges::copy_if(
      files, std::back_inserter(missing),
      [](const Compilation& file) { return !fs::exists(file.object); });
  RANKFORGE_RETURN_IF_ERROR(CompileAll(missing, options, flags));

  ForgeResult result;
  result.plugin = options.folder + "/rankforge-" + options.target + ".so";
  result.target = options.target;
  result.units = units.size();
  result.compiled = missing.size();
  for (const StaticUnit& unit : units) result.entries += EntryCount(unit);
  RANKFORGE_RETURN_IF_ERROR(Link(files, options, result.plugin));
  std::error_code ignored;
  result.bytes = fs::file_size(result.plugin, ignored);
  return result;
}

std::string DefaultForgeHeaders() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  const fs::path installed =
      program.parent_path().parent_path() / RANKFORGE_INSTALLED_HEADERS;
  return !error && fs::exists(installed) ? installed.string()
                                         : RANKFORGE_SOURCE_HEADERS;
}

}  // namespace rankforge
