// Handles: slots that outlive their objects, so that a handle can be asked
// whether it is still one.
#ifndef RANKFORGE_CAPI_HANDLE_H_
#define RANKFORGE_CAPI_HANDLE_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>

#include "capi/error.h"

namespace rankforge::capi {

// What every handle begins with. `kind` is 0 after the object was destroyed.
struct Slot {
  std::atomic<uint32_t> kind{0};
};

// A handle of objects of one type; the types of rankforge.h derive from it.
template <class T, uint32_t number>
struct HandleOf : Slot {
  using Object = T;
  static constexpr uint32_t kKind = 0x72660000u + number;

  std::shared_ptr<const T> object;
  HandleOf* next_free = nullptr;
};

// All handles of one type.
template <class Handle>
class HandlePool {
 public:
  using Object = typename Handle::Object;

  static Handle* Make(std::shared_ptr<const Object> object) {
    HandlePool& pool = Get();
    const std::lock_guard lock(pool.mutex_);
    // The oldest of many free slots: a destroyed handle is recognised for long.
    const bool reuses = pool.free_ > kQuarantine;
    Handle* handle = reuses ? pool.oldest_free_ : &pool.slots_->emplace_back();
    if (reuses) {
      pool.oldest_free_ = static_cast<Handle*>(handle->next_free);
      --pool.free_;
    }
    handle->object = std::move(object);
    handle->kind.store(Handle::kKind, std::memory_order_release);
    ++pool.live_;
    return handle;
  }

  static const std::shared_ptr<const Object>& Of(const Handle* handle,
                                                 const char* name) {
    if (handle == nullptr) {
      throw Error(RANKFORGE_ERROR_HANDLE, fmt::format("{}: is null", name));
    }
    const uint32_t kind =
        static_cast<const Slot*>(handle)->kind.load(std::memory_order_acquire);
    if (kind != Handle::kKind) {
      throw Error(RANKFORGE_ERROR_HANDLE,
                  fmt::format("{}: {}", name,
                              kind == 0 ? "was destroyed"
                                        : "is a handle of another kind"));
    }
    return handle->object;
  }

  static void Destroy(Handle* handle, const char* name) {
    if (handle == nullptr) return;
    static_cast<void>(Of(handle, name));
    HandlePool& pool = Get();
    std::shared_ptr<const Object> object;  // destroyed outside the lock
    const std::lock_guard lock(pool.mutex_);
    uint32_t kind = Handle::kKind;
    if (!handle->kind.compare_exchange_strong(kind, 0)) return;
    object = std::move(handle->object);
    handle->next_free = nullptr;
    if (pool.free_++ == 0) {
      pool.oldest_free_ = handle;
    } else {
      pool.newest_free_->next_free = handle;
    }
    pool.newest_free_ = handle;
    --pool.live_;
  }

 private:
  static constexpr size_t kQuarantine = 64;

  static HandlePool& Get() {
    static HandlePool pool;
    return pool;
  }
  HandlePool() : slots_(std::make_unique<std::deque<Handle>>()) {}
  // Handles that are left may be in use by threads that outlive main: they
  // stay.
  ~HandlePool() {
    if (live_ > 0) static_cast<void>(slots_.release());
  }

  std::mutex mutex_;
  std::unique_ptr<std::deque<Handle>> slots_;
  Handle* oldest_free_ = nullptr;
  Handle* newest_free_ = nullptr;
  size_t free_ = 0;
  size_t live_ = 0;
};

}  // namespace rankforge::capi

#endif  // RANKFORGE_CAPI_HANDLE_H_
