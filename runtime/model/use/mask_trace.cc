#include "runtime/model/use/mask_trace.h"

#include "kernels/mask/mask.h"

namespace rankforge {
namespace {

using Mask = MaskTrace::Mask;

Mask KeptBy(const MaskSpec& spec, const float* values) {
  Mask bits(MaskWords(spec.cols));
  MaskStorage storage{};
  storage.bits = bits.data();
  const ThresholdRule rule{.tau =
                               spec.tau->empty() ? nullptr : spec.tau->data()};
  MakeMask(values, spec.cols, rule, storage,
           {.index = false, .value = false, .zeroed = false});
  return bits;
}

Mask NonZero(const float* values, size_t count) {
  Mask bits(MaskWords(count));
  for (size_t i = 0; i < count; ++i) {
    if (values[i] != 0) bits[i / 64] |= uint64_t{1} << i % 64;
  }
  return bits;
}

}  // namespace

MaskTrace::MaskTrace(const ModelConfig& config, const Adapter& adapter)
    : adapter_(adapter), spec_(DescribeModel(config, &adapter)) {}

void MaskTrace::Observe(size_t layer, Site site, const float* x, size_t tokens,
                        size_t width) {
  const BlockSpec& block = spec_.blocks[layer];
  const ProjectionSpec& projection = block[site];
  const ProjectionSpec& gate_up = block[Site::kMlpInput];
  for (size_t token = 0; token < tokens; ++token, x += width) {
    if (projection.input_mask) {
      for (const ProductSpec& product : projection.direct) {
        masks_[product.layer].push_back(KeptBy(*projection.input_mask, x));
      }
    }
    AddRanks(projection, x);
    if (site == Site::kMlpHidden && gate_up.gate_mask) {
      // Values that the gate drops are zero here.
      const Mask kept = NonZero(x, width);
      masks_[gate_up.direct.back().layer].push_back(kept);
      masks_[projection.direct.front().layer].push_back(kept);
    }
  }
}

// Sums z = B x in another order than the kernels do. That moves a value across
// its threshold too rarely to matter for measurements with these masks.
void MaskTrace::AddRanks(const ProjectionSpec& projection, const float* x) {
  for (size_t i = 0; i < projection.a.size(); ++i) {
    const MaskSpec& mask = projection.rank_masks[i];
    const RankAdapter& rank = adapter_.ranks.at(mask.module);
    std::vector<float> z(rank.d);
    for (size_t r = 0; r < rank.d; ++r) {
      const float* const b = rank.b.data() + r * rank.cols;
      for (size_t j = 0; j < rank.cols; ++j) z[r] += b[j] * x[j];
    }
    masks_[projection.a[i].layer].push_back(KeptBy(mask, z.data()));
  }
}

const std::vector<Mask>& MaskTrace::Of(const std::string& layer) const {
  static const std::vector<Mask> kNone;
  const auto found = masks_.find(layer);
  return found == masks_.end() ? kNone : found->second;
}

}  // namespace rankforge
