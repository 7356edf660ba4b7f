// Where the registry collects entries: one function per translation unit, each
// with the entries of the target that Highway has currently chosen.
#ifndef RANKFORGE_KERNELS_ENTRIES_H_
#define RANKFORGE_KERNELS_ENTRIES_H_

#include <span>

#include "kernels/registry.h"

namespace rankforge {

std::span<const KernelEntry> RowDotEntries();
std::span<const KernelEntry> ColumnBatchEntries();
std::span<const KernelEntry> PanelEntries();
std::span<const KernelEntry> InterleavedEntries();
std::span<const KernelEntry> RoundedEntries();
// Those of the same algorithms on AVX-512 with VNNI, and on AVX-512 with BF16
// for bf16 weights; x86 only.
std::span<const KernelEntry> RoundedVnniEntries();
std::span<const KernelEntry> RoundedBf16Entries();
std::span<const KernelEntry> TokenEntries();
// The xsimd backend, x86 only: one function per translation unit and target.
std::span<const KernelEntry> XsimdAvx2Entries();
std::span<const KernelEntry> XsimdAvx3Entries();
// The scalar reference, independent of targets.
std::span<const KernelEntry> ScalarEntries();

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_ENTRIES_H_
