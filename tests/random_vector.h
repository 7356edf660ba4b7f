// Input for tests.
#ifndef RANKFORGE_TESTS_RANDOM_VECTOR_H_
#define RANKFORGE_TESTS_RANDOM_VECTOR_H_

#include <cstddef>
#include <random>
#include <vector>

namespace rankforge {

// (n,) normal with standard deviation `scale`, the same for the same seed.
inline std::vector<float> RandomVector(size_t n, unsigned seed,
                                       float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

}  // namespace rankforge

#endif  // RANKFORGE_TESTS_RANDOM_VECTOR_H_
