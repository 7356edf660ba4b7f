#include "capi/error.h"

#include <cstring>
#include <string_view>

namespace rankforge::capi {
namespace {

// Plain bytes: a message costs no memory, and a thread that ends runs no
// destructor of a library that may be gone.
thread_local char last_error[1024];

rankforge_status StatusOf(const Status& status) {
  if (std::string_view(status.message()).starts_with("out of memory")) {
    return RANKFORGE_ERROR_MEMORY;
  }
  switch (status.code()) {
    case StatusCode::kOk:
      return RANKFORGE_OK;
    case StatusCode::kFailed:
      return RANKFORGE_ERROR_FAILED;
    case StatusCode::kUsage:
      return RANKFORGE_ERROR_ARGUMENT;
    case StatusCode::kEnvironment:
      return RANKFORGE_ERROR_ENVIRONMENT;
  }
  return RANKFORGE_ERROR_INTERNAL;
}

}  // namespace

void Check(const Status& status) {
  if (!status.ok()) throw Error(StatusOf(status), status.message());
}

const char* LastError() noexcept { return last_error; }

rankforge_status Answer(rankforge_status status, const char* message) noexcept {
  const size_t length = strnlen(message, sizeof(last_error) - 1);
  std::memcpy(last_error, message, length);
  last_error[length] = 0;
  return status;
}

}  // namespace rankforge::capi
