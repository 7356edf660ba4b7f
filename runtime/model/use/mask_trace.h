// The masks that the products of an adapted model see while it runs.
#ifndef RANKFORGE_RUNTIME_MODEL_USE_MASK_TRACE_H_
#define RANKFORGE_RUNTIME_MODEL_USE_MASK_TRACE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "runtime/model/format/adapter.h"
#include "runtime/model/format/config.h"
#include "runtime/model/forward/activation_observer.h"
#include "runtime/model/weights/modules.h"

namespace rankforge {

// Observes a model of this shape that runs this adapter. The adapter must have
// its matrices loaded and must outlive the trace. DescribeModel says which
// products have masks, so that every masked product of the model gets its own.
class MaskTrace : public ActivationObserver {
 public:
  // One bit per masked channel, in MaskWords words.
  using Mask = std::vector<uint64_t>;

  MaskTrace(const ModelConfig& config, const Adapter& adapter);

  void Observe(size_t layer, Site site, const float* x, size_t tokens,
               size_t width) override;

  // One mask for each token, in order. Empty if no masked product has this
  // ProductSpec::layer.
  const std::vector<Mask>& Of(const std::string& layer) const;

 private:
  void AddRanks(const ProjectionSpec& projection, const float* x);

  const Adapter& adapter_;
  const ModelSpec spec_;
  std::map<std::string, std::vector<Mask>> masks_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_USE_MASK_TRACE_H_
