// Debug builds find runs that share scratch at the same time.
#ifndef RANKFORGE_CAPI_SCRATCH_CHECK_H_
#define RANKFORGE_CAPI_SCRATCH_CHECK_H_

#include <cstddef>

#ifndef NDEBUG
#include <mutex>
#include <vector>

#include "capi/error.h"
#endif

namespace rankforge::capi {

// Marks memory as used while it lives. Throws where a part of it is.
class ScratchInUse {
 public:
#ifdef NDEBUG
  ScratchInUse(const void*, size_t) {}
#else
  ScratchInUse(const void* begin, size_t size);
  ~ScratchInUse();
  ScratchInUse(const ScratchInUse&) = delete;
  ScratchInUse& operator=(const ScratchInUse&) = delete;

 private:
  const std::byte* begin_;
  size_t size_;
#endif
};

#ifndef NDEBUG

namespace internal {

struct UsedScratch {
  const std::byte* begin;
  size_t size;
};
inline std::mutex used_mutex;
inline std::vector<UsedScratch> used;

}  // namespace internal

inline ScratchInUse::ScratchInUse(const void* begin, size_t size)
    : begin_(static_cast<const std::byte*>(begin)), size_(size) {
  const std::lock_guard lock(internal::used_mutex);
  for (const internal::UsedScratch& other : internal::used) {
    if (begin_ < other.begin + other.size && other.begin < begin_ + size_) {
      throw ArgumentError("scratch: another run is using it");
    }
  }
  internal::used.push_back({begin_, size_});
}

inline ScratchInUse::~ScratchInUse() {
  const std::lock_guard lock(internal::used_mutex);
  std::erase_if(internal::used, [&](const internal::UsedScratch& entry) {
    return entry.begin == begin_;
  });
}

#endif  // NDEBUG

}  // namespace rankforge::capi

#endif  // RANKFORGE_CAPI_SCRATCH_CHECK_H_
