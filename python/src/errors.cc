#include "python/src/errors.h"

#include <exception>

namespace rankforge {

namespace nb = nanobind;

void Check(rankforge_status status) {
  if (status != RANKFORGE_OK) throw PythonError(status, rankforge_last_error());
}

void Check(const Status& status) {
  switch (status.code()) {
    case StatusCode::kOk:
      return;
    case StatusCode::kFailed:
      throw PythonError(RANKFORGE_ERROR_FAILED, status.message());
    case StatusCode::kUsage:
      throw PythonError(RANKFORGE_ERROR_ARGUMENT, status.message());
    case StatusCode::kEnvironment:
      throw PythonError(RANKFORGE_ERROR_ENVIRONMENT, status.message());
  }
}

void RaiseErrorsAs(nb::handle error) {
  nb::register_exception_translator(
      [](const std::exception_ptr& pointer, void* type) {
        try {
          std::rethrow_exception(pointer);
        } catch (const PythonError& thrown) {
          const nb::handle error_type(static_cast<PyObject*>(type));
          const nb::object error =
              error_type(static_cast<int>(thrown.status()), thrown.what());
          PyErr_SetObject(error_type.ptr(), error.ptr());
        }
      },
      error.inc_ref().ptr());
}

}  // namespace rankforge
