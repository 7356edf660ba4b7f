// All compiled variants that this CPU can run.
#ifndef RANKFORGE_KERNELS_REGISTRY_H_
#define RANKFORGE_KERNELS_REGISTRY_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/kernel_args.h"
#include "meta/variant.h"

namespace rankforge {

// To be raised when the arithmetic of the kernels changes: then the spec hashes
// of older tables no longer match. That of kernels that round their input has
// been raised once, for builds that know no activations: they skip that field
// of an entry, and must not take its variants for exact ones.
constexpr std::string_view ArithmeticRevision(std::string_view variant) {
  // string_view::find is no constant expression under UBSan with GCC 12.
  constexpr std::string_view kRounds = "_rounded_";
  for (size_t at = 0; at + kRounds.size() <= variant.size(); ++at) {
    size_t alike = 0;
    while (alike < kRounds.size() && variant[at + alike] == kRounds[alike]) {
      ++alike;
    }
    if (alike == kRounds.size()) return "/2";
  }
  return "/1";
}

constexpr uint64_t SpecHash(std::string_view variant) {
  return HashOf(ArithmeticRevision(variant), HashOf(variant));
}

// One compiled variant for one backend and target.
struct KernelEntry {
  VariantSpec spec;
  const char* backend;  // "hwy", "xsimd", "vnni", "bf16", "scalar"
  const char* target;   // as Highway names it: "AVX2", "AVX3", ...; "NONE"
  const char* variant;  // NameOf(spec), with "_<rows>x<cols>" if static
  uint64_t spec_hash;   // of the variant name and the arithmetic's revision
  KernelFn fn;
  size_t static_rows;  // 0: any shape
  size_t static_cols;
  // May round differently from the scalar reference of its operation and
  // activations: of a target without fused multiply-add.
  bool reassociates;

  // "<backend>/<target>/<variant>", what tables and RANKFORGE_FORCE use.
  std::string FullName() const;
  bool is_reference() const { return std::string_view(backend) == "scalar"; }
};

class Registry {
 public:
  // Built once, thread-safe. Honours RANKFORGE_MAX_TARGET: targets better than
  // the one named there are left out.
  static const Registry& Get();

  // Best target first; within a target in the order of the declared list.
  std::span<const KernelEntry> entries() const { return entries_; }
  const KernelEntry* Find(std::string_view full_name) const;
  // Entries for one input that fit (operation, type, layout, granularity,
  // activations) and the shape, in declared order; all of the same bits: none
  // that `reassociates`, and never the scalar reference. The default alone when
  // nothing else is left (a CPU without FMA); empty where the layout does not
  // offer the operation.
  std::vector<const KernelEntry*> Candidates(Operation operation,
                                             WeightType type, Layout layout,
                                             size_t granularity, size_t rows,
                                             size_t cols,
                                             Activations activations) const;
  // What runs `batch` inputs when nothing was tuned: the default of the best
  // target. Null where the layout does not offer it.
  const KernelEntry* Default(Operation operation, WeightType type,
                             Layout layout, size_t granularity,
                             size_t batch = 1,
                             Activations activations = Activations::kF32) const;
  // The scalar reference of the same operation and activations; it serves every
  // granularity and any number of tokens.
  // Null where the layout does not offer the operation.
  const KernelEntry* Reference(const VariantSpec& spec, Layout layout) const;
  // Names of the targets with entries, best first; without "NONE".
  std::vector<std::string> targets() const;
  // Hash over all full names: identifies this build's set of variants.
  uint64_t hash() const { return hash_; }

 private:
  Registry();
  std::vector<KernelEntry> entries_;
  uint64_t hash_ = 0;
};

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_REGISTRY_H_
