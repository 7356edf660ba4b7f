#include "bench/gemv_case.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <utility>

#include "meta/packing.h"
#include "runtime/table/cpu.h"
#include "tuner/measure/read_bandwidth.h"

namespace rankforge {
namespace {

size_t MaskedCount(const Problem& problem) {
  return problem.operation == Operation::kRowMask ? problem.rows : problem.cols;
}

}  // namespace

size_t ColdBytes() {
  return std::max<size_t>(size_t{256} << 20, 4 * CpuInfo::Detect().l3_bytes);
}

size_t CopiesFor(size_t bytes, bool cached) {
  return cached ? 1 : ColdBytes() / bytes + 1;
}

const char* ResidenceName(bool cached) {
  return cached ? "in cache" : "from memory";
}

Status CheckLargestShare(bool cached, double share) {
  return cached ? Status() : CheckRoofline("the largest share", share);
}

PackedMatrix RandomWeights(size_t rows, size_t cols, WeightType type,
                           Layout layout) {
  PackedMatrix matrix = PackedMatrix::Zero(rows, cols, type, layout).value();
  // Floats with exponents near 1; any integers, whose scales, which lie among
  // them, are finite without bit 6. Padding is never read as weights.
  const uint32_t kept = IsQuantized(type) ? 0xbfbfbfbf : 0x807f807f;
  const uint32_t set = IsQuantized(type) ? 0 : 0x3f003f00;
  std::mt19937_64 random(1);
  auto* words = reinterpret_cast<uint32_t*>(matrix.data());
  for (size_t i = 0; i < matrix.bytes() / 4; ++i) {
    words[i] = (static_cast<uint32_t>(random()) & kept) | set;
  }
  return matrix;
}

std::vector<PackedMatrix> CopiesOf(PackedMatrix matrix, size_t copies) {
  std::vector<PackedMatrix> all;
  all.push_back(std::move(matrix));
  while (all.size() < copies) {
    const PackedMatrix& first = all.front();
    PackedMatrix copy = PackedMatrix::Zero(first.rows(), first.cols(),
                                           first.type(), first.layout())
                            .value();
    std::memcpy(copy.data(), first.data(), copy.bytes());
    all.push_back(std::move(copy));
  }
  return all;
}

std::vector<GemvPlan> PlansOf(const KernelEntry& entry, const Problem& problem,
                              const std::vector<PackedMatrix>& matrices) {
  const Choice choice = ChoiceOf(entry, matrices[0].layout(), problem.threads);
  std::vector<GemvPlan> plans;
  for (const PackedMatrix& matrix : matrices) {
    plans.push_back(GemvPlan::Bind(matrix, problem, choice));
  }
  return plans;
}

LayerCopies::LayerCopies(const Problem& problem, const Dispatcher& dispatcher,
                         bool cached) {
  const Choice choice = dispatcher.Decide(problem).choice;
  PackedMatrix matrix = PackedMatrix::Zero(problem.rows, problem.cols,
                                           problem.type, choice.layout)
                            .value();
  std::minstd_rand random(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> run(RunWeights(matrix.run_length()));
  for (size_t i = 0; i < matrix.runs(); ++i) {
    std::generate_n(run.begin(), matrix.run_length(),
                    [&] { return uniform(random); });
    matrix.SetRun(i, run.data());
  }
  const size_t copies = CopiesFor(matrix.bytes(), cached);
  copies_ = CopiesOf(std::move(matrix), copies);
  for (const PackedMatrix& copy : copies_) {
    plans_.push_back(GemvPlan::Bind(copy, problem, choice));
  }
}

float ThresholdFor(std::vector<float> values, double share) {
  const auto count = static_cast<size_t>(
      std::llround(share * static_cast<double>(values.size())));
  if (count == 0) return std::numeric_limits<float>::infinity();
  for (float& value : values) value = std::abs(value);
  const auto smallest_kept = values.begin() + static_cast<ptrdiff_t>(count - 1);
  std::nth_element(values.begin(), smallest_kept, values.end(),
                   std::greater<>());
  return *smallest_kept;
}

double TurnNs(size_t& turn, const std::function<void(size_t)>& run) {
  using Clock = std::chrono::steady_clock;
  constexpr double kTurnNs = 8e6;
  constexpr size_t kCallsPerTurn = 5;
  run(turn++);
  std::vector<double> ns;
  for (double total = 0; total < kTurnNs || ns.size() < kCallsPerTurn;) {
    const Clock::time_point start = Clock::now();
    run(turn++);
    const std::chrono::duration<double, std::nano> time = Clock::now() - start;
    ns.push_back(time.count());
    total += time.count();
  }
  return Median(std::move(ns));
}

GemvInput::GemvInput(const Problem& problem, double density)
    : problem_(problem),
      x_(std::max(problem.rows, problem.cols)),
      scratch_(MaskedCount(problem)),
      rounded_(std::make_unique<InputScratch>(problem.cols)),
      sums_(std::make_unique<SumsScratch>()) {
  std::mt19937 random(7);
  std::uniform_real_distribution<float> uniform(0, 1);
  for (float& value : x_) value = uniform(random);
  // Uniform scores: keeping those above 1 - density keeps that share.
  const std::vector<float> tau(MaskedCount(problem),
                               static_cast<float>(1 - density));
  mask_ =
      MakeMask(x_.data(), tau.size(), {.tau = tau.data()}, scratch_.storage());
}

GemvCall GemvInput::CallOn(const GemvPlan& plan, float* y) const {
  const GemvOutput output{y, nullptr, false};
  switch (problem_.operation) {
    case Operation::kDense:
      return plan.Dense(x_.data(), output, {}, rounded_.get());
    case Operation::kRowMask:
      return plan.RowMask(x_.data(), mask_, output, {}, rounded_.get());
    case Operation::kColumnMask:
      return plan.ColumnMask(mask_, {.y = y, .partial = sums_->For(plan)});
  }
  return {};
}

double GemvInput::useful_bytes() const {
  const auto weights = static_cast<double>(problem_.rows * problem_.cols);
  const double share =
      problem_.operation == Operation::kDense
          ? 1.0
          : static_cast<double>(mask_.kept) / static_cast<double>(mask_.groups);
  return WeightBytes(problem_.type, share * weights);
}

}  // namespace rankforge
