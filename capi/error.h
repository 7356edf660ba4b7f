// Errors of the C library. Inside it they are thrown; every entry is a Guarded
// body, so that nothing leaves it but a status.
#ifndef RANKFORGE_CAPI_ERROR_H_
#define RANKFORGE_CAPI_ERROR_H_

#include <fmt/format.h>

#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/status.h"
#include "include/rankforge/rankforge.h"

namespace rankforge::capi {

// What a call is answered with.
class Error : public std::runtime_error {
 public:
  Error(rankforge_status status, const std::string& message)
      : std::runtime_error(message), status_(status) {}
  rankforge_status status() const { return status_; }

 private:
  rankforge_status status_;
};

template <class... Args>
Error ArgumentError(fmt::format_string<Args...> text, Args&&... args) {
  return {RANKFORGE_ERROR_ARGUMENT,
          fmt::format(text, std::forward<Args>(args)...)};
}
template <class... Args>
Error UnsupportedError(fmt::format_string<Args...> text, Args&&... args) {
  return {RANKFORGE_ERROR_UNSUPPORTED,
          fmt::format(text, std::forward<Args>(args)...)};
}

// Throws what a status says.
void Check(const Status& status);

// The value of a result, or what its status says.
template <class T>
T ValueOf(Result<T> result) {
  Check(result.status());
  return std::move(*result);
}

// Text of rankforge_last_error, of this thread.
const char* LastError() noexcept;
// Keeps the message; returns the status.
rankforge_status Answer(rankforge_status status, const char* message) noexcept;

template <class Body>
rankforge_status Guarded(const Body& body) noexcept {
  try {
    body();
    return RANKFORGE_OK;
  } catch (const Error& error) {
    return Answer(error.status(), error.what());
  } catch (const std::bad_alloc&) {
    return Answer(RANKFORGE_ERROR_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return Answer(RANKFORGE_ERROR_INTERNAL, error.what());
  } catch (...) {
    return Answer(RANKFORGE_ERROR_INTERNAL, "an unknown exception");
  }
}

}  // namespace rankforge::capi

#endif  // RANKFORGE_CAPI_ERROR_H_
