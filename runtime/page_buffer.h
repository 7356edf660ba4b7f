// Memory for what is streamed: weights, caches of keys and values.
#ifndef RANKFORGE_RUNTIME_PAGE_BUFFER_H_
#define RANKFORGE_RUNTIME_PAGE_BUFFER_H_

#include <cstddef>

namespace rankforge {

// Memory from mmap on 2 MiB pages where the kernel grants them, zeroed.
class PageBuffer {
 public:
  PageBuffer() = default;
  // Throws std::bad_alloc when the memory is not there.
  explicit PageBuffer(size_t bytes);
  ~PageBuffer();
  PageBuffer(PageBuffer&& other) noexcept;
  PageBuffer& operator=(PageBuffer&& other) noexcept;

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_PAGE_BUFFER_H_
