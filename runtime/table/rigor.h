// How much tuning measures: densities, rounds, and how early it drops slow
// candidates. tuner/search/rigor.h says what each rigor means. A table names
// its own.
#ifndef RANKFORGE_RUNTIME_TABLE_RIGOR_H_
#define RANKFORGE_RUNTIME_TABLE_RIGOR_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace rankforge {

enum class Rigor : uint8_t { kEstimate, kMeasure, kPatient };

// Ascending.
inline constexpr std::array kRigors = {Rigor::kEstimate, Rigor::kMeasure,
                                       Rigor::kPatient};

constexpr std::string_view Name(Rigor rigor) {
  constexpr std::array<std::string_view, kRigors.size()> kNames = {
      "estimate", "measure", "patient"};
  return kNames[static_cast<size_t>(rigor)];
}

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_TABLE_RIGOR_H_
