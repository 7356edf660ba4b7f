// Who runs the work of plans.
#ifndef RANKFORGE_CAPI_CONTEXT_H_
#define RANKFORGE_CAPI_CONTEXT_H_

#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>

#include "capi/handle.h"
#include "include/rankforge/rankforge.h"
#include "runtime/threads/executor.h"

namespace rankforge::capi {

class Context {
 public:
  // Without `host`: threads of its own.
  Context(size_t threads, const std::optional<HostParallelFor>& host);

  size_t threads() const { return executor_->threads(); }

  // Calls body(executor). Several threads may: a team serves one of them, and
  // the others run alone. The other executors have no state.
  template <class Body>
  void WithExecutor(const Body& body) const {
    if (!is_team_) return body(*executor_);
    if (busy_.test_and_set(std::memory_order_acquire)) return body(*alone_);
    struct Release {
      ~Release() { busy.clear(std::memory_order_release); }
      std::atomic_flag& busy;
    } const release{busy_};
    body(*executor_);
  }

 private:
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<Executor> alone_;
  bool is_team_;
  mutable std::atomic_flag busy_;
};

}  // namespace rankforge::capi

// NOLINTNEXTLINE(readability-identifier-naming): a name of the C header
struct rankforge_context
    : rankforge::capi::HandleOf<rankforge::capi::Context, 1> {};

namespace rankforge::capi {
using ContextPool = HandlePool<rankforge_context>;
}  // namespace rankforge::capi

#endif  // RANKFORGE_CAPI_CONTEXT_H_
