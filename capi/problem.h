// Problems and tables, as the header has them.
#ifndef RANKFORGE_CAPI_PROBLEM_H_
#define RANKFORGE_CAPI_PROBLEM_H_

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "capi/handle.h"
#include "include/rankforge/rankforge.h"
#include "runtime/table/dispatch.h"
#include "runtime/table/problem.h"
#include "runtime/table/table.h"

namespace rankforge::capi {

// THE list of weight types of rankforge.h: the one of number i, at i.
inline constexpr std::array kWeightTypeNumbers = {
    WeightType::kF32,       WeightType::kBf16,       WeightType::kF16,
    WeightType::kI8,        WeightType::kI8Group32,  WeightType::kI4Group32,
    WeightType::kI4Group64, WeightType::kI4mGroup32,
};
static_assert(kWeightTypeNumbers.size() == kWeightTypes.size(),
              "a weight type has no number in rankforge.h");

// THE list of activations of rankforge.h: the one of number i + 1, at i.
inline constexpr std::array kActivationNumbers = {
    Activations::kF32, Activations::kBf16, Activations::kI8};
static_assert(kActivationNumbers.size() == kActivations.size(),
              "activations have no number in rankforge.h");

// What the number asks for; none: the default.
std::optional<Activations> ReadActivations(int32_t number);

// Fails unless weights of one of `types` take what is asked for, on this CPU.
void CheckActivations(std::optional<Activations> asked,
                      std::span<const WeightType> types);

// A problem of the caller's. Where inputs are rounded, kernels take one token
// at a time: `tokens` is the caller's, problem.batch that of kernels. A mask of
// several tokens is one of single channels for kernels: `granularity` is that
// of the caller's bits.
struct CallProblem {
  Problem problem;
  size_t tokens = 1;
  size_t granularity = 1;
  double density = 0;
};

// Checks all fields. `threads` is what there is.
CallProblem ReadProblem(const rankforge_problem& problem, size_t threads);

struct Table {
  DispatchTable table;
};

// Null for a null handle: there is no table.
const DispatchTable* TableOf(const rankforge_table* table);

}  // namespace rankforge::capi

// NOLINTNEXTLINE(readability-identifier-naming): a name of the C header
struct rankforge_table : rankforge::capi::HandleOf<rankforge::capi::Table, 2> {
};

namespace rankforge::capi {
using TablePool = HandlePool<rankforge_table>;
}  // namespace rankforge::capi

#endif  // RANKFORGE_CAPI_PROBLEM_H_
