// The parts of the module that have no objects of their own.
#ifndef RANKFORGE_PYTHON_SRC_BINDINGS_H_
#define RANKFORGE_PYTHON_SRC_BINDINGS_H_

#include <nanobind/nanobind.h>

namespace rankforge {

void BindAdapters(nanobind::module_& module);
void BindModels(nanobind::module_& module);
void BindTuner(nanobind::module_& module);

}  // namespace rankforge

#endif  // RANKFORGE_PYTHON_SRC_BINDINGS_H_
