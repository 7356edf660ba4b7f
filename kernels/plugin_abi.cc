#include "kernels/plugin_abi.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "kernels/targets.h"
#include "meta/static_variants.h"

namespace rankforge {
namespace {

// Everything that was added, until the registry takes it.
struct PluginStore {
  std::mutex mutex;
  std::vector<KernelEntry> entries;
  bool taken = false;
};

PluginStore& Store() {
  static PluginStore store;
  return store;
}

std::string Differs(const char* what, size_t theirs, size_t ours) {
  return std::string("its ") + what + " is " + std::to_string(theirs) +
         ", of this program " + std::to_string(ours) +
         "; forge it again with this version";
}

std::string List(const std::vector<std::string>& words) {
  std::string list;
  for (const std::string& word : words) {
    list += (list.empty() ? "" : ", ") + word;
  }
  return list.empty() ? "none" : list;
}

std::string WhyForeign(const PluginInfo& info) {
  if (info.abi != kPluginAbi) {
    return Differs("ABI number", info.abi, kPluginAbi);
  }
  if (info.args_bytes != sizeof(KernelArgs)) {
    return Differs("size of KernelArgs", info.args_bytes, sizeof(KernelArgs));
  }
  if (info.entry_bytes != sizeof(KernelEntry)) {
    return Differs("size of an entry", info.entry_bytes, sizeof(KernelEntry));
  }
  const std::vector<std::string> usable = UsableTargetNames();
  if (std::ranges::count(usable, std::string_view(info.target)) == 0) {
    return std::string("it is for target ") + info.target +
           ", which is not usable here (" + List(usable) + ")";
  }
  return "";
}

// Whether the registry could have made the entry itself, for one shape: a spec
// that means something else in the plug-in has another name there.
bool IsWhatItSays(const KernelEntry& entry, std::string_view target) {
  if (entry.fn == nullptr || entry.variant == nullptr ||
      entry.target != target || entry.backend != std::string_view("hwy") ||
      entry.static_rows == 0 || entry.static_cols == 0 ||
      std::ranges::count(kVariants, entry.spec) == 0) {
    return false;
  }
  const std::string name = std::string(NameOf(entry.spec).view()) + "_" +
                           std::to_string(entry.static_rows) + "x" +
                           std::to_string(entry.static_cols);
  return entry.variant == name && entry.spec_hash == SpecHash(name);
}

}  // namespace

std::string AddPlugin(const PluginInfo& info) {
  if (std::string why = WhyForeign(info); !why.empty()) return why;
  PluginStore& store = Store();
  const std::lock_guard lock(store.mutex);
  if (store.taken) {
    return "kernels are in use already; load plug-ins before anything else";
  }
  std::vector<KernelEntry> all = store.entries;
  for (const PluginUnit unit : std::span(info.units, info.unit_count)) {
    for (const KernelEntry& entry : unit()) {
      if (!IsWhatItSays(entry, info.target)) {
        return "its entry " +
               std::to_string(all.size() - store.entries.size()) +
               " is none of this version; forge it again";
      }
      const auto same = [&](const KernelEntry& other) {
        return other.FullName() == entry.FullName();
      };
      if (std::ranges::any_of(all, same)) {
        return entry.FullName() + " is registered already; load it once";
      }
      all.push_back(entry);
    }
  }
  store.entries = std::move(all);
  return "";
}

std::span<const KernelEntry> TakePluginEntries() {
  PluginStore& store = Store();
  const std::lock_guard lock(store.mutex);
  store.taken = true;
  return store.entries;
}

}  // namespace rankforge
