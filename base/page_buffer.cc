#include "base/page_buffer.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <mutex>
#include <new>

namespace rankforge {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kPage = 4096;
// What smaller buffers share. Unused pages of it take no memory.
constexpr size_t kChunk = 4 * kHugePage;

size_t Whole(size_t bytes, size_t page) {
  return (bytes + page - 1) / page * page;
}

void Unmap(std::byte* begin, size_t bytes) {
  if (bytes != 0) munmap(begin, bytes);
}

// `bytes`, a multiple of kHugePage, that begin at one.
std::byte* MapHugePages(size_t bytes) {
  // One page more than needed, to align the start; the ends go back.
  void* address = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) throw std::bad_alloc();
  auto* const mapped = static_cast<std::byte*>(address);
  const size_t position = reinterpret_cast<uintptr_t>(mapped) % kHugePage;
  const size_t front = position == 0 ? 0 : kHugePage - position;
  Unmap(mapped, front);
  std::byte* const begin = mapped + front;
  Unmap(begin + bytes, kHugePage - front);
  // Systems without transparent huge pages refuse: reading is slower there.
  static_cast<void>(madvise(begin, bytes, MADV_HUGEPAGE));
  return begin;
}

// Parts of chunks, each of whole small pages and unmapped by its owner alone.
// The matrices of a small model have 0.2 to 1 MiB. On small pages of their own,
// each page costs a walk of page tables per token: SmolLM2 decodes in 13.8 ms
// in a virtual machine where `tune` gives its products 7 (Xeon, one thread).
class Chunks {
 public:
  // A child of fork finds the lock open, whatever other threads were doing.
  Chunks() {
    pthread_atfork([] { Instance().mutex_.lock(); },
                   [] { Instance().mutex_.unlock(); },
                   [] { Instance().mutex_.unlock(); });
  }
  // Parts that were taken stay.
  ~Chunks() { Unmap(next_, left_); }
  static Chunks& Instance() {
    static Chunks chunks;
    return chunks;
  }

  std::byte* Take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (left_ < bytes) {
      std::byte* const chunk = MapHugePages(kChunk);
      Unmap(next_, left_);
      next_ = chunk;
      left_ = kChunk;
    }
    std::byte* const taken = next_;
    next_ += bytes;
    left_ -= bytes;
    return taken;
  }

 private:
  std::mutex mutex_;
  std::byte* next_ = nullptr;
  size_t left_ = 0;
};

}  // namespace

size_t PageBuffer::Release(size_t begin, size_t end) {
  // Of 16 or 64 KiB on some CPUs.
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  begin = Whole(begin, page);
  end = end / page * page;
  if (begin >= end ||
      madvise(data() + begin, end - begin, MADV_DONTNEED) != 0) {
    return 0;
  }
  return end - begin;
}

PageBuffer::PageBuffer(size_t bytes) {
  if (bytes == 0) return;
  const bool large = bytes >= kHugePage;
  // Whole huge pages, so that the tail of a large matrix gets one too.
  const size_t mapped = Whole(bytes, large ? kHugePage : kPage);
  mapping_ = Mapping(
      large ? MapHugePages(mapped) : Chunks::Instance().Take(mapped), {mapped});
}

}  // namespace rankforge
