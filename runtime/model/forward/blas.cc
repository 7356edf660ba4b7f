#include "runtime/model/forward/blas.h"

#include <cblas.h>

#include <cstdlib>
#include <mutex>
#include <string_view>

#include "base/openblas_kernels.h"

// OpenBLAS exports them without a declaration: the second forgets the kernels
// that the first chose. Null where the library has kernels for one CPU alone.
extern "C" {
[[gnu::weak]] void gotoblas_dynamic_init();
[[gnu::weak]] void gotoblas_dynamic_quit();
}

namespace rankforge {
namespace {

bool UsesAvx2(std::string_view kernels) {
  for (const std::string_view known :
       {"Haswell", "Zen", "SkylakeX", "Cooperlake", "Sapphirerapids"}) {
    if (kernels == known) return true;
  }
  return false;
}

void ChooseKernels() {
  const char* const kernels = OpenBlasKernels();
  if (kernels == nullptr || UsesAvx2(openblas_get_corename()) ||
      std::getenv("OPENBLAS_CORETYPE") != nullptr ||
      gotoblas_dynamic_init == nullptr || gotoblas_dynamic_quit == nullptr) {
    return;
  }
  setenv("OPENBLAS_CORETYPE", kernels, /*overwrite=*/0);
  gotoblas_dynamic_quit();
  gotoblas_dynamic_init();
  unsetenv("OPENBLAS_CORETYPE");
}

}  // namespace

void PrepareBlas() {
  static std::once_flag once;
  std::call_once(once, [] {
    ChooseKernels();
    openblas_set_num_threads(1);
  });
}

}  // namespace rankforge
