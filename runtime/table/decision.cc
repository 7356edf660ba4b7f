#include "runtime/table/decision.h"

#include <fmt/format.h>

#include "kernels/fits.h"
#include "runtime/plugin_file.h"

namespace rankforge {
namespace {

// Below this a second thread costs more to wake than it saves; one core reads
// 256 KiB in about 15 us.
constexpr double kSingleThreadBytes = 256 << 10;

}  // namespace

bool Fits(const KernelEntry& entry, const Problem& problem, Layout layout) {
  return Fits(entry, Demand{problem.operation, problem.type, layout,
                            problem.granularity, problem.batch, problem.rows,
                            problem.cols});
}

std::string WhyUnfit(const Bucket& bucket, const Problem& problem,
                     Layout layout) {
  const KernelEntry* entry = Registry::Get().Find(bucket.variant);
  if (entry == nullptr) {
    return fmt::format("variant {:.80} {}", bucket.variant,
                       WhyAbsent(bucket.variant));
  }
  if (entry->spec_hash != bucket.spec_hash) {
    return fmt::format("variant {} has spec {:016x}, here {:016x}",
                       bucket.variant, bucket.spec_hash, entry->spec_hash);
  }
  if (!Fits(*entry, problem, layout)) {
    return fmt::format("variant {} does not fit {} on layout {}",
                       bucket.variant, problem.ToString(), Name(layout));
  }
  return "";
}

Decision DefaultDecision(const Problem& problem) {
  Decision decision;
  decision.layout = problem.operation == Operation::kColumnMask
                        ? Layout::kInOut
                        : Layout::kOutIn;
  decision.threads =
      WeightBytes(problem.type,
                  static_cast<double>(problem.rows * problem.cols)) <
              kSingleThreadBytes
          ? 1
          : problem.threads;
  const KernelEntry* entry =
      Registry::Get().Default(problem.operation, problem.type, decision.layout,
                              problem.granularity, problem.batch);
  decision.default_variant = entry->FullName();
  Bucket bucket;
  bucket.variant = entry->FullName();
  bucket.spec_hash = entry->spec_hash;
  decision.by_density.push_back(bucket);
  return decision;
}

Result<Decision> ForcedDecision(const Problem& problem,
                                std::string_view full_name) {
  const KernelEntry* entry = Registry::Get().Find(full_name);
  if (entry == nullptr) {
    return UsageError("RANKFORGE_FORCE=" + std::string(full_name) +
                      ": no such variant on this CPU; `rankforge variants` "
                      "lists them");
  }
  for (const Layout layout : kLayouts) {
    if (!Fits(*entry, problem, layout)) continue;
    Decision decision = DefaultDecision(problem);
    decision.layout = layout;
    decision.default_variant =
        Registry::Get()
            .Default(problem.operation, problem.type, layout,
                     problem.granularity, problem.batch)
            ->FullName();
    decision.by_density[0].variant = entry->FullName();
    decision.by_density[0].spec_hash = entry->spec_hash;
    return decision;
  }
  return UsageError("RANKFORGE_FORCE=" + std::string(full_name) +
                    " does not apply to " + problem.ToString());
}

}  // namespace rankforge
