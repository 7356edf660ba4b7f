// What the tests of plans in several steps share.
#ifndef RANKFORGE_TESTS_RUNTIME_LAYER_H_
#define RANKFORGE_TESTS_RUNTIME_LAYER_H_

#include <memory>
#include <vector>

#include "runtime/plan/plan.h"
#include "runtime/threads/executor.h"
#include "tests/random_vector.h"
#include "tests/runtime/host_threads.h"

namespace rankforge {

// A matrix packed for its operation, and the default plan for `threads`.
struct Layer {
  PackedMatrix weights;
  GemvPlan plan;
};
inline std::unique_ptr<Layer> MakeLayer(Operation operation, size_t rows,
                                        size_t cols, unsigned seed,
                                        size_t threads) {
  const std::vector<float> w = RandomVector(rows * cols, seed);
  const SourceMatrix source{w.data(), SourceMatrix::Type::kF32, rows, cols,
                            false};
  const Problem problem{operation, rows, cols,   WeightType::kBf16,
                        1,         1,    threads};
  Choice choice = DefaultChoice(problem);
  choice.threads = threads;
  auto layer = std::make_unique<Layer>();
  layer->weights =
      PackedMatrix::Pack({&source, 1}, problem.type, choice.layout).value();
  layer->plan = GemvPlan::Bind(layer->weights, problem, choice);
  return layer;
}

// Serial, the loop of a host program, and teams of threads.
inline std::vector<std::unique_ptr<Executor>> Executors() {
  std::vector<std::unique_ptr<Executor>> executors;
  executors.push_back(MakeSerialExecutor());
  executors.push_back(MakeThreadsOfHost(2));
  for (const size_t threads : {1, 2, 3}) {
    executors.push_back(MakeTeamExecutor(threads));
  }
  return executors;
}

}  // namespace rankforge

#endif  // RANKFORGE_TESTS_RUNTIME_LAYER_H_
