// The binary interface of plug-ins: a plug-in is a shared object of entries for
// single shapes, compiled for one target, that exports one C function. Its
// entries join the registry. runtime/plugin_file.h loads the file.
#ifndef RANKFORGE_KERNELS_PLUGIN_ABI_H_
#define RANKFORGE_KERNELS_PLUGIN_ABI_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "kernels/registry.h"

namespace rankforge {

// To be raised when an entry, the arguments of a kernel or packed weights get
// another meaning, which their sizes do not show: an enumerator moves, a field
// gets another use, kPackingRevision goes up.
inline constexpr uint32_t kPluginAbi = 2;

// Returns the entries of one unit. It is compiled for the plug-in's target: do
// not call it before checking the target.
using PluginUnit = std::span<const KernelEntry> (*)();

// The first three fields stay in their places in every ABI. The rest is read
// only if those three equal this program's.
struct PluginInfo {
  uint32_t abi = kPluginAbi;
  uint32_t args_bytes = sizeof(KernelArgs);
  uint32_t entry_bytes = sizeof(KernelEntry);
  const char* library_version;  // for information
  const char* target;           // as Highway names it
  const PluginUnit* units;
  size_t unit_count;
};

// The function that a plug-in exports.
using PluginFn = const PluginInfo* (*)();
inline constexpr const char* kPluginFunction = "rankforge_plugin";
#define RANKFORGE_PLUGIN_EXPORT \
  extern "C" __attribute__((visibility("default")))

// Adds the entries of a plug-in to the registry, for the life of the process.
// Call it before anything asks for the registry, which many threads read from
// then on. Returns why nothing was added, or "".
std::string AddPlugin(const PluginInfo& info);

// What was added; nothing can be added after this. For the registry.
std::span<const KernelEntry> TakePluginEntries();

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_PLUGIN_ABI_H_
