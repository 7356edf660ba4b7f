// Independent items spread over an executor's threads.
#ifndef RANKFORGE_RUNTIME_THREADS_PARALLEL_H_
#define RANKFORGE_RUNTIME_THREADS_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <cstddef>

#include "runtime/threads/executor.h"

namespace rankforge {

// Calls function(item, worker) once for each item in [0, items). `worker`,
// below executor.threads(), names the scratch memory that the call may use. A
// worker takes the next item when it is free, so the result of an item must not
// depend on the worker.
template <class F>
void ParallelFor(Executor& executor, size_t items, F&& function) {
  const size_t workers = std::min(items, executor.threads());
  std::atomic<size_t> next{0};
  const auto work = [&](size_t worker) {
    for (size_t item = next.fetch_add(1); item < items;
         item = next.fetch_add(1)) {
      function(item, worker);
    }
  };
  if (workers == 1) {
    work(0);
  } else {
    executor.Run(workers, work);
  }
}

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_THREADS_PARALLEL_H_
