// Memory that runs out below C++: malloc and mmap of the whole process, as the
// library, the standard library, fmt and hwloc call them, fail at every point
// of a plan's life. Sanitizers bring a malloc of their own, so their builds
// have capi_test alone, where operator new fails.
#include <gtest/gtest.h>
#include <rankforge/rankforge.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <string>

#include "tests/capi/c_calls.h"

// glibc's own, below the names that this program takes.
extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* memory, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void __libc_free(void* memory);
}

namespace {

// Calls until one fails; negative: none does.
std::atomic<long> calls_left{-1};
std::atomic<bool> all_after{false};  // and so do all that follow
std::atomic<bool> has_failed{false};
// What is held: blocks of malloc, bytes of mmap.
std::atomic<long> blocks{0};
std::atomic<long> mapped{0};

bool Fails() {
  if (calls_left.load() < 0) return false;
  const long left = calls_left.fetch_sub(1);
  if (left > 0) return false;
  if (all_after.load()) calls_left.store(0);
  has_failed.store(true);
  errno = ENOMEM;
  return true;
}

void* Held(void* memory) {
  if (memory != nullptr) blocks.fetch_add(1);
  return memory;
}

}  // namespace

extern "C" {

void* malloc(size_t size) noexcept {
  return Fails() ? nullptr : Held(__libc_malloc(size));
}
void* calloc(size_t count, size_t size) noexcept {
  return Fails() ? nullptr : Held(__libc_calloc(count, size));
}
void* realloc(void* memory, size_t size) noexcept {
  if (Fails()) return nullptr;
  return memory == nullptr ? Held(__libc_malloc(size))
                           : __libc_realloc(memory, size);
}
void* aligned_alloc(size_t alignment, size_t size) noexcept {
  return Fails() ? nullptr : Held(__libc_memalign(alignment, size));
}
void* memalign(size_t alignment, size_t size) noexcept {
  return aligned_alloc(alignment, size);
}
int posix_memalign(void** memory, size_t alignment, size_t size) noexcept {
  void* made = aligned_alloc(alignment, size);
  if (made == nullptr) return ENOMEM;
  *memory = made;
  return 0;
}
void free(void* memory) noexcept {
  if (memory != nullptr) blocks.fetch_sub(1);
  __libc_free(memory);
}

void* mmap(void* address, size_t bytes, int protection, int flags, int file,
           off_t offset) noexcept {
  if (Fails()) return MAP_FAILED;
  const long at =
      syscall(SYS_mmap, address, bytes, protection, flags, file, offset);
  if (at == -1) return MAP_FAILED;
  mapped.fetch_add(static_cast<long>(bytes));
  return reinterpret_cast<void*>(at);
}
int munmap(void* address, size_t bytes) noexcept {
  const auto result = static_cast<int>(syscall(SYS_munmap, address, bytes));
  if (result == 0) mapped.fetch_sub(static_cast<long>(bytes));
  return result;
}

}  // extern "C"

namespace {

class MemoryTest : public testing::TestWithParam<bool> {
 protected:
  // A life in which call `failing` fails. has_failed says whether it came.
  rankforge_status Life(long failing) {
    all_after = GetParam();
    has_failed = false;
    wrong_ = 0;
    calls_left = failing;
    const rankforge_status status = whole_life(path_.c_str(), &wrong_);
    calls_left = -1;
    return status;
  }

  const std::string path_ = testing::TempDir() + "memory_test.weights";
  int wrong_ = 0;
};

// What the message of a refused call says.
bool IsAboutMemory(rankforge_status status, const std::string& message) {
  // A thread that does not start: the system does not say why.
  return status == RANKFORGE_ERROR_ENVIRONMENT
             ? message.starts_with("threads: cannot start")
             : status == RANKFORGE_ERROR_MEMORY &&
                   message.starts_with("out of memory");
}

TEST_P(MemoryTest, EveryCallMayFail) {
  // The library keeps up to 64 destroyed handles of a kind (capi/handle.h).
  for (int i = 0; i < 80; ++i) {
    ASSERT_EQ(Life(-1), RANKFORGE_OK) << rankforge_last_error();
    ASSERT_EQ(wrong_, 0);
  }
  long refused = 0;
  for (long failing = 0;; ++failing) {
    ASSERT_LT(failing, 100000);
    // Twice: what the system keeps for the next time is no leak.
    Life(failing);
    const long held = blocks;
    const long maps = mapped;
    const rankforge_status status = Life(failing);
    ASSERT_EQ(blocks, held) << "leaked after call " << failing;
    ASSERT_EQ(mapped, maps) << "leaked after call " << failing;
    ASSERT_EQ(wrong_, 0) << "after call " << failing;
    if (!has_failed) {
      ASSERT_EQ(status, RANKFORGE_OK) << rankforge_last_error();
      break;
    }
    if (status == RANKFORGE_OK) continue;  // it did without
    ++refused;
    ASSERT_TRUE(IsAboutMemory(status, rankforge_last_error()))
        << "call " << failing << ": " << status << ": "
        << rankforge_last_error();
  }
  EXPECT_GT(refused, 20);
  std::filesystem::remove(path_);
}

INSTANTIATE_TEST_SUITE_P(, MemoryTest, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& info) {
                           return info.param ? "AllThatFollow" : "One";
                         });

}  // namespace
