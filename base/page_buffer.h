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

 private:
  Mapping mapping_;
};

}  // namespace rankforge

#endif  // RANKFORGE_BASE_PAGE_BUFFER_H_
