// Matrices of the caller's and packed weights as Python objects.
#ifndef RANKFORGE_PYTHON_SRC_WEIGHTS_H_
#define RANKFORGE_PYTHON_SRC_WEIGHTS_H_

#include <nanobind/nanobind.h>

#include <optional>
#include <string>

#include "include/rankforge/rankforge.h"
#include "python/src/arrays.h"
#include "python/src/library.h"

namespace rankforge {

// A matrix (rows, cols) in an array that this keeps alive.
struct BoundSource {
  BoundSource(nanobind::handle data, const std::string& format, size_t cols);

  ReadableArray array;
  rankforge_source source RANKFORGE_SOURCE_INIT;
};

struct BoundWeights {
  rankforge_weights_info Info() const;

  OwnedHandle<rankforge_weights, &rankforge_weights_destroy> handle;
  // What they were packed for; none: they come from a file.
  std::optional<rankforge_problem> problem;
  // Of weights that were adopted: the array that has them.
  std::optional<ReadableArray> adopted;
};

void BindWeights(nanobind::module_& module);

}  // namespace rankforge

#endif  // RANKFORGE_PYTHON_SRC_WEIGHTS_H_
