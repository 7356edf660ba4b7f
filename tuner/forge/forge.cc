#include "tuner/forge/forge.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <system_error>
#include <utility>

#include "base/atomic_file.h"
#include "base/files.h"
#include "kernels/gemv/static_unit.h"
#include "kernels/targets.h"
#include "meta/variant.h"
#include "tuner/forge/compile.h"

namespace rankforge {
namespace {

namespace fs = std::filesystem;

using Words = std::vector<std::string>;

constexpr size_t kMaxSourceBytes = size_t{1} << 24;

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

// No -march: Highway chooses the instructions of the target, and what runs
// before the target is checked must run everywhere.
Words FlagsFor(const ForgeOptions& options, const std::string& version) {
  Words flags = {"-std=c++20", "-O3", "-DNDEBUG", "-fPIC",
                 "-fvisibility=hidden", "-ffp-contract=off",
                 "-DHWY_COMPILE_ONLY_STATIC",
                 "-DHWY_BASELINE_TARGETS=HWY_" + options.target,
                 fmt::format("-DRANKFORGE_VERSION=\"{}\"", RANKFORGE_VERSION),
                 "-I" + options.headers,
                 // After the folders of the system: it may be one of them.
                 "-idirafter", RANKFORGE_HIGHWAY_HEADERS};
  if (version.find("clang") != std::string::npos) {
    // As in cmake/Targets.cmake.
    flags.emplace_back("-fconstexpr-steps=16777216");
  }
  return flags;
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

// One file of a plug-in.
struct SourceFile {
  std::string name;  // without .cc
  std::string text;
};

std::vector<SourceFile> SourcesOf(std::span<const StaticUnit> units) {
  std::vector<SourceFile> sources;
  for (const StaticUnit& unit : units) {
    sources.push_back({UnitName(unit), UnitSource(unit)});
  }
  return sources;
}

Status WriteSources(std::span<const SourceFile> sources,
                    const std::string& folder) {
  for (const SourceFile& source : sources) {
    RANKFORGE_RETURN_IF_ERROR(
        WriteIfChanged(folder + "/" + source.name + ".cc", source.text));
  }
  return {};
}

// Hash of all that goes into every object beside its source.
uint64_t HashOfSurroundings(const ForgeOptions& options,
                            const std::string& version, const Words& flags) {
  uint64_t hash = HashOf(version);
  for (const std::string& flag : flags) hash = HashOf(flag, hash);
  for (const char* room : {"meta", "kernels"}) {
    hash = HashOfHeaders(fs::path(options.headers) / room, hash);
  }
  return HashOfHeaders(fs::path(RANKFORGE_HIGHWAY_HEADERS) / "hwy", hash);
}

Compilation CompilationOf(const SourceFile& source, const std::string& folder,
                          uint64_t surroundings) {
  return {source.name, folder + "/" + source.name + ".cc",
          fmt::format("{}/objects/{}-{:016x}.o", folder, source.name,
                      HashOf(source.text, surroundings)),
          folder + "/" + source.name + ".log"};
}

Status Link(std::span<const Compilation> files, const ForgeOptions& options,
            const std::string& plugin) {
  // Templates of the standard library would be exported too, and the copies of
  // another library would replace them.
  const std::string exports = options.folder + "/exports.map";
  RANKFORGE_RETURN_IF_ERROR(
      WriteIfChanged(exports, "{ global: rankforge_plugin; local: *; };\n"));
  return LinkPlugin(files, options.compiler, exports, plugin,
                    options.folder + "/link.log");
}

}  // namespace

Result<std::vector<StaticUnit>> UnitsOf(std::span<const Problem> problems) {
  std::vector<StaticUnit> units;
  for (const Problem& problem : problems) {
    const bool dense = problem.operation == Operation::kDense;
    const StaticUnit unit = {problem.operation, problem.type,
                             dense ? 1 : problem.granularity, problem.rows,
                             problem.cols};
    // Rounded kernels gain nothing from one shape, and have no unit.
    if (problem.batch == 1 && problem.activations == Activations::kF32 &&
        std::max(unit.rows, unit.cols) <= kMaxStaticSide &&
        EntryCount(unit) > 0 && std::ranges::count(units, unit) == 0) {
      units.push_back(unit);
    }
  }
  if (units.empty()) {
    return UsageError(
        "forge: none of the problems has variants for one shape, which are "
        "exact: integer weights need --activations f32");
  }
  return units;
}

Status WriteUnits(std::span<const StaticUnit> units,
                  const std::string& folder) {
  RANKFORGE_RETURN_IF_ERROR(MakeFolder(folder));
  return WriteSources(SourcesOf(units), folder);
}

Result<ForgeResult> Forge(std::span<const StaticUnit> units,
                          const ForgeOptions& asked) {
  ForgeOptions options = asked;
  RANKFORGE_RETURN_IF_ERROR(CheckOptions(options));
  RANKFORGE_ASSIGN_OR_RETURN(const std::string version,
                             VersionOf(options.compiler));

  std::vector<SourceFile> sources = SourcesOf(units);
  sources.push_back({"plugin", PluginSource(units)});
  RANKFORGE_RETURN_IF_ERROR(MakeFolder(options.folder + "/objects"));
  RANKFORGE_RETURN_IF_ERROR(WriteSources(sources, options.folder));

  const Compiler compiler = {options.compiler, FlagsFor(options, version)};
  const uint64_t surroundings =
      HashOfSurroundings(options, version, compiler.flags);
  std::vector<Compilation> files;
  for (const SourceFile& source : sources) {
    files.push_back(CompilationOf(source, options.folder, surroundings));
  }
  std::vector<Compilation> missing;
  std::ranges::copy_if(
      files, std::back_inserter(missing),
      [](const Compilation& file) { return !fs::exists(file.object); });
  RANKFORGE_RETURN_IF_ERROR(
      CompileAll(missing, compiler, options.jobs, options.progress));

  ForgeResult result;
  result.plugin = options.folder + "/rankforge-" + options.target + ".so";
  RANKFORGE_RETURN_IF_ERROR(Link(files, options, result.plugin));
  result.target = options.target;
  result.units = units.size();
  for (const StaticUnit& unit : units) result.entries += EntryCount(unit);
  result.compiled = missing.size();
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
