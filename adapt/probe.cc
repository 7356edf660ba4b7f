#include "adapt/probe.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "runtime/model/parallel.h"

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

Probe::Probe(Model& model, size_t window, Matrix<float> hidden)
    : model_(&model), window_(window), vocab_(model.config().vocab) {
  dense_ = Matrix<float>(hidden.rows, vocab_);
  Run(0, std::move(hidden), [&](size_t begin, const Matrix<float>& logs) {
    std::copy(logs.values.begin(), logs.values.end(), dense_.row(begin));
  });
}

double Probe::Divergence(size_t layer, Matrix<float> hidden) const {
  std::vector<double> sums(hidden.rows);
  Run(layer, std::move(hidden), [&](size_t begin, const Matrix<float>& logs) {
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
  double sum = 0;
  for (const double s : sums) sum += s;
  return sum / static_cast<double>(sums.size());
}

template <class Use>
void Probe::Run(size_t layer, Matrix<float> hidden, Use use) const {
  KvCache cache(model_->config(), model_->options().kv_type, window_);
  Matrix<float> logs(window_, vocab_);
  for (size_t begin = 0; begin < hidden.rows; begin += window_) {
    cache.Clear();
    for (size_t l = layer; l < model_->config().layers; ++l) {
      model_->ForwardLayer(l, hidden.row(begin), window_, cache);
    }
    model_->FinalLogits(hidden.row(begin), window_, logs.values.data());
    ParallelFor(model_->executor(), window_,
                [&](size_t t, size_t) { LogSoftmax(logs.row(t), vocab_); });
    use(begin, logs);
  }
}

}  // namespace rankforge
