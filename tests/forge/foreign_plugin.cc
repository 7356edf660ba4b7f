// Plug-ins that this program must refuse; the build makes one of each CASE.
#include "kernels/plugin_abi.h"

namespace rankforge {
namespace {

enum Case { kAbi = 1, kArguments, kEntries, kTarget, kNames };

void DoNothing(const KernelArgs&) {}

// A name that its spec does not have.
const KernelEntry kEntry = {
    {}, "hwy", TARGET, "no_such_variant_8x8", 7, &DoNothing, 8, 8, false};

std::span<const KernelEntry> Entries() { return {&kEntry, 1}; }

constexpr PluginUnit kUnits[] = {&Entries};

constexpr PluginInfo InfoOf(int which) {
  PluginInfo info = {.library_version = "0",
                     .target = TARGET,
                     .units = kUnits,
                     .unit_count = 1};
  if (which == kAbi) info.abi += 1;
  if (which == kArguments) info.args_bytes += 8;
  if (which == kEntries) info.entry_bytes += 8;
  if (which == kTarget) info.target = "AVX9";
  return info;
}

[[maybe_unused]] constexpr PluginInfo kInfo = InfoOf(CASE);

}  // namespace
}  // namespace rankforge

#if CASE > 0
RANKFORGE_PLUGIN_EXPORT const rankforge::PluginInfo* rankforge_plugin() {
  return &rankforge::kInfo;
}
#endif
