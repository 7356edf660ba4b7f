// Measures a planner as a whole model: adapts all blocks on a part of the
// calibration sample and compares predictions on tokens beside that part with
// the dense model's.
#ifndef RANKFORGE_ADAPT_METHODS_PLAN_JUDGE_H_
#define RANKFORGE_ADAPT_METHODS_PLAN_JUDGE_H_

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "adapt/calibrate/loss_gradient.h"
#include "adapt/calibrate/probe.h"
#include "adapt/run/method.h"
#include "base/status.h"

namespace rankforge {

// Which tokens of a sample.
struct JudgeTokens {
  size_t fit = 0;   // the first ones: forms are fitted to them
  size_t held = 0;  // after the fitted ones: divergences are measured on them

  // As many as take at most a few times 1e12 multiply-adds per plan.
  static JudgeTokens Of(const ModelConfig& config, size_t window,
                        size_t sample);
};

// How many tokens at the end of the sample are not seen by the bases in which
// plans hold the residual stream: those that plans are judged on, and those on
// which thresholds are settled at last, up to 8192. Bases look more compact on
// tokens that they were made from, where masks keep less.
size_t UnseenTokens(const AdaptRun& run);

// The multiply-adds of judging a plan and finding its effects.
double MacsPerPlan(const ModelConfig& config, const JudgeTokens& tokens);

struct Judgement {
  double divergence = 0;  // mean Kullback-Leibler divergence, nats per token
  double ratio = 1;       // linear multiply-adds, relative to the dense model
};

class PlanJudge {
 public:
  // `run` must outlive the judge. No block is packed between its calls.
  static Result<PlanJudge> Create(const AdaptRun& run,
                                  const JudgeTokens& tokens);

  // `planner` has been prepared.
  Result<Judgement> Judge(Planner& planner);

  // What each projection's error adds to the divergence of the plan judged
  // last, by block. With the divergence D(e) = e^T H e / 2 of the errors e of
  // all projections, that of projection s is e_s^T (H e)_s / 2, and all add up
  // to D. H e is the gradient at the adapted model, so that errors that amplify
  // or cancel each other count as they do. The plan has choices, and `rotation`
  // is that of its planner (may be null).
  Result<std::vector<SiteEffects>> Effects(Rotation* rotation);

 private:
  PlanJudge(const AdaptRun& run, const JudgeTokens& tokens, Probe probe)
      : run_(&run),
        tokens_(tokens),
        identity_(run.checkpoint.Identity()),
        probe_(std::move(probe)) {}

  const AdaptRun* run_;
  JudgeTokens tokens_;
  std::string identity_;  // of the checkpoint
  Probe probe_;
  // Of the plan judged last: what each block reads, and the final norm.
  std::vector<Matrix<float>> hidden_;
};

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_METHODS_PLAN_JUDGE_H_
