#include "capi/problem.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "capi/arguments.h"
#include "meta/packing.h"
#include "meta/variants.h"
#include "runtime/table/choice.h"

namespace rankforge::capi {
namespace {

constexpr std::array kOperationNumbers = {
    Operation::kDense, Operation::kRowMask, Operation::kColumnMask};
static_assert(static_cast<size_t>(kOperationNumbers.size()) ==
              kOperations.size());

// What kernels read at once, of bits of the caller's.
constexpr std::array<size_t, 3> kGranularities = {1, 8, 32};

// Beyond any memory, and small enough that no product of sizes overflows.
constexpr size_t kMostRows = size_t{1} << 31;

template <class T, size_t n>
T Numbered(const std::array<T, n>& values, int32_t number, const char* name) {
  if (number < 0 || static_cast<size_t>(number) >= n) {
    throw ArgumentError("{}: {} is not in [0, {})", name, number, n);
  }
  return values[static_cast<size_t>(number)];
}

void CheckExtent(size_t value, const char* name) {
  if (value == 0 || value > kMostRows) {
    throw ArgumentError("{}: {} is not in [1, 2^31]", name, value);
  }
}

// Checks a problem that stands for weights, layouts and tables.
size_t CheckedGranularity(const rankforge_problem& problem) {
  const size_t granularity = std::max<size_t>(problem.granularity, 1);
  if (std::ranges::find(kGranularities, granularity) == kGranularities.end()) {
    throw ArgumentError("granularity: {} is none of {}", granularity,
                        fmt::join(kGranularities, ", "));
  }
  if (granularity > 1 && problem.operation == RANKFORGE_DENSE) {
    throw ArgumentError("granularity: {}, but a dense problem has no mask",
                        granularity);
  }
  return granularity;
}

}  // namespace

std::optional<Activations> ReadActivations(int32_t number) {
  if (number == RANKFORGE_ACTIVATIONS_DEFAULT) return std::nullopt;
  if (number < 0 || static_cast<size_t>(number) > kActivationNumbers.size()) {
    throw ArgumentError("activations: {} is not in [0, {}]", number,
                        kActivationNumbers.size());
  }
  return kActivationNumbers[static_cast<size_t>(number) - 1];
}

void CheckActivations(std::optional<Activations> asked,
                      std::span<const WeightType> types) {
  if (!asked || *asked == Activations::kF32 || types.empty()) return;
  if (std::ranges::none_of(
          types, [&](WeightType type) { return Takes(type, *asked); })) {
    throw ArgumentError("activations: {} is not for weights of {}",
                        Name(*asked), Name(types.front()));
  }
  Check(CheckCpu(*asked));
}

CallProblem ReadProblem(const rankforge_problem& given, size_t threads) {
  CallProblem call;
  Problem& problem = call.problem;
  problem.operation = Numbered(kOperationNumbers, given.operation, "operation");
  problem.type = Numbered(kWeightTypeNumbers, given.weight_type, "weight_type");
  CheckExtent(given.rows, "rows");
  CheckExtent(given.cols, "cols");
  problem.rows = given.rows;
  problem.cols = given.cols;
  CheckReserved(given.reserved, "problem");
  const std::optional<Activations> asked = ReadActivations(given.activations);
  CheckActivations(asked, {&problem.type, 1});
  problem.activations =
      ActivationsFor(problem.operation, problem.type,
                     asked.value_or(DefaultActivations(problem.type)));
  call.tokens = std::max<size_t>(given.tokens, 1);
  if (call.tokens > kMostTokens) {
    throw ArgumentError("tokens: {} is above {}; run several times",
                        call.tokens, kMostTokens);
  }
  problem.batch = problem.activations == Activations::kF32 ? call.tokens : 1;
  problem.threads = given.threads == 0 ? threads : given.threads;
  if (problem.threads > threads) {
    throw ArgumentError("threads: {} is above the {} of the context",
                        problem.threads, threads);
  }
  call.granularity = CheckedGranularity(given);
  problem.granularity = problem.batch > 1 ? 1 : call.granularity;
  if (!(given.density >= 0 && given.density <= 1)) {
    throw ArgumentError("density: {} is not in [0, 1]", given.density);
  }
  const bool dense = problem.operation == Operation::kDense;
  call.density = given.density != 0 ? given.density : dense ? 1 : 0.5;
  return call;
}

const DispatchTable* TableOf(const rankforge_table* table) {
  return table == nullptr ? nullptr : &TablePool::Of(table, "table")->table;
}

}  // namespace rankforge::capi

using namespace rankforge;        // NOLINT: the entries of the library
using namespace rankforge::capi;  // NOLINT

const char* rankforge_weight_type_name(int32_t weight_type) {
  const auto number = static_cast<size_t>(weight_type);
  return weight_type >= 0 && number < kWeightTypeNumbers.size()
             ? Name(kWeightTypeNumbers[number]).data()
             : nullptr;
}

rankforge_status rankforge_weight_type_from_name(const char* name,
                                                 int32_t* weight_type) {
  return Guarded([&] {
    Checked(name, "name");
    Checked(weight_type, "weight_type");
    std::vector<std::string_view> names;
    for (const WeightType type : kWeightTypeNumbers) {
      if (Name(type) == name) {
        *weight_type = static_cast<int32_t>(names.size());
        return;
      }
      names.push_back(Name(type));
    }
    throw ArgumentError("weight type '{:.40}' is none of {}", name,
                        fmt::join(names, ", "));
  });
}

rankforge_status rankforge_table_open(const char* path,
                                      rankforge_table** table) {
  return Guarded([&] {
    Checked(path, "path");
    Checked(table, "table");
    auto read = std::make_shared<Table>();
    read->table = ValueOf(DispatchTable::Load(path));
    *table = TablePool::Make(std::move(read));
  });
}

rankforge_status rankforge_table_close(rankforge_table* table) {
  return Guarded([&] { TablePool::Destroy(table, "table"); });
}

rankforge_status rankforge_table_notes(const rankforge_table* table, char* text,
                                       size_t capacity, size_t* length) {
  return Guarded([&] {
    const DispatchTable* read = TableOf(table);
    std::vector<std::string> notes;
    if (read != nullptr) notes = read->notes();
    const Dispatcher dispatcher(read);
    notes.insert(notes.end(), dispatcher.notes().begin(),
                 dispatcher.notes().end());
    std::string lines;
    for (const std::string& note : notes) lines += note + "\n";
    WriteText(lines, text, capacity, length);
  });
}

rankforge_status rankforge_table_explain(const rankforge_table* table,
                                         const rankforge_problem* problem,
                                         char* text, size_t capacity,
                                         size_t* length) {
  return Guarded([&] {
    const DispatchTable* read = TableOf(table);
    const auto given = ReadStruct(problem, "problem");
    const Problem asked =
        ReadProblem(given, std::max<uint32_t>(given.threads, 1)).problem;
    WriteText(Explain(asked, Dispatcher(read).Decide(asked)), text, capacity,
              length);
  });
}
