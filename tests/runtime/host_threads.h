// A program that brings its own parallel_for, as users of the C ABI do.
#ifndef RANKFORGE_TESTS_RUNTIME_HOST_THREADS_H_
#define RANKFORGE_TESTS_RUNTIME_HOST_THREADS_H_

#include <atomic>
#include <cstddef>
#include <memory>
#include <thread>
#include <vector>

#include "runtime/threads/executor.h"

namespace rankforge {

// Starts threads for every call; each takes the next item when it is free. The
// threads are not guaranteed to run at the same time.
inline void ParallelForOfThreads(void* host, size_t items,
                                 void (*body)(void* context, size_t item),
                                 void* context) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t item = next++; item < items; item = next++) {
      body(context, item);
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < *static_cast<const size_t*>(host); ++i) {
    threads.emplace_back(work);
  }
  work();
  for (std::thread& thread : threads) thread.join();
}

inline std::unique_ptr<Executor> MakeThreadsOfHost(size_t threads) {
  static size_t counts[] = {0, 1, 2, 3, 4};
  return MakeHostExecutor({&ParallelForOfThreads, &counts[threads], threads});
}

}  // namespace rankforge

#endif  // RANKFORGE_TESTS_RUNTIME_HOST_THREADS_H_
