// Loops that only read memory: what a kernel's bandwidth is compared with.
#ifndef RANKFORGE_KERNELS_GEMV_READ_LOOPS_H_
#define RANKFORGE_KERNELS_GEMV_READ_LOOPS_H_

#include <cstddef>
#include <span>

namespace rankforge {

// Every loop reads all bytes of a multiple of this.
inline constexpr size_t kReadLoopBytes = size_t{64} << 10;

// Reads `bytes` bytes at 64-byte aligned `data` and returns a value that
// depends on them.
struct ReadLoop {
  const char* name;  // for example "runs4_prefetch"
  float (*fn)(const void* data, size_t bytes);
};

// The loops of the best target: 1, 2, 4 and 8 streams far apart without
// prefetch, and as many side by side with prefetch.
std::span<const ReadLoop> ReadLoops();

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_GEMV_READ_LOOPS_H_
