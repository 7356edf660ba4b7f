#include "python/src/openmp_threads.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <pthread.h>

#include <map>
#include <memory>
#include <mutex>
#include <new>

#include "python/src/errors.h"

namespace rankforge {
namespace {

template <class Function>
void Find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function != nullptr) return;
  throw BadArgument(fmt::format(
      "openmp: the libgomp of this process has no '{}'; leave openmp out",
      name));
}

// Whether this process is a child of one that looked for OpenMP.
std::atomic<bool> is_child = false;

void WatchForks() {
  static const int failed =
      pthread_atfork(nullptr, nullptr, [] { is_child.store(true); });
  if (failed != 0) throw std::bad_alloc();
}

}  // namespace

OpenMpThreads::OpenMpThreads() {
  WatchForks();
  // Of several under this name, the one that was loaded first.
  void* const library = dlopen("libgomp.so.1", RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) {
    throw BadArgument(
        "openmp: this process has not loaded libgomp.so.1; import what brings "
        "it (torch) first, or leave openmp out");
  }
  // The handle is kept, as the threads are.
  Find(library, "GOMP_parallel", parallel_);
  Find(library, "omp_get_thread_num", thread_);
  Find(library, "omp_get_num_threads", team_);
  Find(library, "omp_get_max_threads", most_threads_);
}

const OpenMpThreads& OpenMpThreads::Of(uint32_t threads) {
  static std::mutex mutex;
  static auto& by_threads =
      *new std::map<uint32_t, std::unique_ptr<OpenMpThreads>>;
  std::unique_ptr<OpenMpThreads> found(new OpenMpThreads());
  const uint32_t count =
      threads == 0 ? static_cast<uint32_t>(found->most_threads_()) : threads;
  found->threads_ = count;
  const std::lock_guard lock(mutex);
  return *by_threads.try_emplace(count, std::move(found)).first->second;
}

void OpenMpThreads::Run(void* host, size_t items, rankforge_body body,
                        void* body_context) {
  const auto& threads = *static_cast<const OpenMpThreads*>(host);
  // Each thread that enters OpenMP has a team of its own there.
  if (items <= 1 || threads.threads_ <= 1 || is_child.load() ||
      threads.busy_.exchange(true, std::memory_order_acquire)) {
    for (size_t item = 0; item < items; ++item) body(body_context, item);
    return;
  }
  struct Loop {
    const OpenMpThreads& threads;
    size_t items;
    rankforge_body body;
    void* body_context;
  } loop{threads, items, body, body_context};
  threads.parallel_(
      [](void* argument) {
        const Loop& loop = *static_cast<const Loop*>(argument);
        // A nested region may have fewer threads than were asked for.
        const auto step = static_cast<size_t>(loop.threads.team_());
        auto item = static_cast<size_t>(loop.threads.thread_());
        for (; item < loop.items; item += step) {
          loop.body(loop.body_context, item);
        }
      },
      &loop, threads.threads_, 0);
  threads.busy_.store(false, std::memory_order_release);
}

}  // namespace rankforge
