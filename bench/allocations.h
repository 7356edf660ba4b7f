// Counts what the whole program allocates.
#ifndef RANKFORGE_BENCH_ALLOCATIONS_H_
#define RANKFORGE_BENCH_ALLOCATIONS_H_

#include <cstddef>

namespace rankforge {

// Calls of operator new so far, on any thread.
size_t Allocations();

}  // namespace rankforge

#endif  // RANKFORGE_BENCH_ALLOCATIONS_H_
