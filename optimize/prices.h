// What products cost by a dispatch table, and the problems to tune for that.
#ifndef RANKFORGE_OPTIMIZE_PRICES_H_
#define RANKFORGE_OPTIMIZE_PRICES_H_

#include <span>
#include <vector>

#include "base/status.h"
#include "meta/types.h"
#include "optimize/type_groups.h"
#include "runtime/model/format/adapter.h"
#include "runtime/model/format/config.h"
#include "runtime/table/problem.h"
#include "runtime/table/table.h"

namespace rankforge {

// The problems of decoding the dense model and each of `adapters`, in each of
// `types`, with `activations` where there are kernels for it. A problem of
// several is one workload with the densities of all.
std::vector<Workload> WorkloadsOfTypes(const ModelConfig& config,
                                       std::span<const Adapter* const> adapters,
                                       std::span<const WeightType> types,
                                       Activations activations, size_t threads);

// The nanoseconds of one token by group and by type of `types`, of products as
// `adapter` (may be null) makes them: their bytes at the rate that the table
// measured at the nearest density, or where tuning had no time for a problem,
// at the rate of memory. Fails if the table has neither.
Result<std::vector<std::vector<double>>> PricesOf(
    const ModelConfig& config, const Adapter* adapter,
    std::span<const TypeGroup> groups, std::span<const WeightType> types,
    Activations activations, const DispatchTable& table, size_t threads);

}  // namespace rankforge

#endif  // RANKFORGE_OPTIMIZE_PRICES_H_
