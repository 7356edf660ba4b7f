// Loops that only read memory: what a kernel's bandwidth is compared with.
#ifndef RANKFORGE_KERNELS_READ_LOOPS_H_
#define RANKFORGE_KERNELS_READ_LOOPS_H_

#include <cstddef>
#include <span>

namespace rankforge {

// Reads `bytes` bytes at 64-byte aligned `data` and returns a value that
// depends on them.
struct ReadLoop {
  const char* name;  // for example "streams4_prefetch"
  float (*fn)(const void* data, size_t bytes);
};

// 1, 2, 4 and 8 streams, each with and without prefetch, for the best target.
std::span<const ReadLoop> ReadLoops();

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_READ_LOOPS_H_
