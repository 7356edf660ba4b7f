// The targets of this build, by the names that Highway gives them.
#ifndef RANKFORGE_KERNELS_TARGETS_H_
#define RANKFORGE_KERNELS_TARGETS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace rankforge {

// Targets that this CPU can run, best first, without those better than the one
// that RANKFORGE_MAX_TARGET names.
std::vector<int64_t> UsableTargets();
// Their names, without targets that have no SIMD.
std::vector<std::string> UsableTargetNames();
// Names of all targets that this build has kernels for, whatever the CPU.
std::vector<std::string> CompiledTargetNames();

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_TARGETS_H_
