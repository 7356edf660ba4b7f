// Memory from mmap, owned.
#ifndef RANKFORGE_BASE_MAPPING_H_
#define RANKFORGE_BASE_MAPPING_H_

#include <sys/mman.h>

#include <cstddef>
#include <memory>
#include <span>

namespace rankforge {

struct Unmap {
  size_t size = 0;  // in bytes
  void operator()(std::byte* begin) const { munmap(begin, size); }
};

using Mapping = std::unique_ptr<std::byte, Unmap>;

// Empty for no mapping.
inline std::span<std::byte> BytesOf(const Mapping& mapping) {
  return {mapping.get(), mapping ? mapping.get_deleter().size : 0};
}

}  // namespace rankforge

#endif  // RANKFORGE_BASE_MAPPING_H_
