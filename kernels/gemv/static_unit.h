// Writes the sources of a plug-in: one unit per shape and one file that names
// all units. `rankforge forge` compiles them; generated/ has units of
// well-known shapes.
#ifndef RANKFORGE_KERNELS_GEMV_STATIC_UNIT_H_
#define RANKFORGE_KERNELS_GEMV_STATIC_UNIT_H_

#include <span>
#include <string>

#include "meta/static_variants.h"

namespace rankforge {

// "column_mask_bf16_g1_4096x11008": the name of the unit's file and function.
std::string UnitName(const StaticUnit& unit);

// The source of one unit, for any target.
std::string UnitSource(const StaticUnit& unit);

// The source of the file that exports `units`.
std::string PluginSource(std::span<const StaticUnit> units);

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_GEMV_STATIC_UNIT_H_
