#include "runtime/table/decision.h"

#include <fmt/format.h>

#include "runtime/plugin_file.h"

namespace rankforge {
namespace {

Bucket BucketOf(const DensityKernel& part) {
  Bucket bucket;
  bucket.max_density = part.max_density;
  bucket.variant = part.kernel->FullName();
  bucket.spec_hash = part.kernel->spec_hash;
  return bucket;
}

}  // namespace

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

Decision Unmeasured(const Choice& choice, const Problem& problem) {
  Decision decision;
  decision.layout = choice.layout;
  decision.threads = choice.threads;
  decision.default_variant = DefaultKernel(problem, choice.layout)->FullName();
  for (const DensityKernel& part : choice.by_density) {
    decision.by_density.push_back(BucketOf(part));
  }
  return decision;
}

Result<Choice> Resolve(const Problem& problem, Decision& decision,
                       std::string& note) {
  const KernelEntry* const fallback = DefaultKernel(problem, decision.layout);
  if (fallback == nullptr) {
    return Failed(fmt::format("no kernel for {} on layout {}",
                              problem.ToString(), Name(decision.layout)));
  }
  decision.default_variant = fallback->FullName();
  Choice choice = {decision.layout, decision.threads, {}};
  size_t replaced = 0;
  std::string reason;
  for (Bucket& bucket : decision.by_density) {
    DensityKernel part = {bucket.max_density, fallback};
    const std::string why = WhyUnfit(bucket, problem, decision.layout);
    if (why.empty()) {
      part.kernel = Registry::Get().Find(bucket.variant);
    } else {
      if (replaced++ == 0) reason = why;
      bucket = BucketOf(part);
    }
    choice.by_density.push_back(part);
  }
  if (replaced > 0) {
    note = fmt::format("{} of {} densities take the default: {}", replaced,
                       decision.by_density.size(), reason);
  }
  return choice;
}

}  // namespace rankforge
