// What is tuned: the key of a table, and the workload behind it.
#ifndef RANKFORGE_RUNTIME_TABLE_PROBLEM_H_
#define RANKFORGE_RUNTIME_TABLE_PROBLEM_H_

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "meta/types.h"

namespace rankforge {

// Everything that changes which variant is best, and nothing that tuning
// decides. `threads` is what the caller makes available.
struct Problem {
  Operation operation = Operation::kDense;
  size_t rows = 0;
  size_t cols = 0;
  WeightType type = WeightType::kF32;
  size_t granularity = 1;  // 1 for dense
  size_t batch = 1;
  size_t threads = 1;
  Activations activations = Activations::kF32;

  auto operator<=>(const Problem&) const = default;
  // For messages: "column_mask 11008x3072 bf16 g1, batch 1, 2 threads", with
  // ", i8 activations" at the end unless they are f32.
  std::string ToString() const;
};

// How masks are drawn where nothing was recorded: channels independent of each
// other, or kept in runs of about a dozen.
enum class MaskStructure : uint8_t { kBernoulli, kClustered };

inline constexpr std::array kMaskStructures = {MaskStructure::kBernoulli,
                                               MaskStructure::kClustered};

constexpr std::string_view Name(MaskStructure structure) {
  constexpr std::array<std::string_view, 2> kNames = {"bernoulli", "clustered"};
  return kNames[static_cast<size_t>(structure)];
}

// A problem as it occurs in a model: the layers that share it and the masks
// they see. One table entry serves all of them.
struct Workload {
  Problem problem;
  std::vector<std::string> layers;
  // Column mask: share of tokens that keep each column, as calibration saw it
  // (problem.cols values), or empty: then all columns are alike, and masks have
  // the structure below.
  std::vector<float> keep_frequency;
  MaskStructure mask_structure = MaskStructure::kBernoulli;
  // Masks of a real run, with one bit per masked channel and MaskWords words
  // each, or none.
  std::vector<std::vector<uint64_t>> trace;
  double density = 1;
  // 5 % of the calls keep less, 5 % keep more; 0: as `density`. The layout is
  // chosen for this spread, and the densities to measure lie around it.
  double density_p05 = 0;
  double density_p95 = 0;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_TABLE_PROBLEM_H_
