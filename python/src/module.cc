// rankforge._core: the native module. The package beside it is what users
// import.
#include <nanobind/nanobind.h>

#include "python/src/bindings.h"
#include "python/src/errors.h"
#include "python/src/library.h"
#include "python/src/mask.h"
#include "python/src/plan.h"
#include "python/src/weights.h"

NB_MODULE(_core, module) {
  // Objects that live until the process ends are no news to users.
  nanobind::set_leak_warnings(false);
  rankforge::RaiseErrorsAs(
      nanobind::module_::import_("rankforge._errors").attr("Error"));
  rankforge::BindLibrary(module);
  rankforge::BindWeights(module);
  rankforge::BindMasks(module);
  rankforge::BindPlans(module);
  rankforge::BindTuner(module);
  rankforge::BindAdapters(module);
  rankforge::BindModels(module);
}
