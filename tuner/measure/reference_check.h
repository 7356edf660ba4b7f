// Whether a candidate computes what the scalar reference computes: correctness
// before speed.
#ifndef RANKFORGE_TUNER_MEASURE_REFERENCE_CHECK_H_
#define RANKFORGE_TUNER_MEASURE_REFERENCE_CHECK_H_

#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "runtime/plan/plan.h"
#include "runtime/table/problem.h"
#include "tuner/measure/gemv_calls.h"
#include "tuner/search/space.h"

namespace rankforge {

class ReferenceCheck {
 public:
  // On these weights and masks; the arguments must outlive the check.
  ReferenceCheck(const Problem& problem, const std::byte* weights,
                 const MaskSet& masks, GemvCalls* calls)
      : problem_(problem), weights_(weights), masks_(masks), calls_(calls) {}

  // Empty if the outputs of `plan` equal the reference's (to the bit unless the
  // candidate reassociates) and it writes nothing else; otherwise what is
  // wrong. Checks some of the outputs of a large matrix, first and last
  // included: the reference is a hundred times slower than what it checks.
  std::string WhyWrong(const Candidate& candidate, const GemvPlan& plan);

 private:
  // Outputs of some parts of a call, in a frame that shows stray writes.
  std::vector<float> RunSomeParts(const GemvPlan& plan, const MaskView& mask);

  const Problem& problem_;
  const std::byte* weights_;
  const MaskSet& masks_;
  GemvCalls* calls_;
  // What the reference gives, by layout and mask.
  std::map<std::pair<Layout, size_t>, std::vector<float>> expected_;
};

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_MEASURE_REFERENCE_CHECK_H_
