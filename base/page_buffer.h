// Memory for what is streamed: weights, caches of keys and values.
#ifndef RANKFORGE_BASE_PAGE_BUFFER_H_
#define RANKFORGE_BASE_PAGE_BUFFER_H_

#include <cstddef>

#include "base/mapping.h"

namespace rankforge {

// Memory from mmap on 2 MiB pages where the kernel grants them, zeroed.
class PageBuffer {
 public:
  PageBuffer() = default;
  // Throws std::bad_alloc when the memory is not there.
  explicit PageBuffer(size_t bytes);

  std::byte* data() { return mapping_.get(); }
  const std::byte* data() const { return mapping_.get(); }
  size_t size() const { return BytesOf(mapping_).size(); }

  // Gives the whole small pages in [begin, end) back to the system, and returns
  // their bytes. They read as zeros, and take memory again when written. Of a
  // 2 MiB page that stays in part, Linux takes the rest when memory is short.
  size_t Release(size_t begin, size_t end);

 private:
  Mapping mapping_;
};

}  // namespace rankforge

#endif  // RANKFORGE_BASE_PAGE_BUFFER_H_
