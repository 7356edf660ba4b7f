// What this build leaves out: sanitized builds would else take hours. The
// option RANKFORGE_DEFAULT_VARIANTS sets all of it, in cmake/Targets.cmake;
// each part has its own name, and code asks for the part that it means.
#ifndef RANKFORGE_META_BUILD_H_
#define RANKFORGE_META_BUILD_H_

namespace rankforge {

// Kernels hold InFewVariants (meta/variants.h) instead of the whole list.
#ifdef RANKFORGE_FEW_VARIANTS
inline constexpr bool kFewVariants = true;
#else
inline constexpr bool kFewVariants = false;
#endif

// On x86, kernels are compiled for AVX2 alone, and none for instructions beyond
// it.
#ifdef RANKFORGE_ONE_TARGET
inline constexpr bool kOneTarget = true;
#else
inline constexpr bool kOneTarget = false;
#endif

// Loops whose trip count is a constant stay loops where they can.
#ifdef RANKFORGE_ROLLED_LOOPS
inline constexpr bool kRolledLoops = true;
#else
inline constexpr bool kRolledLoops = false;
#endif

}  // namespace rankforge

#endif  // RANKFORGE_META_BUILD_H_
