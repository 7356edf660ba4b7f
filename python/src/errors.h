// Errors on their way to Python: every one becomes a rankforge.Error.
#ifndef RANKFORGE_PYTHON_SRC_ERRORS_H_
#define RANKFORGE_PYTHON_SRC_ERRORS_H_

#include <nanobind/nanobind.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "base/status.h"
#include "include/rankforge/rankforge.h"

namespace rankforge {

class PythonError : public std::runtime_error {
 public:
  PythonError(rankforge_status status, const std::string& message)
      : std::runtime_error(message), status_(status) {}
  rankforge_status status() const { return status_; }

 private:
  rankforge_status status_;
};

inline PythonError BadArgument(const std::string& message) {
  return {RANKFORGE_ERROR_ARGUMENT, message};
}

// Throws what the last call of this thread, which returned `status`, was told.
void Check(rankforge_status status);
// Throws what a status of the C++ runtime says.
void Check(const Status& status);

template <class T>
T ValueOf(Result<T> result) {
  Check(result.status());
  return std::move(result).value();
}

// Has PythonError raised as `error`, the class rankforge.Error.
void RaiseErrorsAs(nanobind::handle error);

}  // namespace rankforge

#endif  // RANKFORGE_PYTHON_SRC_ERRORS_H_
