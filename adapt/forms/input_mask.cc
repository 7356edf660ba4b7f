#include "adapt/forms/input_mask.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <utility>

#include "adapt/math/magnitude_threshold.h"
#include "adapt/math/tiles.h"
#include "kernels/mask/mask.h"

namespace rankforge {

std::vector<float> ColumnNorms(const Matrix<float>& w) {
  std::vector<double> sums(w.cols);
  for (size_t i = 0; i < w.rows; ++i) {
    for (size_t j = 0; j < w.cols; ++j) {
      sums[j] += static_cast<double>(w.row(i)[j]) * w.row(i)[j];
    }
  }
  std::vector<float> norms;
  for (const double sum : sums) {
    norms.push_back(static_cast<float>(std::sqrt(sum)));
  }
  return norms;
}

std::vector<float> Importance(const Matrix<float>& x,
                              const std::vector<float>& scales,
                              Executor& executor) {
  std::vector<float> importance(x.values.size());
  ForTiles(executor, x.rows, [&](size_t begin, size_t count, size_t, size_t) {
    for (size_t t = begin; t < begin + count; ++t) {
      const float* from = x.row(t);
      float* to = importance.data() + t * x.cols;
      for (size_t j = 0; j < x.cols; ++j) to[j] = from[j] * scales[j];
    }
  });
  return importance;
}

float ShareThreshold(const std::vector<float>& values, double keep,
                     Executor& executor) {
  const double count = keep * static_cast<double>(values.size());
  return MagnitudeThreshold(values, static_cast<size_t>(count), executor);
}

std::vector<float> FoldScales(float t, const std::vector<float>& scales) {
  std::vector<float> tau;
  for (const float scale : scales) {
    // A column of zeros adds nothing, whatever its input.
    tau.push_back(scale > 0 ? t / scale
                            : std::numeric_limits<float>::infinity());
  }
  return tau;
}

std::vector<float> ScoreScales(InputScore score, const Matrix<float>& w) {
  return score == InputScore::kWeighted ? ColumnNorms(w)
                                        : std::vector<float>(w.cols, 1.0f);
}

double DroppedEnergy(const Matrix<float>& decisive, const Matrix<float>& x,
                     const Matrix<float>& w, const std::vector<float>* tau,
                     size_t tokens, Executor& executor) {
  tokens = std::min(tokens, x.rows);
  std::vector<double> energy(TokenTiles(tokens));
  ForTiles(executor, tokens,
           [&](size_t begin, size_t count, size_t tile, size_t) {
             Matrix<float> left(count, w.cols);
             std::copy_n(x.row(begin), count * w.cols, left.values.begin());
             for (size_t t = 0; tau != nullptr && t < count; ++t) {
               const float* const v = decisive.row(begin + t);
               for (size_t j = 0; j < w.cols; ++j) {
                 if (Keeps(v[j], (*tau)[j])) left.row(t)[j] = 0;
               }
             }
             energy[tile] = SquaredNorm(OutputOf(w, left));
           });
  return std::accumulate(energy.begin(), energy.end(), 0.0);
}

void RecordKept(const Matrix<float>& decisive, InputMask& mask,
                Executor& executor) {
  std::vector<uint32_t> by_token(decisive.rows);
  std::vector<std::vector<uint32_t>> by_input(
      executor.threads(), std::vector<uint32_t>(decisive.cols));
  ForTiles(executor, decisive.rows,
           [&](size_t begin, size_t count, size_t, size_t worker) {
             for (size_t t = begin; t < begin + count; ++t) {
               for (size_t j = 0; j < decisive.cols; ++j) {
                 if (!Keeps(decisive.row(t)[j], mask.tau[j])) continue;
                 ++by_input[worker][j];
                 ++by_token[t];
               }
             }
           });
  for (size_t worker = 1; worker < by_input.size(); ++worker) {
    for (size_t j = 0; j < decisive.cols; ++j) {
      by_input[0][j] += by_input[worker][j];
    }
  }
  KeepStatistics statistics = SummarizeKept(by_input[0], std::move(by_token));
  mask.keep_frequency = std::move(statistics.frequency);
  mask.density = statistics.density;
  mask.density_quantiles = std::move(statistics.density_quantiles);
}

InputMask MakeInputMask(const std::string& module, const Matrix<float>& x,
                        const Matrix<float>& w, InputScore score, double keep,
                        size_t error_tokens, Executor& executor) {
  return MaskBy(x, ScoreScales(score, w), module, x, w, keep, error_tokens,
                executor);
}

InputMask MaskBy(const Matrix<float>& decisive,
                 const std::vector<float>& scales, const std::string& module,
                 const Matrix<float>& x, const Matrix<float>& w, double keep,
                 size_t error_tokens, Executor& executor) {
  InputMask mask;
  mask.module = module;
  mask.cols = w.cols;
  mask.tau = FoldScales(
      ShareThreshold(Importance(decisive, scales, executor), keep, executor),
      scales);
  RecordKept(decisive, mask, executor);
  const double total =
      DroppedEnergy(decisive, x, w, nullptr, error_tokens, executor);
  mask.error = DroppedEnergy(decisive, x, w, &mask.tau, error_tokens, executor);
  if (total > 0) mask.error /= total;
  return mask;
}

}  // namespace rankforge
