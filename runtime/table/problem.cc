#include "runtime/table/problem.h"

#include <fmt/format.h>

namespace rankforge {

std::string Problem::ToString() const {
  return fmt::format("{} {}x{} {} g{}, batch {}, {} thread{}", Name(operation),
                     rows, cols, Name(type), granularity, batch, threads,
                     threads == 1 ? "" : "s");
}

}  // namespace rankforge
