#include "runtime/model/forward/norm.h"

#include <cmath>
#include <numeric>

#include "kernels/layer/elementwise.h"

namespace rankforge {

Result<Norm> Norm::Load(const NormSpec& spec, const ModelConfig& config,
                        const WeightSource& source) {
  Norm norm;
  norm.kind_ = config.norm;
  norm.epsilon_ = config.norm_epsilon;
  RANKFORGE_ASSIGN_OR_RETURN(norm.weight_,
                             source.Vector(spec.weight, config.hidden));
  for (float& weight : norm.weight_) weight += config.norm_offset;
  if (!spec.bias.empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(norm.bias_,
                               source.Vector(spec.bias, config.hidden));
  }
  return norm;
}

void Norm::Run(const float* x, float* out) const {
  const size_t n = weight_.size();
  if (kind_ == NormKind::kLayer) {
    // In double, one after the other: 2 us for 2048 values, while a block of
    // that width reads its weights in milliseconds.
    const auto mean = static_cast<float>(std::accumulate(x, x + n, 0.0) /
                                         static_cast<double>(n));
    for (size_t i = 0; i < n; ++i) out[i] = x[i] - mean;
    x = out;
  }
  RmsNorm(x, weight_.data(), n, epsilon_, out);
  if (!bias_.empty()) AddInPlace(bias_.data(), n, out);
}

void Norm::Backward(const float* x, const float* dy, float* dx) const {
  const size_t n = weight_.size();
  const auto count = static_cast<double>(n);
  const double mean =
      kind_ == NormKind::kLayer ? std::accumulate(x, x + n, 0.0) / count : 0;
  double square = 0;
  for (size_t i = 0; i < n; ++i) square += (x[i] - mean) * (x[i] - mean);
  const double inverse =
      1 / std::sqrt(square / count + static_cast<double>(epsilon_));
  // With v = (x - mean) * inverse and g = dy * weight:
  // dx = (g - v mean(g v) - mean(g)) * inverse, the last where x is centred.
  double sum = 0, along = 0;
  for (size_t i = 0; i < n; ++i) {
    const double g = static_cast<double>(dy[i]) * weight_[i];
    sum += g / count;
    along += g * (x[i] - mean) * inverse / count;
  }
  if (kind_ != NormKind::kLayer) sum = 0;
  for (size_t i = 0; i < n; ++i) {
    const double g = static_cast<double>(dy[i]) * weight_[i];
    const double v = (x[i] - mean) * inverse;
    dx[i] = static_cast<float>((g - v * along - sum) * inverse);
  }
}

}  // namespace rankforge
