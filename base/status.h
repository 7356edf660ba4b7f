// Errors as values. A message names the file, the field, the value and what to
// do next; the library prints and aborts nothing.
#ifndef RANKFORGE_BASE_STATUS_H_
#define RANKFORGE_BASE_STATUS_H_

#include <cassert>
#include <optional>
#include <string>
#include <utility>

namespace rankforge {

// The values are the exit codes of programs.
enum class StatusCode {
  kOk = 0,
  kFailed = 1,       // bad data, failed I/O
  kUsage = 2,        // the caller asked for something impossible
  kEnvironment = 3,  // this machine cannot do it
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message)
      : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status Failed(std::string message) {
  return {StatusCode::kFailed, std::move(message)};
}
inline Status UsageError(std::string message) {
  return {StatusCode::kUsage, std::move(message)};
}
inline Status EnvironmentError(std::string message) {
  return {StatusCode::kEnvironment, std::move(message)};
}

// A value, or the status that says why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT: implicit
  Result(Status status) : status_(std::move(status)) {  // NOLINT: implicit
    assert(!status_.ok() && "a Result without a value needs an error");
  }

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  T& value() & { return *value_; }
  const T& value() const& { return *value_; }
  T&& value() && { return std::move(*value_); }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }
  T& operator*() & { return *value_; }
  const T& operator*() const& { return *value_; }

 private:
  std::optional<T> value_;
  Status status_;
};

// Leaves the calling function with the status of `expression` if it failed.
#define RANKFORGE_RETURN_IF_ERROR(expression)                        \
  do {                                                               \
    if (::rankforge::Status status_ = (expression); !status_.ok()) { \
      return status_;                                                \
    }                                                                \
  } while (false)

// Declares `variable` with the value of a Result, or returns its status.
#define RANKFORGE_CONCAT_INNER(a, b) a##b
#define RANKFORGE_CONCAT(a, b) RANKFORGE_CONCAT_INNER(a, b)
#define RANKFORGE_ASSIGN_OR_RETURN(declaration, expression)            \
  RANKFORGE_ASSIGN_OR_RETURN_IMPL(RANKFORGE_CONCAT(result_, __LINE__), \
                                  declaration, expression)
#define RANKFORGE_ASSIGN_OR_RETURN_IMPL(result, declaration, expression) \
  auto result = (expression);                                            \
  if (!result.ok()) return result.status();                              \
  declaration = std::move(result).value()

}  // namespace rankforge

#endif  // RANKFORGE_BASE_STATUS_H_
