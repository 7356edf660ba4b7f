#include "kernels/registry.h"

#include <cstdlib>
#include <functional>
#include <map>

#include "hwy/targets.h"
#include "kernels/entries.h"
#include "kernels/fits.h"
#include "kernels/plugin_abi.h"
#include "kernels/targets.h"
#include "meta/rules.h"

namespace rankforge {
namespace {

// What the xsimd backend has for a target of Highway.
std::span<const KernelEntry> XsimdEntries([[maybe_unused]] int64_t target) {
#ifdef RANKFORGE_XSIMD_AVX3
  if (target == HWY_AVX3) return XsimdAvx3Entries();
#endif
#ifdef RANKFORGE_XSIMD_AVX2
  if (target == HWY_AVX2) return XsimdAvx2Entries();
#endif
  return {};
}

// What is compiled for instructions beyond those of a target.
std::span<const KernelEntry> VnniEntries([[maybe_unused]] int64_t target) {
#ifdef RANKFORGE_NATIVE_UNITS
  if (target == HWY_AVX3 && __builtin_cpu_supports("avx512vnni")) {
    return RoundedVnniEntries();
  }
#endif
  return {};
}
std::span<const KernelEntry> Bf16Entries([[maybe_unused]] int64_t target) {
#ifdef RANKFORGE_NATIVE_UNITS
  if (target == HWY_AVX3 && __builtin_cpu_supports("avx512bf16")) {
    return RoundedBf16Entries();
  }
#endif
  return {};
}

}  // namespace

bool Fits(const KernelEntry& entry, const Demand& demand) {
  const VariantSpec& spec = entry.spec;
  const bool any_shape = entry.static_rows == 0;
  const bool this_shape =
      entry.static_rows == demand.rows && entry.static_cols == demand.cols;
  return spec.operation == demand.operation && spec.type == demand.type &&
         ActivationsOf(spec) == demand.activations &&
         Accepts(spec, demand.layout) && (any_shape || this_shape) &&
         (demand.batch == 1 || SumsOf(demand.layout) == 1) &&
         (entry.is_reference() || (Serves(spec, demand.granularity) &&
                                   ServesBatch(spec, demand.batch)));
}

std::string KernelEntry::FullName() const {
  return std::string(backend) + "/" + target + "/" + variant;
}

const Registry& Registry::Get() {
  static const Registry registry;
  return registry;
}

Registry::Registry() {
  const std::vector<int64_t> targets = UsableTargets();
  const std::span<const KernelEntry> plugins = TakePluginEntries();
  int64_t usable = 0;
  for (const int64_t target : targets) {
    usable |= target;
    // This is global state of Highway. No other dispatch may run meanwhile;
    // none does, because everything that dispatches asks the registry first.
    hwy::SetSupportedTargetsForTest(target);
    // Highway's first: the first that fits is the default.
    for (const auto& entries :
         {RowDotEntries(), ColumnBatchEntries(), PanelEntries(),
          InterleavedEntries(), RoundedEntries(), VnniEntries(target),
          Bf16Entries(target), TokenEntries(), XsimdEntries(target)}) {
      entries_.insert(entries_.end(), entries.begin(), entries.end());
    }
    for (const KernelEntry& entry : plugins) {
      if (entry.target == std::string_view(hwy::TargetName(target))) {
        entries_.push_back(entry);
      }
    }
  }
  // Mask producers and elementwise operations keep to the limit that the user
  // set. Without one, other users of Highway in this process get their targets
  // back.
  const bool is_limited = std::getenv("RANKFORGE_MAX_TARGET") != nullptr;
  hwy::SetSupportedTargetsForTest(is_limited ? usable : 0);
  const auto scalar = ScalarEntries();
  entries_.insert(entries_.end(), scalar.begin(), scalar.end());
  for (const KernelEntry& entry : entries_) {
    hash_ = HashOf(entry.FullName(), hash_ ^ entry.spec_hash);
  }
}

const KernelEntry* Registry::Find(std::string_view full_name) const {
  // By name, of the only registry there is. Entry by entry, loading a table of
  // 500 entries and binding their plans took 129 ms of CPU time instead of 50
  // (dispatch_bench, Zen 3, other work on the host).
  static const std::map<std::string, const KernelEntry*, std::less<>> by_name =
      [this] {
        std::map<std::string, const KernelEntry*, std::less<>> index;
        for (const KernelEntry& entry : entries_) {
          index.emplace(entry.FullName(), &entry);
        }
        return index;
      }();
  const auto found = by_name.find(full_name);
  return found == by_name.end() ? nullptr : found->second;
}

std::vector<const KernelEntry*> Registry::Candidates(
    Operation operation, WeightType type, Layout layout, size_t granularity,
    size_t rows, size_t cols, Activations activations) const {
  const Demand demand{operation, type, layout, granularity,
                      1,         rows, cols,   activations};
  std::vector<const KernelEntry*> candidates;
  for (const KernelEntry& entry : entries_) {
    if (Fits(entry, demand) && !entry.is_reference() && !entry.reassociates) {
      candidates.push_back(&entry);
    }
  }
  const KernelEntry* fallback =
      Default(operation, type, layout, granularity, 1, activations);
  if (candidates.empty() && fallback != nullptr) {
    candidates.push_back(fallback);
  }
  return candidates;
}

const KernelEntry* Registry::Default(Operation operation, WeightType type,
                                     Layout layout, size_t granularity,
                                     size_t batch,
                                     Activations activations) const {
  const Demand demand{operation, type, layout, granularity,
                      batch,     0,    0,      activations};
  for (const KernelEntry& entry : entries_) {
    if (Fits(entry, demand)) return &entry;
  }
  return nullptr;
}

const KernelEntry* Registry::Reference(const VariantSpec& spec,
                                       Layout layout) const {
  const Demand demand{.operation = spec.operation,
                      .type = spec.type,
                      .layout = layout,
                      .activations = ActivationsOf(spec)};
  for (const KernelEntry& entry : entries_) {
    if (entry.is_reference() && Fits(entry, demand)) return &entry;
  }
  return nullptr;
}

std::vector<std::string> Registry::targets() const {
  std::vector<std::string> names;
  for (const KernelEntry& entry : entries_) {
    if (entry.is_reference()) continue;
    if (names.empty() || names.back() != entry.target) {
      names.emplace_back(entry.target);
    }
  }
  return names;
}

}  // namespace rankforge
