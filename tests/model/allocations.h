// Counts what the whole test program allocates.
#ifndef RANKFORGE_TESTS_MODEL_ALLOCATIONS_H_
#define RANKFORGE_TESTS_MODEL_ALLOCATIONS_H_

#include <cstddef>

namespace rankforge {

// Calls of operator new so far, on any thread.
size_t Allocations();

}  // namespace rankforge

#endif  // RANKFORGE_TESTS_MODEL_ALLOCATIONS_H_
