#include "base/page_buffer.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

namespace rankforge {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kPage = 4096;

size_t Whole(size_t bytes, size_t page) {
  return (bytes + page - 1) / page * page;
}

}  // namespace

PageBuffer::PageBuffer(size_t bytes) {
  if (bytes == 0) return;
  // Whole huge pages, so that the tail of a large matrix gets one too.
  const size_t mapped = Whole(bytes, bytes >= kHugePage ? kHugePage : kPage);
  // One page more than needed, to align the start; the ends go back.
  const size_t slack = bytes >= kHugePage ? kHugePage : 0;
  void* address = mmap(nullptr, mapped + slack, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) throw std::bad_alloc();
  auto* begin = static_cast<std::byte*>(address);
  if (slack != 0) {
    const size_t position = reinterpret_cast<uintptr_t>(begin) % kHugePage;
    const size_t front = position == 0 ? 0 : kHugePage - position;
    if (front != 0) munmap(begin, front);
    munmap(begin + front + mapped, slack - front);
    begin += front;
    // Systems without transparent huge pages refuse: reading is slower there.
    static_cast<void>(madvise(begin, mapped, MADV_HUGEPAGE));
  }
  mapping_ = Mapping(begin, {mapped});
}

}  // namespace rankforge
