// The threads of an OpenMP library that somebody else has loaded.
#ifndef RANKFORGE_PYTHON_SRC_OPENMP_THREADS_H_
#define RANKFORGE_PYTHON_SRC_OPENMP_THREADS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "include/rankforge/rankforge.h"

namespace rankforge {

// GNU's OpenMP library (libgomp), which PyTorch brings: its threads wait busily
// for milliseconds after an operation of PyTorch. Threads of ours on the same
// CPUs would wait for them: SmolLM2 in Transformers takes 150 to 160 ms per
// token then, on two CPUs of a Xeon, where one thread takes 46.
class OpenMpThreads {
 public:
  // `threads` of them, the caller's among them; 0: as many as OpenMP uses. Kept
  // until the process ends, because plans outlive contexts. Throws BadArgument
  // if no such library is loaded.
  static const OpenMpThreads& Of(uint32_t threads);

  uint32_t threads() const { return threads_; }

  // rankforge_parallel_for of a context; `host` is an OpenMpThreads. Where
  // another thread's run has the threads, and in a child of fork, which has
  // none, the caller does all items.
  static void Run(void* host, size_t items, rankforge_body body,
                  void* body_context);

 private:
  OpenMpThreads();

  // GOMP_parallel(body, its argument, threads, flags) and functions of OpenMP.
  void (*parallel_)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  int (*thread_)() = nullptr;
  int (*team_)() = nullptr;
  int (*most_threads_)() = nullptr;
  // Of every run: a team of another size ends threads or starts new ones.
  uint32_t threads_ = 1;
  mutable std::atomic<bool> busy_ = false;
};

}  // namespace rankforge

#endif  // RANKFORGE_PYTHON_SRC_OPENMP_THREADS_H_
