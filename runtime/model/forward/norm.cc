#include "runtime/model/forward/norm.h"

#include <algorithm>
#include <numeric>

#include "kernels/layer/elementwise.h"

namespace rankforge {

Result<Norm> Norm::Load(const NormSpec& spec, const ModelConfig& config,
                        const WeightSource& source) {
  Norm norm;
  norm.kind_ = config.norm;
  norm.epsilon_ = config.norm_epsilon;
  norm.size_ = spec.size;
  if (spec.weight.empty()) return norm;
  if (spec.folded) {
    norm.kind_ = NormKind::kRms;
    norm.weight_.assign(spec.size, 1.0f);
    return norm;
  }
  RANKFORGE_ASSIGN_OR_RETURN(norm.weight_,
                             source.Vector(spec.weight, spec.size));
  for (float& weight : norm.weight_) weight += config.norm_offset;
  if (!spec.bias.empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(norm.bias_, source.Vector(spec.bias, spec.size));
  }
  return norm;
}

void Norm::Run(const float* x, float* out) const {
  const size_t n = size_;
  if (!exists()) {
    if (out != x) std::copy_n(x, n, out);
    return;
  }
  if (kind_ == NormKind::kLayer) {
    // Adds in double, one value after the other. That takes 2 us for 2048
    // values, and a block of that width reads its weights in milliseconds.
    const auto mean = static_cast<float>(std::accumulate(x, x + n, 0.0) /
                                         static_cast<double>(n));
    for (size_t i = 0; i < n; ++i) out[i] = x[i] - mean;
    x = out;
  }
  RmsNorm(x, weight_.data(), n, epsilon_, out);
  if (!bias_.empty()) AddInPlace(bias_.data(), n, out);
}

}  // namespace rankforge
