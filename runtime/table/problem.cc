#include "runtime/table/problem.h"

#include <fmt/format.h>

namespace rankforge {

std::string Problem::ToString() const {
  const std::string rounding =
      activations == Activations::kF32
          ? ""
          : fmt::format(", {} activations", Name(activations));
  return fmt::format("{} {}x{} {} g{}, batch {}, {} thread{}{}",
                     Name(operation), rows, cols, Name(type), granularity,
                     batch, threads, threads == 1 ? "" : "s", rounding);
}

}  // namespace rankforge
