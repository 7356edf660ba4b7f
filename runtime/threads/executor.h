// Who runs the parts of a plan. Results never depend on it: a plan cuts its
// outputs into parts, and every output belongs to one part.
#ifndef RANKFORGE_RUNTIME_THREADS_EXECUTOR_H_
#define RANKFORGE_RUNTIME_THREADS_EXECUTOR_H_

#include <cstddef>
#include <memory>
#include <string_view>
#include <type_traits>

namespace rankforge {

// A non-owning reference to a callable `void(size_t part)`.
class PartFunction {
 public:
  template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, PartFunction>)
      PartFunction(F&& function)  // NOLINT: implicit on purpose
      : object_(const_cast<void*>(static_cast<const void*>(&function))),
        call_([](void* object, size_t part) {
          (*static_cast<std::remove_reference_t<F>*>(object))(part);
        }) {}
  void operator()(size_t part) const { call_(object_, part); }

 private:
  void* object_;
  void (*call_)(void*, size_t);
};

class Executor {
 public:
  virtual ~Executor() = default;
  // How many parts may run at the same time.
  virtual size_t threads() const = 0;
  // Calls function(part) for each part in [0, parts), each once, in any order
  // and on any thread, and returns when all are done. Not re-entrant. If parts
  // throw, the first exception is thrown when no part runs any more; some parts
  // may not have run, and the executor serves the next call.
  virtual void Run(size_t parts, PartFunction function) = 0;
  // Calls function(member) for each member in [0, threads()) and returns when
  // all are done. All members run at the same time, so that they may wait for
  // each other. An executor that cannot promise this calls nothing and returns
  // false. A member that throws ends the others at their next TeamParts; then
  // the exception is thrown as Run does.
  virtual bool RunTeam(PartFunction function) = 0;
  // What Run does, inside RunTeam: the members share the parts. All of them
  // call it, in the same order, and each returns when all parts are done.
  virtual void TeamParts(size_t member, size_t parts,
                         PartFunction function) = 0;
  virtual std::string_view name() const = 0;
};

// Runs parts one after another on the calling thread.
std::unique_ptr<Executor> MakeSerialExecutor();
// The parallel loop of a host program: calls body(context, item) once for each
// item in [0, items), on any of its threads, and returns when all are done. It
// does not promise that two items run at the same time. Run throws
// std::runtime_error if not all items were called.
struct HostParallelFor {
  void (*run)(void* host, size_t items,
              void (*body)(void* context, size_t item), void* context);
  void* host;
  size_t threads;  // how many it may use
};
// Parts run in that loop. For the C ABI, whose users bring their own threads.
std::unique_ptr<Executor> MakeHostExecutor(const HostParallelFor& host);
// A team of threads - 1 pinned helpers that spin for a bounded time and then
// sleep on a futex; hand-over costs about a microsecond. Helpers take no
// signals but faults. In a child of fork, where they are not, the caller runs
// all parts. Throws where threads cannot be started.
std::unique_ptr<Executor> MakeTeamExecutor(size_t threads);
// What measurements favour: serial for one thread, else the team.
std::unique_ptr<Executor> MakeDefaultExecutor(size_t threads);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_THREADS_EXECUTOR_H_
