#include "adapt/calibrate/probe.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "adapt/calibrate/calibration.h"
#include "runtime/threads/parallel.h"

namespace rankforge {
namespace {

// log softmax, in place.
void LogSoftmax(float* logits, size_t n) {
  const float largest = *std::max_element(logits, logits + n);
  double sum = 0;
  for (size_t i = 0; i < n; ++i) {
    sum += std::exp(static_cast<double>(logits[i] - largest));
  }
  const float log_sum = largest + static_cast<float>(std::log(sum));
  for (size_t i = 0; i < n; ++i) logits[i] -= log_sum;
}

}  // namespace

Result<Probe> Probe::Start(Model& model, const Checkpoint& checkpoint,
                           size_t window, size_t layer, Matrix<float> hidden) {
  Probe probe(model, checkpoint, window);
  probe.dense_ = Matrix<float>(hidden.rows, probe.vocab_);
  std::vector<Matrix<float>> one;
  one.push_back(std::move(hidden));
  RANKFORGE_RETURN_IF_ERROR(probe.RunFrom(layer, one));
  probe.Predict(one.front(), [&](size_t begin, const Matrix<float>& logs) {
    std::copy(logs.values.begin(), logs.values.end(), probe.dense_.row(begin));
  });
  return probe;
}

Result<std::vector<double>> Probe::Divergences(
    size_t layer, std::vector<Matrix<float>>& hidden) const {
  RANKFORGE_RETURN_IF_ERROR(RunFrom(layer, hidden));
  std::vector<double> divergences;
  for (const Matrix<float>& h : hidden) divergences.push_back(Divergence(h));
  return divergences;
}

Status Probe::RunFrom(size_t layer, std::vector<Matrix<float>>& hidden) const {
  for (; layer < model_->config().layers; ++layer) {
    RANKFORGE_RETURN_IF_ERROR(model_->AdaptBlock(layer, *checkpoint_, nullptr));
    for (Matrix<float>& h : hidden) RunBlock(*model_, layer, window_, h);
    model_->DropBlock(layer);
    checkpoint_->ReleasePages();
  }
  return {};
}

template <class Use>
void Probe::Predict(const Matrix<float>& hidden, Use use) const {
  Matrix<float> logs(window_, vocab_);
  for (size_t begin = 0; begin < hidden.rows; begin += window_) {
    model_->FinalLogits(hidden.row(begin), window_, logs.values.data());
    ParallelFor(model_->executor(), window_,
                [&](size_t t, size_t) { LogSoftmax(logs.row(t), vocab_); });
    use(begin, logs);
  }
}

double Probe::Divergence(const Matrix<float>& hidden) const {
  std::vector<double> sums(hidden.rows);
  Predict(hidden, [&](size_t begin, const Matrix<float>& logs) {
    ParallelFor(model_->executor(), logs.rows, [&](size_t t, size_t) {
      const float* const p = dense_.row(begin + t);
      const float* const q = logs.row(t);
      for (size_t i = 0; i < vocab_; ++i) {
        sums[begin + t] +=
            std::exp(static_cast<double>(p[i])) *
            (static_cast<double>(p[i]) - static_cast<double>(q[i]));
      }
    });
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0) /
         static_cast<double>(sums.size());
}

}  // namespace rankforge
