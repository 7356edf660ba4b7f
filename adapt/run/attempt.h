// One attempt at an adapter: its blocks, one after the other.
#ifndef RANKFORGE_ADAPT_RUN_ATTEMPT_H_
#define RANKFORGE_ADAPT_RUN_ATTEMPT_H_

#include <cstddef>
#include <optional>
#include <string>

#include "adapt/calibrate/calibration.h"
#include "adapt/run/method.h"
#include "base/status.h"
#include "runtime/model/format/adapter.h"

namespace rankforge {

// Masked layers change what later layers read, and so how much their thresholds
// keep. Where that moves the total by more than a tolerance, all blocks are
// planned again: this many attempts at most.
inline constexpr size_t kAttempts = 3;

// All that it knows between two blocks is saved.
class Attempt {
 public:
  Attempt(const AdaptRun& run, const Method& method)
      : run_(run), method_(method) {}

  // Goes on from the state, or begins the first attempt.
  Status Restore(const std::string& checkpoint_hash, Adapter& adapter);
  Status Begin(size_t number, double planned);
  // Makes all blocks that are not done yet.
  Status Run(Planner& planner, Adapter& adapter);

  // linear_flops_ratio of the blocks so far, on the calibration tokens.
  double Ratio() const;
  size_t number() const { return number_; }
  double planned() const { return planned_; }

 private:
  void Continue(std::optional<Calibration>& calibration, Matrix<float> hidden,
                size_t layer);
  bool Fits(const std::optional<Calibration>& calibration) const;
  double BlockWork(const Planner& planner, size_t layer) const;
  Status RunBlock(Planner& planner, Adapter& adapter);
  Status RunAdapted(size_t layer, const Adapter& block);
  Status Save() const;

  const AdaptRun& run_;
  const Method& method_;
  size_t number_ = 1;
  double planned_ = 1;
  double macs_ = 0;  // of the blocks so far
  std::optional<Calibration> calibration_;
  std::optional<Calibration> adapted_;
};

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_RUN_ATTEMPT_H_
