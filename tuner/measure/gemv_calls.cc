#include "tuner/measure/gemv_calls.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "tuner/measure/masks.h"

namespace rankforge {
namespace {

float ReadAll(const float* data, size_t count) {
  float sum = 0;
  for (size_t i = 0; i < count; ++i) sum += data[i];
  return sum;
}

}  // namespace

GemvCalls::GemvCalls(const Workload& workload, uint64_t seed)
    : workload_(workload),
      problem_(workload.problem),
      random_(seed),
      x_(problem_.cols),
      rounded_(problem_.cols) {
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (float& x : x_) x = uniform(random_);
}

Status GemvCalls::AddLayouts(const SearchSpace& space) {
  for (const Candidate& candidate : space.candidates) {
    if (matrices_.count(candidate.layout) > 0) continue;
    RANKFORGE_ASSIGN_OR_RETURN(
        PackedMatrix matrix,
        PackedMatrix::Zero(problem_.rows, problem_.cols, problem_.type,
                           candidate.layout));
    matrices_.emplace(candidate.layout, std::move(matrix));
  }
  return {};
}

void GemvCalls::DrawMask(double density, MaskSet* masks) {
  if (problem_.operation == Operation::kDense) {
    masks->views.emplace_back();
    return;
  }
  const bool of_columns = problem_.operation == Operation::kColumnMask;
  const size_t count = of_columns ? problem_.cols : problem_.rows;
  const size_t groups =
      (count + problem_.granularity - 1) / problem_.granularity;
  const auto kept =
      static_cast<size_t>(std::lround(density * static_cast<double>(groups)));
  const MaskModel model = {workload_.keep_frequency, workload_.mask_structure,
                           workload_.trace};
  const std::vector<uint32_t> index =
      rankforge::DrawMask(model, groups, problem_.granularity, kept, random_);
  masks->memory.push_back(std::make_unique<MaskScratch>(count));
  masks->views.push_back(MaskFromIndex(
      index.data(), index.size(), of_columns ? x_.data() : nullptr, count,
      problem_.granularity, masks->memory.back()->storage()));
}

GemvPlan GemvCalls::PlanFor(const Candidate& candidate) const {
  return GemvPlan::Bind(
      matrices_.at(candidate.layout), problem_,
      ChoiceOf(*candidate.kernel, candidate.layout, candidate.threads));
}

GemvCall GemvCalls::CallOf(const GemvPlan& plan, const MaskView& mask,
                           const std::byte* weights, float* y) {
  const GemvOutput output{.y = y};
  GemvCall call;
  switch (problem_.operation) {
    case Operation::kDense:
      call = plan.Dense(x_.data(), output, {}, &rounded_);
      break;
    case Operation::kRowMask:
      call = plan.RowMask(x_.data(), mask, output, {}, &rounded_);
      break;
    case Operation::kColumnMask:
      call = plan.ColumnMask(mask, {.y = y, .partial = sums_.For(plan)});
      break;
  }
  call.args.w = weights;
  if (call.args.run_scales != nullptr) {
    const auto* scales =
        reinterpret_cast<const std::byte*>(call.args.run_scales);
    call.args.run_scales = reinterpret_cast<const float*>(
        weights + (scales - plan.weights().data()));
  }
  return call;
}

void GemvCalls::ReadInputsOf(const GemvCall& call) const {
  const MaskView& mask = call.args.mask;
  volatile float sink = 0;
  if (call.args.x != nullptr) sink = ReadAll(call.args.x, problem_.cols);
  if (mask.zeroed != nullptr) sink = ReadAll(mask.zeroed, problem_.cols);
  if (mask.value != nullptr) {
    sink = ReadAll(mask.value, mask.kept * mask.granularity);
  }
  for (size_t i = 0; i < mask.kept; ++i) {
    sink = static_cast<float>(mask.index[i]);
  }
  static_cast<void>(sink);
}

void GemvCalls::RoundInputOf(const GemvCall& call, Layout layout) {
  const RoundedInput& rounded = call.args.rounded;
  if (rounded.integers != nullptr || rounded.pairs != nullptr) {
    RoundInput(x_.data(), problem_.cols, problem_.type, layout,
               rounded_.storage());
  }
}

}  // namespace rankforge
