#include "runtime/plugin_file.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/files.h"
#include "kernels/plugin_abi.h"
#include "meta/variant.h"

namespace rankforge {
namespace {

constexpr std::string_view kMark = "RankForge plug-in ";
// Larger files are something else: a unit takes about 50 KiB.
constexpr size_t kMaxBytes = size_t{1} << 28;

std::string SealOf(std::string_view contents) {
  return fmt::format("{}{:016x}", kMark, HashOf(contents));
}

Status CheckSeal(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::string contents,
                             ReadTextFile(path, kMaxBytes));
  const size_t seal_size = SealOf("").size();
  if (contents.size() >= seal_size) {
    const std::string_view body(contents.data(), contents.size() - seal_size);
    const std::string_view seal =
        std::string_view(contents).substr(body.size());
    if (seal == SealOf(body)) return {};
    if (seal.starts_with(kMark)) {
      return Failed(path + ": a damaged plug-in; forge it again");
    }
  }
  return Failed(path +
                ": no plug-in, or not a whole one; `rankforge forge` makes "
                "plug-ins");
}

// "4096x11008" of a variant that is compiled for that shape alone, else "". The
// name may come from a damaged table.
std::string ShapeOf(std::string_view full_name) {
  const size_t underscore = full_name.rfind('_');
  if (underscore == std::string_view::npos) return "";
  const std::string_view shape = full_name.substr(underscore + 1);
  const size_t cross = shape.find('x');
  const auto is_side = [](std::string_view side) {
    return !side.empty() && side.size() <= 7 &&
           side.find_first_not_of("0123456789") == std::string_view::npos;
  };
  if (cross == std::string_view::npos || !is_side(shape.substr(0, cross)) ||
      !is_side(shape.substr(cross + 1))) {
    return "";
  }
  return std::string(shape);
}

}  // namespace

Status LoadPlugin(const std::string& path) {
  RANKFORGE_RETURN_IF_ERROR(CheckSeal(path));
  // A name without a slash would be looked for among the system's libraries.
  const std::string file = std::filesystem::absolute(path).string();
  void* const library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return Failed(fmt::format("{}: cannot load: {}", path, dlerror()));
  }
  const auto function =
      reinterpret_cast<PluginFn>(dlsym(library, kPluginFunction));
  const std::string why = function == nullptr
                              ? fmt::format("it exports no {}", kPluginFunction)
                              : AddPlugin(*function());
  if (why.empty()) return {};
  dlclose(library);
  return Failed(fmt::format("{}: this plug-in cannot be used: {}", path, why));
}

Status SealPlugin(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::string contents,
                             ReadTextFile(path, kMaxBytes));
  std::ofstream file(path, std::ios::binary | std::ios::app);
  file << SealOf(contents) << std::flush;
  if (!file) {
    return Failed(
        fmt::format("{}: cannot write: {}", path, std::strerror(errno)));
  }
  return {};
}

std::string WhyAbsent(std::string_view full_name) {
  const std::string shape = ShapeOf(full_name);
  return shape.empty()
             ? "is not in this build or not for this CPU"
             : fmt::format(
                   "is of a plug-in for {} that is not loaded (--plugin)",
                   shape);
}

}  // namespace rankforge
