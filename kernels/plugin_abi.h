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

// Raised when the meaning of an entry, of the arguments of a kernel or of
// packed weights changes and their sizes may not: an enumerator moved, a field
// was given another use, kPackingRevision went up.
inline constexpr uint32_t kPluginAbi = 2;

// Returns the entries of one unit. Compiled for the plug-in's target: not to be
// called before that is checked.
using PluginUnit = std::span<const KernelEntry> (*)();

// The first three stay where they are in every ABI; the rest is read only when
// they are those of this program.
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

// Adds the entries of a plug-in to the registry, to be called before the
// registry is first asked for: from then on many threads read it. What is added
// stays for the life of the process. Returns why nothing was added, or "".
std::string AddPlugin(const PluginInfo& info);

// What was added; nothing can be added any more. For the registry.
std::span<const KernelEntry> TakePluginEntries();

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_PLUGIN_ABI_H_
