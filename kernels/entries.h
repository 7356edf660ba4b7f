// Where the registry collects entries: one function a translation unit, each
// answering for the target that Highway has currently chosen.
#ifndef RANKFORGE_KERNELS_ENTRIES_H_
#define RANKFORGE_KERNELS_ENTRIES_H_

#include <span>

#include "kernels/registry.h"

namespace rankforge {

std::span<const KernelEntry> RowDotEntries();
std::span<const KernelEntry> ColumnBatchEntries();
std::span<const KernelEntry> PanelEntries();
std::span<const KernelEntry> RoundedEntries();
// The same on AVX-512 with VNNI, and those of bf16 on AVX-512 with BF16; x86
// alone.
std::span<const KernelEntry> RoundedVnniEntries();
std::span<const KernelEntry> RoundedBf16Entries();
std::span<const KernelEntry> TokenEntries();
// The xsimd backend, x86 alone: one function a translation unit, each for one
// target.
std::span<const KernelEntry> XsimdAvx2Entries();
std::span<const KernelEntry> XsimdAvx3Entries();
// The scalar reference, independent of targets.
std::span<const KernelEntry> ScalarEntries();

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_ENTRIES_H_
