#include "kernels/targets.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "hwy/targets.h"

namespace rankforge {
namespace {

constexpr int64_t kWithoutSimd = HWY_EMU128 | HWY_SCALAR;

std::vector<std::string> NamesOf(const std::vector<int64_t>& targets) {
  std::vector<std::string> names;
  for (const int64_t target : targets) {
    if ((target & kWithoutSimd) == 0) {
      names.emplace_back(hwy::TargetName(target));
    }
  }
  return names;
}

}  // namespace

std::vector<int64_t> UsableTargets() {
  std::vector<int64_t> targets = hwy::SupportedAndGeneratedTargets();
  // Highway gives better targets lower bits.
  std::sort(targets.begin(), targets.end());
  const char* limit = std::getenv("RANKFORGE_MAX_TARGET");
  if (limit == nullptr) return targets;
  const auto named =
      std::find_if(targets.begin(), targets.end(), [&](int64_t target) {
        return std::string_view(hwy::TargetName(target)) == limit;
      });
  // An unknown name limits nothing: it may be a target of another CPU.
  if (named != targets.end()) targets.erase(targets.begin(), named);
  return targets;
}

std::vector<std::string> UsableTargetNames() {
  return NamesOf(UsableTargets());
}

std::vector<std::string> CompiledTargetNames() {
  std::vector<int64_t> targets;
  for (int64_t rest = HWY_TARGETS; rest != 0; rest &= rest - 1) {
    targets.push_back(rest & -rest);
  }
  return NamesOf(targets);
}

}  // namespace rankforge
