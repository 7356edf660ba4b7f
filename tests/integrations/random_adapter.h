// Adapters for tests: the names of the model runtime and of the C library's C++
// header do not meet in one file.
#ifndef RANKFORGE_TESTS_INTEGRATIONS_RANDOM_ADAPTER_H_
#define RANKFORGE_TESTS_INTEGRATIONS_RANDOM_ADAPTER_H_

#include <string>

namespace rankforge {

enum class RandomAdapter {
  // Rank adapters for q, k, v and for gate and up, thresholds for the inputs of
  // o and down.
  kRanksAndMasks,
  kGates,   // thresholds over neurons alone
  kBiases,  // as kRanksAndMasks, and what is learned with masks: biases
};

// Writes an adapter of random numbers for the model in `gguf`. Empty, or what
// went wrong.
std::string WriteRandomAdapter(const std::string& gguf, RandomAdapter kind,
                               const std::string& path);

}  // namespace rankforge

#endif  // RANKFORGE_TESTS_INTEGRATIONS_RANDOM_ADAPTER_H_
